"""Compares weights of several methods on the same held-out frames."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from instaseg_ros.benchmarks.frame import peak_memory
from instaseg_ros.config import Config
from instaseg_ros.datasets import SYNTHETIC, open_dataset, spread
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.metrics.semantics import mean_iou
from instaseg_ros.evaluation.pixel_classes import PixelClasses
from instaseg_ros.evaluation.run import Evaluation, labelled, match_classes
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.synthetic_street import held_out_street
from instaseg_ros.tables import text_table


class Row(NamedTuple):
    """Results of one set of weights.

    ap, ap50: means over the classes. mean_iou: of the semantic head, NaN without one. network_ms,
    decode_ms: medians. parameters: of the network. rss_mb: peak resident memory of a process that
    did nothing else.
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
    """A row for each configuration, by name, each measured in its own process.

    data: `synthetic`, held-out frames of `size` (height, width), or the path of a dataset, whose
    split `val` is used. frames: number of frames, spread over it.
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
    """The row of one configuration, with this process's memory."""
    dataset = held_out_street(frames, size) if data == SYNTHETIC else open_dataset(data, "val")
    pipeline = Pipeline(config)
    found = Evaluation(dataset, match_classes(dataset.class_names, pipeline.class_names))
    pixels = PixelClasses(found.classes)
    indices = spread(len(dataset), frames)
    for index, sample, (result,) in labelled([pipeline], dataset, indices, pixels.look):
        found.add(index, sample, result)
    mean = ap_table(found.ranked)["mean"]
    network_ms, decode_ms = (
        float(np.median([one[stage] for one in found.stage_ms])) for stage in ("network", "decode")
    )
    return Row(
        pipeline.checkpoint.method_name,
        mean.ap,
        mean.ap50,
        mean_iou(np.sum(pixels.confusions, axis=0)) if pixels.confusions else float("nan"),
        network_ms,
        decode_ms,
        sum(parameter.numel() for parameter in pipeline.checkpoint.network().parameters()),
        peak_memory()["rss_mb"],
    )


def table(rows: Mapping[str, Row]) -> str:
    """The rows as a table for people."""
    headings = ("weights", "method", "AP", "AP50", "mIoU", "network ms", "decode ms", "parameters")
    cells = [(name, *row[:-2], f"{row.parameters:,}", row.rss_mb) for name, row in rows.items()]
    formats = ("", "", ".3f", ".3f", ".3f", ".1f", ".1f", "d", ".0f")
    return text_table((*headings, "MB"), cells, formats)
