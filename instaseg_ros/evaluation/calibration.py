"""How sure an object must be: `decode.min_score` from what was found of a dataset without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.evaluation.matching import judge, rankings
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class
from instaseg_ros.tables import text_table

SCORES = tuple(step / 100 for step in range(100))  # what is tried


class Threshold(NamedTuple):
    """What is left with one `min_score`: false objects a frame (of IoU 0.5 or less with every
    object of their class, and not excused); pq, ap, ap50 as `summarize` has them."""

    min_score: float
    false_objects: float
    pq: float
    ap: float
    ap50: float


def thresholds(
    frames: Sequence[FrameCounts], class_names: Sequence[str], scores: Sequence[float] = SCORES
) -> list[Threshold]:
    """Each of the scores, in ascending order, as the threshold of frames that were found with none:
    it changes nothing about the objects that it leaves."""
    found = np.concatenate([np.zeros(0, np.float32), *(frame.scores for frame in frames)])
    tried: list[Threshold] = []
    left_out = -1
    for least in scores:
        before, left_out = left_out, int((found < least).sum())
        if left_out == before:
            tried.append(tried[-1]._replace(min_score=least))
        else:
            tried.append(_threshold(frames, class_names, least))
    return tried


def best(tried: Sequence[Threshold], most_false: float, max_loss: float) -> Threshold:
    """Of the thresholds that lose at most `max_loss` AP: the one of the largest PQ among those
    with at most `most_false` false objects a frame; where none is so strict, the strictest.

    tried: in ascending order, the first with nothing left out.
    """
    whole = tried[0].ap - max_loss
    affordable = [one for one in tried if one.ap >= whole or one is tried[0]]
    strict = [one for one in affordable if one.false_objects <= most_false]
    return max(strict, key=lambda one: one.pq) if strict else affordable[-1]


def calibrated(checkpoint: Checkpoint, decode: Any, chosen: Threshold, said: str) -> Checkpoint:
    """The weights with the threshold, the other options that it was found with, and a note.

    decode: the method's `DecodeConfig`.
    """
    usual = asdict(type(decode)())
    suits = {
        name: value
        for name, value in asdict(decode).items()
        if value != usual[name] or name in checkpoint.decode
    }
    notes = {**checkpoint.notes, "calibration": said}
    return replace(checkpoint, decode={**suits, "min_score": chosen.min_score}, notes=notes)


def sentence(chosen: Threshold, before: Threshold, data: str) -> str:
    """What the threshold does to `data`, for people."""
    return (
        f"decode.min_score {chosen.min_score} on {data}: false objects a frame "
        f"{before.false_objects:.1f} to {chosen.false_objects:.1f}, PQ {before.pq:.3f} to "
        f"{chosen.pq:.3f}, AP {before.ap:.4f} to {chosen.ap:.4f}, AP50 {before.ap50:.3f} to "
        f"{chosen.ap50:.3f}"
    )


def table(tried: Sequence[Threshold]) -> str:
    """For people, a line per threshold."""
    headings = "min_score", "false a frame", "PQ", "AP", "AP50"
    return text_table(headings, tried, (".2f", ".2f", ".3f", ".4f", ".4f"))


def _surer(frame: FrameCounts, least: float) -> FrameCounts:
    kept = frame.scores >= least
    return frame._replace(
        overlap=frame.overlap[:, kept],
        predicted_px=frame.predicted_px[kept],
        ignored_px=frame.ignored_px[kept],
        predicted_class=frame.predicted_class[kept],
        scores=frame.scores[kept],
    )


def _threshold(
    frames: Sequence[FrameCounts], class_names: Sequence[str], least: float
) -> Threshold:
    frames = [_surer(frame, least) for frame in frames]
    classes = range(len(class_names))
    wrong = sum(int(judge(of_class(f, c)).wrong.sum()) for f in frames for c in classes)
    qualities = [panoptic_quality(frames, c).pq for c in classes]
    ap = ap_table(rankings(frames, class_names))["mean"]
    known = [pq for pq in qualities if pq == pq]
    pq = float(np.mean(known)) if known else float("nan")
    return Threshold(least, wrong / max(len(frames), 1), pq, ap.ap, ap.ap50)
