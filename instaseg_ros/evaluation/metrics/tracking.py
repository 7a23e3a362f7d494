"""Computes tracking metrics of masks: id switches, MOTSA, sMOTSA and MOTSP (Voigtlaender et al.
2019), IDF1 (Ristani et al. 2016), HOTA (Luiten et al. 2021), and how wholly objects are followed
(Bernardin and Stiefelhagen 2008). All of them equal TrackEval's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import judge
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class

ALPHAS = np.arange(1, 20) / 20  # least IoU of a match, in HOTA
TITLES = {  # of the shares in TrackScore
    "hota": "HOTA",
    "deta": "DetA",
    "assa": "AssA",
    "motsa": "MOTSA",
    "smotsa": "sMOTSA",
    "motsp": "MOTSP",
    "idf1": "IDF1",
}
MOSTLY_TRACKED, MOSTLY_LOST = 0.8, 0.2  # share of an object's masks that are matched
ROUNDING = np.finfo(float).eps


class TrackedFrame(NamedTuple):
    """Counts of one frame, with identities.

    truth_ids: (G,) of the rows; arbitrary for groups. predicted_ids: (P,) of the columns. Both last
    through a sequence.
    """

    counts: FrameCounts
    truth_ids: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]


class Overlaps(NamedTuple):
    """One class of one frame: iou (G, P) of the masks that count, their ids (G,) and (P,), and
    match (G, P) bool as in `Judged`."""

    iou: NDArray[np.float64]
    truth_ids: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]
    match: NDArray[np.bool_]


class ClearCounts(NamedTuple):
    """objects: true masks; total_iou: sum over the matches; id_switches: matches of an object whose
    previous match had another id; fragmentations: times that the matches of an object go on after a
    gap; tracks: true objects; mostly_tracked, mostly_lost: those of which more than MOSTLY_TRACKED,
    or less than MOSTLY_LOST, is matched."""

    objects: int = 0
    matches: int = 0
    wrong: int = 0
    id_switches: int = 0
    total_iou: float = 0.0
    fragmentations: int = 0
    tracks: int = 0
    mostly_tracked: int = 0
    mostly_lost: int = 0


class IdentityCounts(NamedTuple):
    """right: masks that carry their object's one id; wrong: others predicted; missed: true masks
    without it."""

    right: int = 0
    wrong: int = 0
    missed: int = 0


class HotaCounts(NamedTuple):
    """(19,) each, by ALPHAS. association: sum over the matches of TPA / (TPA + FPA + FNA)."""

    matches: NDArray[np.int64]
    missed: NDArray[np.int64]
    wrong: NDArray[np.int64]
    association: NDArray[np.float64]


class SequenceCounts(NamedTuple):
    """All counts of one class in one sequence."""

    clear: ClearCounts
    identity: IdentityCounts
    hota: HotaCounts


class TrackScore(NamedTuple):
    """hota: mean over alpha of sqrt(DetA * AssA); deta and assa are means over alpha too. All are
    in [0, 1]; motsa and smotsa may be negative. NaN without objects, motsp also without matches."""

    hota: float
    deta: float
    assa: float
    motsa: float
    smotsa: float
    motsp: float
    idf1: float
    id_switches: int
    fragmentations: int
    mostly_tracked: int
    mostly_lost: int
    tracks: int
    objects: int


def summarize_tracks(
    sequences: Sequence[Sequence[TrackedFrame]], class_names: Sequence[str]
) -> dict[str, Any]:
    """`per_class.NAME` with the fields of TrackScore, and beside it their means over the classes
    that have objects; the counts and sequences are totals."""
    rows = {name: track_score(sequences, c) for c, name in enumerate(class_names)}
    per_class = {name: row._asdict() for name, row in rows.items()}
    means = mean_score(list(rows.values()))
    return {**means, "sequences": len(sequences), "per_class": per_class}


def mean_score(classes: Sequence[TrackScore]) -> dict[str, Any]:
    """The fields of TrackScore: shares are means over the classes that have objects, counts
    totals."""
    means: dict[str, Any] = {}
    for key in TrackScore._fields:
        values = np.array([getattr(row, key) for row in classes])
        if key not in TITLES:
            means[key] = int(values.sum())
        else:
            known = values[~np.isnan(values)]
            means[key] = float(known.mean()) if len(known) else float("nan")
    return means


def tracking_line(summary: dict[str, Any]) -> str:
    """The result of `summarize_tracks` as a line for people."""
    shares = ", ".join(f"{title} {summary[key]:.3f}" for key, title in TITLES.items())
    return (
        f"tracking: {shares}, {summary['id_switches']} id switches, "
        f"{summary['fragmentations']} fragmentations, {summary['objects']} masks of "
        f"{summary['tracks']} objects, {summary['mostly_tracked']} of them mostly tracked and "
        f"{summary['mostly_lost']} mostly lost, {summary['sequences']} sequences"
    )


def track_score(sequences: Sequence[Sequence[TrackedFrame]], class_id: int) -> TrackScore:
    """One class over all sequences."""
    return score_of([sequence_counts(frames, class_id) for frames in sequences])


def sequence_counts(frames: Sequence[TrackedFrame], class_id: int) -> SequenceCounts:
    """One class in one sequence."""
    overlaps = [class_overlaps(frame, class_id) for frame in frames]
    return SequenceCounts(clear_counts(overlaps), identity_counts(overlaps), hota_counts(overlaps))


def score_of(sequences: Sequence[SequenceCounts]) -> TrackScore:
    """One class over sequences: counts are summed, then divided."""
    clears = [ClearCounts(), *(one.clear for one in sequences)]
    clear = ClearCounts(*np.sum(clears, axis=0).tolist())
    objects, matches, id_switches = map(int, (clear.objects, clear.matches, clear.id_switches))
    if not objects:
        nan = float("nan")
        return TrackScore(nan, nan, nan, nan, nan, nan, nan, 0, 0, 0, 0, 0, 0)
    hota = [one.hota for one in sequences]
    found = np.sum([one.matches for one in hota], axis=0)
    detection = found / np.sum([one.matches + one.missed + one.wrong for one in hota], axis=0)
    association = np.sum([one.association for one in hota], axis=0) / np.maximum(found, 1)
    identity = IdentityCounts(*np.sum([one.identity for one in sequences], axis=0))
    penalty = clear.wrong + id_switches
    return TrackScore(
        hota=float(np.sqrt(detection * association).mean()),
        deta=float(detection.mean()),
        assa=float(association.mean()),
        motsa=(matches - penalty) / objects,
        smotsa=(clear.total_iou - penalty) / objects,
        motsp=clear.total_iou / matches if matches else float("nan"),
        idf1=float(2 * identity.right / (2 * identity.right + identity.wrong + identity.missed)),
        id_switches=id_switches,
        fragmentations=int(clear.fragmentations),
        mostly_tracked=int(clear.mostly_tracked),
        mostly_lost=int(clear.mostly_lost),
        tracks=int(clear.tracks),
        objects=objects,
    )


def class_overlaps(frame: TrackedFrame, class_id: int) -> Overlaps:
    """What counts of one class: objects to be found, and predictions that are not excused."""
    counts = of_class(frame.counts, class_id)
    rows = (frame.counts.truth_class == class_id) & frame.counts.counted
    columns = frame.counts.predicted_class == class_id
    found = judge(counts)
    kept = found.counted
    ids = frame.truth_ids[rows], frame.predicted_ids[columns][kept]
    return Overlaps(found.iou[:, kept], *ids, found.match[:, kept])


def clear_counts(frames: Sequence[Overlaps]) -> ClearCounts:
    """Counts of one sequence, its frames in order."""
    last: dict[int, int] = {}  # predicted id by true id
    current: set[int] = set()  # objects matched in the frame before
    present, matched, runs = Counter[int](), Counter[int](), Counter[int]()  # by true id
    wrong = id_switches = 0
    total_iou = 0.0
    for frame in frames:
        rows, columns = np.nonzero(frame.match)
        truths = frame.truth_ids[rows].tolist()
        for truth, predicted in zip(truths, frame.predicted_ids[columns].tolist(), strict=True):
            id_switches += last.get(truth, predicted) != predicted
            last[truth] = predicted
        present.update(frame.truth_ids.tolist())
        matched.update(truths)
        if frame.iou.size:  # as in TrackEval, a frame of one side alone interrupts nothing
            runs.update(set(truths) - current)
            current = set(truths)
        wrong += len(frame.predicted_ids) - len(rows)
        total_iou += float(frame.iou[rows, columns].sum())
    shares = [matched[one] / n for one, n in present.items()]
    return ClearCounts(
        objects=present.total(),
        matches=matched.total(),
        wrong=wrong,
        id_switches=id_switches,
        total_iou=total_iou,
        fragmentations=runs.total() - len(runs),
        tracks=len(present),
        mostly_tracked=sum(share > MOSTLY_TRACKED for share in shares),
        mostly_lost=sum(share < MOSTLY_LOST for share in shares),
    )


def identity_counts(frames: Sequence[Overlaps]) -> IdentityCounts:
    """Counts of one sequence: each object has the one predicted id that agrees with it most, all
    considered together."""
    from scipy.optimize import linear_sum_assignment  # not needed without tracking

    pairs: Counter[tuple[int, int]] = Counter()
    for frame in frames:
        rows, columns = np.nonzero(frame.iou >= 0.5)
        ids = frame.truth_ids[rows].tolist(), frame.predicted_ids[columns].tolist()
        pairs.update(zip(*ids, strict=True))
    truths, predictions = ({pair[side] for pair in pairs} for side in (0, 1))
    row = {one: k for k, one in enumerate(truths)}
    column = {one: k for k, one in enumerate(predictions)}
    agree = np.zeros((len(row), len(column)), np.int64)
    for (truth, predicted), n in pairs.items():
        agree[row[truth], column[predicted]] = n
    right = int(agree[linear_sum_assignment(agree, maximize=True)].sum())
    return IdentityCounts(
        right,
        sum(len(frame.predicted_ids) for frame in frames) - right,
        sum(len(frame.truth_ids) for frame in frames) - right,
    )


def hota_counts(frames: Sequence[Overlaps]) -> HotaCounts:
    """Counts of one sequence. In each frame, pairs maximise the sum of IoU times how well their
    tracks fit over the sequence, independently of alpha (as in TrackEval)."""
    from scipy.optimize import linear_sum_assignment

    truths, predictions = (
        np.unique(np.concatenate([np.zeros(0, np.int64), *(frame[side] for frame in frames)]))
        for side in (1, 2)
    )
    placed = [
        np.ix_(np.searchsorted(truths, f.truth_ids), np.searchsorted(predictions, f.predicted_ids))
        for f in frames
    ]
    together = np.zeros((len(truths), len(predictions)))
    present = np.zeros((len(truths), 1)), np.zeros((1, len(predictions)))
    for frame, (rows, columns) in zip(frames, placed, strict=True):
        other = frame.iou.sum(0, keepdims=True) + frame.iou.sum(1, keepdims=True) - frame.iou
        together[rows, columns] += frame.iou / np.maximum(other, ROUNDING)
        present[0][rows] += 1
        present[1][:, columns] += 1
    fit = together / np.maximum(sum(present) - together, ROUNDING)

    found = np.zeros((len(ALPHAS), *together.shape), np.int64)
    for frame, (rows, columns) in zip(frames, placed, strict=True):
        chosen = linear_sum_assignment(frame.iou * fit[rows, columns], maximize=True)
        right = frame.iou[chosen] >= ALPHAS[:, None] - ROUNDING  # (19, pairs)
        found[:, rows[chosen[0], 0], columns[0, chosen[1]]] += right
    matches = found.sum((1, 2))
    shared = found / np.maximum(sum(present) - found, 1)
    return HotaCounts(
        matches,
        int(present[0].sum()) - matches,
        int(present[1].sum()) - matches,
        (found * shared).sum((1, 2)),
    )
