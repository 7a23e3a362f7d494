"""Finds the thresholds of each class of objects from what was found with the lowest ones.

A threshold leaves the other objects as they are, so frames are labelled once, and what each value
would leave is counted afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config.options.shared import class_values
from instaseg_ros.datasets import Dataset, Sample
from instaseg_ros.evaluation.matching import iou, judge, rankings
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class
from instaseg_ros.evaluation.run import begin, labelled, match_classes
from instaseg_ros.methods.class_limits import OPTIONS, SEED, pixels_of, seeds_of
from instaseg_ros.pipeline import Inferred, Pipeline
from instaseg_ros.tables import text_table

TRIED: dict[str, tuple[float, ...]] = {  # in this order
    "min_score": tuple(step / 100 for step in range(100)),
    "seed_threshold": tuple(step / 100 for step in range(50, 100, 5)),
    "min_pixels": (16, 32, 64, 128, 256, 512, 1024),
}
FOLDS = 5
DRAWS = 1000  # of the bootstrap
INTERVAL = (2.5, 97.5)  # percentiles

log = logging.getLogger(__name__)

Values = NDArray[np.float64]
Limits = dict[str, dict[str, float]]  # by name of the threshold and class


class Found(NamedTuple):
    """A frame labelled with the lowest thresholds.

    values: by name of a threshold, (P,) what it is compared with, of each of the P predictions.
    """

    counts: FrameCounts
    values: Mapping[str, Values]


class Candidates(NamedTuple):
    """The K predictions of one class over N frames.

    frame: (K,) 0..N-1. iou: (K,) of a right one with its object, otherwise 0. right, counted: (K,)
    bool, counted is right or wrong, not excused. values: (K,) by name of a threshold. objects: (N,)
    to be found.
    """

    frame: NDArray[np.int64]
    iou: Values
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    values: Mapping[str, Values]
    objects: NDArray[np.int64]

    def passing(self, limits: Mapping[str, float]) -> NDArray[np.bool_]:
        """(K,) bool: within the limits, by name of the threshold."""
        kept = np.ones(len(self.frame), bool)
        for name, value in limits.items():
            kept &= passes(name, self.values[name], value)
        return kept

    def sums(self, kept: NDArray[np.bool_]) -> Values:
        """(N, 4) for each frame: sum of IoU, right and counted predictions, objects."""
        frame, frames = self.frame[kept], len(self.objects)
        columns = [
            np.bincount(frame, values[kept], frames)
            for values in (self.iou, self.right, self.counted)
        ]
        return np.stack([*columns, self.objects], -1).astype(np.float64)


class Aim(NamedTuple):
    """What is maximised, from sums (..., 4) as `Candidates.sums` has them: PQ, or with a precision
    F of what reaches it."""

    precision: float | None = None

    def reached(self, sums: Values) -> NDArray[np.bool_]:
        """(...) bool: whether the precision is as wanted; without a wish always."""
        if self.precision is None:
            return np.ones(sums.shape[:-1], bool)
        return np.asarray(precision(sums) >= self.precision)

    def value(self, sums: Values) -> Values:
        """(...) PQ or F, in [0, 1]; NaN where there is nothing."""
        gained = sums[..., 0 if self.precision is None else 1]
        return _share(2 * gained, sums[..., 2] + sums[..., 3])

    def best(self, sums: Values, usual: int) -> int:
        """The place of the best of G sums (G, 4) that reach the precision, the nearest to `usual`
        of equal ones; `usual` if none does."""
        values = np.where(self.reached(sums), np.nan_to_num(self.value(sums), nan=-1.0), -1.0)
        best = np.flatnonzero(values >= values.max() - 1e-12)
        return usual if values.max() < 0 else int(best[np.abs(best - usual).argmin()])


class Step(NamedTuple):
    """One threshold of one class: what it was, what is best on all frames, and whether that is
    taken.

    objects: of the class. gain, low, high: of the aim's value (of precision, where the old value
    does not reach what is wanted) on frames that did not choose, and its interval; NaN where
    nothing else is better.
    """

    class_name: str
    threshold: str
    objects: int
    old: float
    best: float
    taken: bool
    gain: float
    low: float
    high: float
    verdict: str


class Quality(NamedTuple):
    """What thresholds leave of frames: mean PQ of the classes, AP and AP50 as `summarize` has them,
    false objects a frame (IoU 0.5 or less with every object of their class, and not excused), and
    the precision and recall of all objects."""

    pq: float
    ap: float
    ap50: float
    false_objects: float
    precision: float
    recall: float


def lowest(decode: Any) -> dict[str, Any]:
    """Options of decoding that leave in whatever a threshold may leave out.

    decode: the method's `DecodeConfig`.
    """
    names = [name for name in TRIED if hasattr(decode, OPTIONS[name])]
    kind = {name: type(getattr(decode, name)) for name in names}
    general = {n: kind[n](min(TRIED[n][0], getattr(decode, n))) for n in names}
    return {**general, **{OPTIONS[name]: ("",) for name in names}}


def usual_limits(decode: Any, class_names: Sequence[str]) -> Limits:
    """The thresholds that the classes have, of those that may be found."""
    limits: Limits = {}
    for name in TRIED:
        if hasattr(decode, OPTIONS[name]):
            general, own = getattr(decode, name), class_values(getattr(decode, OPTIONS[name]))
            limits[name] = {one: max(general, own.get(one, general)) for one in class_names}
    return limits


def label(
    pipeline: Pipeline,
    dataset: Dataset,
    indices: Iterable[int],
    min_pixels: float | None = None,
) -> tuple[list[Found], list[str]]:
    """Label the frames at `indices` with a pipeline of the `lowest` options, without tracking. Also
    returns the classes that dataset and weights have in common, by the weights' names.

    min_pixels: smaller true objects are left out, as in `evaluate`.
    """
    classes = match_classes(dataset.class_names, pipeline.class_names)
    for remark in classes.remarks:
        log.warning("%s", remark)
    evaluation = begin(dataset, classes, min_pixels)
    names = usual_limits(pipeline.config.decode, pipeline.class_names).keys()
    seen: dict[str, Any] = {}

    def look(_: Sample, inferred: Inferred) -> None:
        (instances,) = inferred.instances
        seen.update(ids=instances.ids, min_score=instances.scores, min_pixels=pixels_of(instances))
        if "seed_threshold" in names:
            seen["seed_threshold"] = seeds_of(instances, inferred.outputs[SEED][0])

    found = []
    for index, sample, (result,) in labelled([pipeline], dataset, indices, look):
        counts = evaluation.add(index, sample, result)
        there = np.isin(seen["ids"], result.instances.ids)  # some are too thin for a camera's pixel
        found.append(Found(counts, {name: seen[name][there] for name in names}))
    place = classes.predicted.tolist().index
    return found, [pipeline.class_names[place(k)] for k in range(len(classes.names))]


def candidates(frames: Sequence[Found], class_id: int) -> Candidates:
    """The predictions of one class, judged as PQ does."""
    overlaps, right, counted, objects = [], [], [], []
    for frame in frames:
        counts = of_class(frame.counts, class_id)
        solid = counts._replace(predicted_px=counts.predicted_px - counts.ignored_px)
        judged = judge(counts, iou(solid))
        overlaps.append((judged.iou * judged.match).sum(0))
        right.append(np.asarray(judged.match.any(0)))
        counted.append(judged.counted)
        objects.append(len(counts.truth_px))
    own = [frame.counts.predicted_class == class_id for frame in frames]
    return Candidates(
        np.repeat(np.arange(len(frames)), [len(one) for one in right]),
        np.concatenate(overlaps),
        np.concatenate(right),
        np.concatenate(counted),
        {
            name: np.concatenate([f.values[name][o] for f, o in zip(frames, own, strict=True)])
            for name in frames[0].values
        },
        np.array(objects),
    )


def passes(name: str, values: Values, least: float) -> NDArray[np.bool_]:
    """Whether the values, (K,) float32 or int64, are kept by a threshold, as in `ClassLimits`."""
    if name == "min_pixels":
        return np.asarray(values > least)
    return np.asarray(values >= np.float32(least))


def tune(
    frames: Sequence[Found], class_names: Sequence[str], limits: Limits, aim: Aim
) -> tuple[Limits, list[Step]]:
    """The limits with those thresholds changed whose gain is more than noise, and each step.

    Class by class, one threshold after another in the order of TRIED. What a threshold gains is
    measured on each fifth of the frames, in order, with the value that the others choose; the
    interval is of a bootstrap over frames, of 1000 seeded draws. Above 0, the value that is best on
    all frames is taken. limits: of these classes, maybe of others too.
    """
    draws = _draws(len(frames))
    tuned = {name: dict(of_classes) for name, of_classes in limits.items()}
    steps = []
    for class_id, class_name in enumerate(class_names):
        of_one = candidates(frames, class_id)
        for name in limits:
            own = {other: tuned[other][class_name] for other in limits}
            step = _step(of_one, own, name, aim, draws)._replace(class_name=class_name)
            steps.append(step)
            if step.taken:
                tuned[name][class_name] = step.best
    return tuned, steps


def _step(
    found: Candidates, limits: Mapping[str, float], name: str, aim: Aim, draws: Values
) -> Step:
    old = limits[name]
    tried = sorted({*TRIED[name], old})
    rest = found.passing({other: limits[other] for other in limits if other != name})
    sums = np.stack([found.sums(rest & passes(name, found.values[name], t)) for t in tried])
    whole, usual = sums.sum(1), tried.index(old)  # sums: (G, N, 4)
    best, objects, nan = aim.best(whole, usual), int(found.objects.sum()), float("nan")
    none = Step("", name, objects, old, tried[best], False, nan, nan, nan, "kept")
    if not aim.reached(whole[best]):
        reached = np.nan_to_num(precision(whole)).max()
        return none._replace(verdict=f"kept: none reaches the precision, {reached:.2f} at most")
    if best == usual:
        return none._replace(verdict="kept: the best already")
    after = sums[usual].copy()
    for fold in np.array_split(np.arange(sums.shape[1]), FOLDS):
        others = np.delete(sums, fold, axis=1).sum(1)
        after[fold] = sums[aim.best(others, usual)][fold]
    value = aim.value if aim.reached(whole[usual]) else precision
    gain = float(value(after.sum(0)) - value(sums[usual].sum(0)))
    drawn = value(draws @ after) - value(draws @ sums[usual])
    low, high = np.nanpercentile(drawn, INTERVAL) if np.isfinite(drawn).any() else (np.nan,) * 2
    taken = bool(low > 0)
    noise = "the gain is within noise" if gain > 0 else "no gain"
    verdict = "taken" if taken else f"kept: {noise}"
    return none._replace(taken=taken, gain=gain, low=float(low), high=float(high), verdict=verdict)


def precision(sums: Values) -> Values:
    """(...) the share of counted predictions that are right, from sums (..., 4)."""
    return _share(sums[..., 1], sums[..., 2])


def quality(frames: Sequence[Found], class_names: Sequence[str], limits: Limits) -> Quality:
    """What the limits leave of the frames."""
    left = []
    for frame in frames:
        kept = np.ones(len(frame.counts.scores), bool)
        for class_id, class_name in enumerate(class_names):
            own = frame.counts.predicted_class == class_id
            for name, of_classes in limits.items():
                kept &= ~own | passes(name, frame.values[name], of_classes[class_name])
        left.append(_with(frame.counts, kept))
    sums = _sums(frames, class_names, limits).sum(1)  # (C, 4)
    all_of_them = sums.sum(0)
    ap = ap_table(rankings(left, class_names))["mean"]
    wrong = all_of_them[2] - all_of_them[1]
    recall = float(_share(all_of_them[1], all_of_them[3]))
    false = float(wrong) / max(len(frames), 1)
    return Quality(_mean_pq(sums), ap.ap, ap.ap50, false, float(precision(all_of_them)), recall)


def effect(
    frames: Sequence[Found], class_names: Sequence[str], before: Limits, after: Limits, data: str
) -> str:
    """What other limits do to the frames of `data`, for people; with the interval of the gain of
    mean PQ by a bootstrap over the frames."""
    if not any(frame.counts.counted.any() for frame in frames):
        return f"{data}, {len(frames)} frames: no true object, so nothing can be said"
    of_draws = []
    for limits in (before, after):
        sums = _sums(frames, class_names, limits)  # (C, N, 4)
        of_draws.append([_mean_pq(np.einsum("n,cnk->ck", d, sums)) for d in _draws(len(frames))])
    low, high = np.nanpercentile(np.subtract(of_draws[1], of_draws[0]), INTERVAL)
    old, new = (quality(frames, class_names, limits) for limits in (before, after))
    return (
        f"{data}, {len(frames)} frames: PQ {old.pq:.3f} to {new.pq:.3f} (95 % of the gain: "
        f"{low:+.3f} to {high:+.3f}), AP {old.ap:.4f} to {new.ap:.4f}, AP50 {old.ap50:.3f} to "
        f"{new.ap50:.3f}, precision {old.precision:.3f} to {new.precision:.3f}, recall "
        f"{old.recall:.3f} to {new.recall:.3f}, false objects a frame {old.false_objects:.1f} to "
        f"{new.false_objects:.1f}"
    )


def tuned_checkpoint(checkpoint: Checkpoint, decode: Any, limits: Limits, said: str) -> Checkpoint:
    """The weights with the limits, the other options that they were found with, and a note.

    decode: the method's `DecodeConfig`. The least of the classes is the threshold of all; those
    with more have their own.
    """
    usual = asdict(type(decode)())
    suits = {
        name: value
        for name, value in asdict(decode).items()
        if value != usual[name] or name in checkpoint.decode
    }
    for name, of_classes in limits.items():
        least = min(of_classes.values())
        suits[name] = type(usual[name])(least)
        own = [f"{one}={value:g}" for one, value in of_classes.items() if value > least]
        suits.pop(OPTIONS[name], None)
        if own:
            suits[OPTIONS[name]] = own
    notes = {key: value for key, value in checkpoint.notes.items() if key != "calibration"}
    return replace(checkpoint, decode=suits, notes={**notes, "tuning": said})


def table(steps: Sequence[Step]) -> str:
    """For people, a line per class and threshold."""
    rows = [
        (
            step.class_name,
            step.objects,
            step.threshold,
            f"{step.old:g}" + (f" -> {step.best:g}" if step.taken else ""),
            *(None if value != value else value for value in (step.gain, step.low, step.high)),
            step.verdict,
        )
        for step in steps
    ]
    headings = ("class", "objects", "threshold", "value", "gain", "from", "to", "")
    return text_table(headings, rows, ("", "d", "", "", "+.4f", "+.4f", "+.4f", ""))


def _share(part: Values, whole: Values) -> Values:
    """part / whole; NaN for nothing of nothing."""
    with np.errstate(invalid="ignore"):
        return np.asarray(part / whole)


def _draws(frames: int) -> Values:
    """(DRAWS, N): how often each frame is drawn, in each draw of N frames with replacement."""
    rng = np.random.default_rng(0)
    return rng.multinomial(frames, np.full(frames, 1 / frames), DRAWS).astype(np.float64)


def _sums(frames: Sequence[Found], class_names: Sequence[str], limits: Limits) -> Values:
    """(C, N, 4), see `Candidates.sums`."""
    rows = []
    for class_id, class_name in enumerate(class_names):
        found = candidates(frames, class_id)
        own = {name: of_classes[class_name] for name, of_classes in limits.items()}
        rows.append(found.sums(found.passing(own)))
    return np.stack(rows)


def _mean_pq(sums: Values) -> float:
    """The mean PQ of the classes that have any, from (C, 4)."""
    values = Aim().value(sums)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _with(frame: FrameCounts, kept: NDArray[np.bool_]) -> FrameCounts:
    """The frame with those of its predictions that are kept."""
    return frame._replace(
        overlap=frame.overlap[:, kept],
        predicted_px=frame.predicted_px[kept],
        ignored_px=frame.ignored_px[kept],
        predicted_class=frame.predicted_class[kept],
        scores=frame.scores[kept],
    )
