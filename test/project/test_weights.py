"""The weights that come with the package do what they are shipped for."""

from __future__ import annotations

from pathlib import Path

import pytest

from instaseg_ros.checkpoint import load_checkpoint, shipped_weights
from instaseg_ros.configure import load_config
from instaseg_ros.datasets import Dataset, open_dataset
from instaseg_ros.evaluation.matching import rank
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.nuclei import ap_dsb
from instaseg_ros.evaluation.overlaps import FrameCounts
from instaseg_ros.evaluation.run import Evaluation, by_number, labelled
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.synthetic_street import held_out_street

NUCLEI = Path(__file__).parents[1] / "nuclei"


def counts(weights: str, dataset: Dataset, frames: int) -> list[FrameCounts]:
    pipeline = Pipeline(load_config(weights=weights, runtime={"name": "torch"}))
    found = Evaluation(dataset, by_number(dataset.class_names, pipeline.class_names))
    for index, sample, (result,) in labelled([pipeline], dataset, range(frames)):
        found.add(index, sample, result)
    return found.counts


@pytest.mark.parametrize("name", sorted(shipped_weights()))
def test_weights_are_small_and_say_where_they_come_from(name: str) -> None:
    assert shipped_weights()[name].stat().st_size < 8e6
    notes = load_checkpoint(name).notes
    assert notes["licence"] and notes["data"]
    assert "/" not in notes["train"]["dataset"]  # no folder of the machine that trained


@pytest.mark.parametrize(
    ("name", "of", "least"),
    [
        ("street-synthetic", "mean", 0.8),
        ("street-synthetic-fast", "mean", 0.8),
        ("street-synthetic-lite", "car", 0.7),
        ("street", "car", 0.15),  # it knows photographs
    ],
)
def test_weights_of_streets_find_what_is_drawn(name: str, of: str, least: float) -> None:
    frames = counts(name, held_out_street(8, (256, 512)), 8)
    assert average_precision(frames, load_checkpoint(name).class_names)[of].ap50 > least


def test_nuclei_finds_nuclei_of_an_image_it_has_not_seen() -> None:
    (frame,) = counts("nuclei", open_dataset(NUCLEI, "val"), 1)
    assert ap_dsb(rank([frame], 0)).total[0] > 0.8
