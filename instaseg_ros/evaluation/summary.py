"""Every metric of a set of frames, per class and as the mean of the classes that have a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.leaves import leaf_score
from instaseg_ros.evaluation.metrics.nuclei import OVERLAPS, ap_dsb
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.metrics.regions import region_precision
from instaseg_ros.evaluation.overlaps import FrameCounts

COLUMNS = {  # key of a class' row: its name in the table
    "ap": "AP",
    "ap50": "AP50",
    "pq": "PQ",
    "ap_dsb": "DSB50",
    "sbd": "SBD",
    "dic": "|DiC|",
    "objects": "objects",
}


def summarize(frames: Sequence[FrameCounts], class_names: Sequence[str]) -> dict[str, Any]:
    """`per_class.NAME` and, beside it, the means: ap, ap50, pq, sq, rq, ap_dsb and ap_dsb_by_image
    (each by IoU), sbd, dic, apr50, apr70, apr_volume, and objects in all. NaN: no object."""
    ap = average_precision(frames, class_names)
    rows = {name: _row(frames, c) | ap[name]._asdict() for c, name in enumerate(class_names)}
    return {**_mean(list(rows.values())), **ap["mean"]._asdict(), "per_class": rows}


def text_table(summary: dict[str, Any]) -> str:
    """The main metrics for people, a line per class and one for the mean."""
    names = [*summary["per_class"], "mean"]
    width = max(10, *map(len, names))
    lines = [f"{'class':{width}}" + "".join(f"{title:>9}" for title in COLUMNS.values())]
    for name in names:
        cells = table_cells(summary["per_class"].get(name, summary))
        lines.append(f"{name:{width}}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def table_cells(row: dict[str, Any]) -> list[str]:
    """The values of COLUMNS as text; `-` where there is none."""
    values = [row[key]["0.5"] if isinstance(row[key], dict) else row[key] for key in COLUMNS]
    return ["-" if v != v else f"{v}" if isinstance(v, int) else f"{v:.3f}" for v in values]


def _row(frames: Sequence[FrameCounts], class_id: int) -> dict[str, Any]:
    bowl, regions = ap_dsb(frames, class_id), region_precision(frames, class_id)
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
    """Of numbers without the NaN, or of each key of dictionaries."""
    if isinstance(values[0], dict):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
