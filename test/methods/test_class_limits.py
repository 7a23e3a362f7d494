"""Stricter thresholds of single classes: which instances they leave, and where they come from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from instaseg_ros.config import Config, merge
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.configure import load_config
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Instances
from instaseg_ros.methods.class_limits import limits_of, pixels_of, seeds_of, within
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.synthetic_street import held_out_street

NAMES = ("car", "bus")


def three_instances() -> tuple[Instances, dict[str, torch.Tensor]]:
    """Label values 2, 9 (cars) and 5 (a bus) of 4, 2 and 3 pixels, with the seeds' raw maps in the
    second image of a batch."""
    labels = np.array([[2, 2, 0, 9], [2, 2, 0, 9], [5, 5, 5, 0]], np.uint16)
    found = replace(
        Instances.empty(3, 4),
        labels=labels,
        ids=np.array([2, 9, 5], np.uint16),
        class_ids=np.array([0, 0, 1]),
        scores=np.array([0.9, 0.6, 0.5], np.float32),
        boxes_xyxy=np.zeros((3, 4), np.float32),
        centers_xy=np.zeros((3, 2), np.float32),
        bandwidths=np.zeros((3, 2), np.float32),
    )
    seed = torch.full((2, 2, 3, 4), -20.0)
    seed[1, 0, 0, 1], seed[1, 0, 1, 3], seed[1, 1, 2, 0] = 2.0, 0.0, 1.0
    seed[1, 1, 0, 0] = 5.0  # where a car is, in the map of buses
    return found, {"seed": seed}


def kept_by(**options: tuple[str, ...]) -> list[int]:
    """The places of the instances that are left, checked."""
    found, outputs = three_instances()
    limits = limits_of(DecodeConfig(**options), NAMES)
    assert limits is not None
    left = within(found, limits, outputs, 1)
    places = [found.scores.tolist().index(score) for score in left.scores.tolist()]
    assert left is found or left.ids.tolist() == list(range(1, len(left) + 1))
    for number, place in zip(left.ids, places, strict=True):
        np.testing.assert_array_equal(left.labels == number, found.labels == found.ids[place])
    assert (left.labels > 0).sum() == pixels_of(found)[places].sum()
    return places


def test_each_class_has_its_own_thresholds() -> None:
    found, outputs = three_instances()
    assert pixels_of(found).tolist() == [4, 2, 3]
    sigmoid = torch.sigmoid(torch.tensor([2.0, 0.0, 1.0]))
    np.testing.assert_allclose(seeds_of(found, outputs["seed"][1]), sigmoid, rtol=1e-6)
    assert kept_by(class_min_scores=("car=0.7",)) == [0, 2]
    assert kept_by(class_min_scores=("car=0.6", "bus=0.51")) == [0, 1]
    assert kept_by(class_min_pixels=("car=2",)) == [0, 2]
    assert kept_by(class_min_pixels=("bus=3", "car=1")) == [0, 1]
    assert kept_by(class_seed_thresholds=("car=0.5",)) == [0, 1, 2]
    assert kept_by(class_seed_thresholds=("car=0.6", "bus=0.7")) == [0, 2]
    assert kept_by(class_seed_thresholds=("bus=0.9",), class_min_scores=("car=0.95",)) == []
    assert limits_of(DecodeConfig(), NAMES) is None


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["car"], "expected CLASS=NUMBER"),
        (["=0.5"], "expected CLASS=NUMBER"),
        (["car=much"], "expected CLASS=NUMBER"),
        (["car=nan"], "expected CLASS=NUMBER"),
        (["car=0.5", "car=0.6"], "once for a class"),
        (["car=0.5", ""], "expected CLASS=NUMBER"),
        (["car=1.5"], "'car': expected a value from 0 to 1.0, got 1.5"),
        ("car=0.5", "expected a list of str"),
    ],
)
def test_values_that_are_none(texts: object, said: str) -> None:
    with pytest.raises(ConfigError, match="class_min_scores") as error:
        merge(Config(), {"decode.class_min_scores": texts})
    assert said in str(error.value)


def test_any_name_of_a_class_can_be_given() -> None:
    limits = limits_of(DecodeConfig(class_min_scores=("a=b, c=0.5",)), ("bus", "a=b, c"))
    assert limits is not None and limits.min_score.tolist() == [0, 0.5]


def test_a_pipeline_knows_the_classes_of_its_weights() -> None:
    config = load_config(weights="street-synthetic-lite", **{"runtime.name": "torch"})
    pipeline = Pipeline(config)
    frame = held_out_street(4, (128, 256))[0].frame
    car = pipeline.class_names.index("car")
    (before,) = pipeline.process([frame])
    assert {car} < set(before.instances.class_ids.tolist())
    pipeline.reconfigure(merge(config, {"decode.class_min_scores": ["car=1"]}))
    for result in pipeline.process([frame, frame]):
        others = before.instances.class_ids[before.instances.class_ids != car]
        assert result.instances.class_ids.tolist() == others.tolist()
    with pytest.raises(ConfigError, match=r"class_min_pixels: expected classes of the weights"):
        pipeline.reconfigure(merge(config, {"decode.class_min_pixels": ["boat=5"]}))
    with pytest.raises(ConfigError, match=r"\(person, rider, .*\), got 'boat'"):
        Pipeline(merge(config, {"decode.class_seed_thresholds": ["boat=0.5"]}))
