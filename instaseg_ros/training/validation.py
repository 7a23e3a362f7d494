"""Computes AP and mean IoU of pixel classes of a network in training, on held-out samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from instaseg_ros.config import Config, TrainConfig
from instaseg_ros.datasets import spread
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision, average_precision
from instaseg_ros.evaluation.metrics.semantics import mean_iou
from instaseg_ros.evaluation.pixel_classes import PixelClasses
from instaseg_ros.evaluation.run import Evaluation, by_number, labelled
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.runtimes.torch_runtime import LiveRuntime, training_precision
from instaseg_ros.training.processes import Group
from instaseg_ros.training.source import Source
from instaseg_ros.training.state import Learners, checkpoint_of


class Validation(NamedTuple):
    """table: AP by class name and under `mean`. mean_iou: see `PixelClasses`; None if the network
    predicts none."""

    table: dict[str, AveragePrecision]
    mean_iou: float | None


def live_pipeline(
    network: ERFNet, config: Config, class_names: tuple[str, ...], dense_names: tuple[str, ...]
) -> Pipeline:
    """The pipeline for a network in training; each call uses its current weights."""
    precision = training_precision(next(network.parameters()).device)
    runtime = LiveRuntime(Learners(network).eval(), precision)
    checkpoint = checkpoint_of(network, config, class_names, dense_names)
    return Pipeline(config, checkpoint, runtime)


def validate(pipeline: Pipeline, source: Source, options: TrainConfig, group: Group) -> Validation:
    """AP and mean IoU on held-out samples, spread over the set and shared among the processes.

    A method with a memory sees clips.
    """
    data, names = source.held_out, source.class_names
    found = Evaluation(data, by_number(data.class_names, names))
    pixels = PixelClasses(found.classes)
    wanted = spread(len(data), options.validation_frames, options.clip_frames)
    share = np.array_split(wanted, group.size)[group.rank].tolist()
    for index, sample, (result,) in labelled([pipeline], data, share, pixels.look):
        found.add(index, sample, result)
    table = average_precision(group.gather(found.counts), names)
    matrices = group.gather(pixels.confusions)
    return Validation(table, mean_iou(np.sum(matrices, axis=0)) if matrices else None)
