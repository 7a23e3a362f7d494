"""Weights of several methods, side by side on the same held-out frames."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from instaseg_ros.benchmarks.frame import peak_memory
from instaseg_ros.config import Config
from instaseg_ros.datasets import least_pixels, open_dataset
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.semantics import frame_confusion, mean_iou
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.evaluation.run import in_common, match_classes, spread
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.samples import SYNTHETIC_MIN_PIXELS
from instaseg_ros.training.source import held_out_street

SYNTHETIC = "synthetic"


class Row(NamedTuple):
    """What weights make of the frames.

    ap, ap50: mean of the classes. mean_iou: of the semantic head, NaN where there is none.
    network_ms, decode_ms: medians. parameters: of the network. rss_mb: the most that a process
    which did nothing else had resident.
    """

    method: str
    ap: float
    ap50: float
    mean_iou: float
    network_ms: float
    decode_ms: float
    parameters: int
    rss_mb: float


def compare(
    configs: Mapping[str, Config], data: str, size: tuple[int, int], frames: int
) -> dict[str, Row]:
    """A row for each of the configurations, by name, each in a process of its own.

    data: `synthetic`, held-out frames of `size` (height, width), or the path of a dataset, whose
    split `val` is taken. frames: so many, spread over it.
    """
    rows = {}
    context = multiprocessing.get_context("spawn")
    for name, config in tqdm(configs.items(), unit="weights"):
        with context.Pool(1) as alone:
            rows[name] = alone.apply(row, (config, data, size, frames))
            alone.close()
            alone.join()
    return rows


def row(config: Config, data: str, size: tuple[int, int], frames: int) -> Row:
    """The row of one configuration; its memory is that of this process."""
    dataset = held_out_street(frames, size) if data == SYNTHETIC else open_dataset(data, "val")
    least = SYNTHETIC_MIN_PIXELS if data == SYNTHETIC else None
    pipeline = Pipeline(config)
    classes = match_classes(dataset.class_names, pipeline.class_names)
    counts, stages, confusions = [], [], []
    for index in spread(len(dataset), frames):
        sample = dataset[index]
        inferred = pipeline.infer([sample.frame])
        semantic = inferred.outputs.get("semantic")
        if semantic is not None:
            seen = semantic[0].argmax(0).cpu().numpy()
        (result,) = pipeline.finish(inferred)
        stages.append(result.stage_ms)
        labels, ids, class_ids, *_, ignore, crowd = sides = in_common(
            classes, sample, result.instances
        )
        if semantic is not None:
            common = np.append(0, classes.predicted + 1)[seen]
            known = len(classes.names) + 1
            confusions.append(frame_confusion(labels, ids, class_ids, common, known, ignore, crowd))
        pixels = least_pixels(dataset, *labels.shape) if least is None else least
        counts.append(frame_counts(*sides, min_pixels=pixels))
    mean = average_precision(counts, classes.names)["mean"]
    network_ms, decode_ms = (
        float(np.median([one[stage] for one in stages])) for stage in ("network", "decode")
    )
    return Row(
        pipeline.checkpoint.method_name,
        mean.ap,
        mean.ap50,
        mean_iou(np.sum(confusions, axis=0)) if confusions else float("nan"),
        network_ms,
        decode_ms,
        sum(parameter.numel() for parameter in pipeline.checkpoint.network().parameters()),
        peak_memory()["rss_mb"],
    )


def table(rows: Mapping[str, Row]) -> str:
    """The rows for people."""
    width = max(len(name) for name in rows)
    lines = [
        f"{'weights':{width}}  {'method':18}{'AP':>7}{'AP50':>7}{'mIoU':>7}{'network ms':>12}"
        f"{'decode ms':>11}{'parameters':>12}{'MB':>7}"
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:{width}}  {row.method:18}{row.ap:7.3f}{row.ap50:7.3f}{row.mean_iou:7.3f}"
            f"{row.network_ms:12.1f}{row.decode_ms:11.1f}{row.parameters:12,}{row.rss_mb:7.0f}"
        )
    return "\n".join(lines)
