"""Computes every metric of a set of frames, per class and as the mean of classes with a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instaseg_ros.evaluation.matching import Ranked
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.metrics.leaves import leaf_score
from instaseg_ros.evaluation.metrics.nuclei import OVERLAPS, ap_dsb
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.metrics.regions import region_precision
from instaseg_ros.evaluation.overlaps import FrameCounts
from instaseg_ros.tables import text_table

COLUMNS = {  # key of a class' row: its name in the table
    "ap": "AP",
    "ap50": "AP50",
    "pq": "PQ",
    "ap_dsb": "DSB50",
    "sbd": "SBD",
    "dic": "|DiC|",
    "objects": "objects",
}


def summarize(frames: Sequence[FrameCounts], ranked: Mapping[str, Ranked]) -> dict[str, Any]:
    """`per_class.NAME` and, beside it, the means: ap, ap50, pq, sq, rq, ap_dsb and ap_dsb_by_image
    (each by IoU), sbd, dic, apr50, apr70, apr_volume, and the total of objects. NaN: no object.

    ranked: `rankings` of the frames.
    """
    ap = ap_table(ranked)
    rows = {
        name: _row(frames, class_id, own) | ap[name]._asdict()
        for class_id, (name, own) in enumerate(ranked.items())
    }
    return {**_mean(list(rows.values())), **ap["mean"]._asdict(), "per_class": rows}


def table(summary: dict[str, Any]) -> str:
    """The main metrics as a table for people, a line per class and one for the mean."""
    rows = {**summary["per_class"], "mean": summary}
    cells = [(name, *table_cells(row)) for name, row in rows.items()]
    return text_table(("class", *COLUMNS.values()), cells, ("", *(".3f" for _ in COLUMNS)))


def table_cells(row: dict[str, Any]) -> list[str]:
    """The values of COLUMNS as text; `-` if there is none."""
    values = [row[key]["0.5"] if isinstance(row[key], dict) else row[key] for key in COLUMNS]
    return ["-" if v != v else f"{v}" if isinstance(v, int) else f"{v:.3f}" for v in values]


def _row(frames: Sequence[FrameCounts], class_id: int, ranked: Ranked) -> dict[str, Any]:
    bowl, regions = ap_dsb(ranked), region_precision(frames, class_id)
    by_overlap = [f"{overlap:.1f}" for overlap in OVERLAPS]
    return {
        **panoptic_quality(frames, class_id)._asdict(),
        "ap_dsb": dict(zip(by_overlap, bowl.total.tolist(), strict=True)),
        "ap_dsb_by_image": dict(zip(by_overlap, bowl.by_image.tolist(), strict=True)),
        **leaf_score(frames, class_id)._asdict(),
        "apr50": regions.at_50,
        "apr70": regions.at_70,
        "apr_volume": regions.volume,
    }


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers, ignoring NaN, or of each key of dictionaries."""
    if isinstance(values[0], dict):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
