"""Learning from another network's outputs: what is compared, where, and which teachers fit."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from disc_images import QUICK

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, TrainConfig, merge
from instaseg_ros.errors import ConfigError, WeightsError
from instaseg_ros.methods import METHODS, Method, Targets, make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.training.teacher import Teacher, imitation_loss
from instaseg_ros.training.trainer import train

CONFIG = TrainConfig(foreground_weight=10.0, small_object_px=0)
CLASSES = ("person", "rider", "car", "truck", "bus")


def targets(labels: torch.Tensor) -> Targets:
    """labels: (B, H, W); 99 is ignored."""
    ignored = labels == 99
    labels = labels.masked_fill(ignored, 0)
    return Targets(labels, [torch.zeros(int(x.max()), dtype=torch.int64) for x in labels], ignored)


def by_chance(method: Method, seed: int, size: tuple[int, ...] = (2, 8, 12)) -> dict:
    generator = torch.Generator().manual_seed(seed)
    batch, *sides = size
    return {
        h.name: torch.randn(batch, h.channels, *sides, generator=generator) for h in method.heads
    }


@pytest.mark.parametrize("name", METHODS)
def test_who_repeats_the_teacher_has_nothing_to_learn(name: str) -> None:
    method = make_method(name, 2)
    truth = targets(torch.randint(0, 3, (2, 8, 12), generator=torch.Generator().manual_seed(3)))
    taught, outputs = by_chance(method, 1), by_chance(method, 2)
    outputs = {k: v.requires_grad_() for k, v in outputs.items()}
    loss = imitation_loss(outputs, taught, method, truth, CONFIG)
    assert loss > 0.1
    assert imitation_loss(taught, taught, method, truth, CONFIG) == 0
    loss.backward()
    nearer = {k: v.detach() - 0.1 * v.grad for k, v in outputs.items()}
    assert all(v.grad.abs().sum() > 0 for v in outputs.values())
    assert imitation_loss(nearer, taught, method, truth, CONFIG) < loss


def test_class_scores_are_compared_everywhere_and_weigh_more_at_objects() -> None:
    """One pixel of an object and three of background; a teacher of 1/2, 1/2 against 1/4, 3/4."""
    method = make_method("spatial_embedding", 1)
    truth = targets(torch.tensor([[[1, 0], [0, 0]]]))
    taught = {"seed": torch.zeros(1, 1, 2, 2)}
    outputs = {"seed": torch.full((1, 1, 2, 2), -math.log(3))}
    divergence = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    loss = imitation_loss(outputs, taught, method, truth, CONFIG)
    assert loss.item() == pytest.approx(divergence * (10 + 3) / 4)
    small = TrainConfig(foreground_weight=10.0, small_object_px=4)
    loss = imitation_loss(outputs, taught, method, truth, small)
    assert loss.item() == pytest.approx(divergence * (4 * 10 + 3) / 4)


def test_classes_that_exclude_each_other_are_compared_as_such() -> None:
    method = make_method("box_regression", 1)
    truth = targets(torch.zeros(1, 1, 1, dtype=torch.int64))
    taught = {"semantic": torch.zeros(1, 2, 1, 1)}
    outputs = {"semantic": torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)}
    loss = imitation_loss(outputs, taught, method, truth, CONFIG)
    assert loss.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_the_rest_is_compared_at_objects_alone_each_counting_the_same() -> None:
    """An object of one pixel and one of two, an ignored pixel and one of background."""
    method = make_method("spatial_embedding", 1)
    truth = targets(torch.tensor([[[1, 2, 2, 99, 0]]]))
    taught = torch.tensor([-1.0, 0.0, 1.0, 50.0, 60.0]).expand(1, 2, 1, 5)  # a spread of 1
    off = torch.tensor([0.55, 1.05, 0.05, 7.0, 7.0])
    outputs = {"offset": taught + off}
    loss = imitation_loss(outputs, {"offset": taught}, method, truth, CONFIG)
    # Beyond 0.1 an error counts by itself less 0.05, below by its square over 0.2.
    assert loss.item() == pytest.approx((0.5 + (1.0 + 0.05**2 / 0.2) / 2) / 2)


def test_an_image_without_objects_has_class_scores_alone() -> None:
    method = make_method("spatial_embedding", 2)
    truth = targets(torch.zeros(2, 8, 12, dtype=torch.int64))
    taught, outputs = by_chance(method, 1), by_chance(method, 2)
    loss = imitation_loss(outputs, taught, method, truth, CONFIG)
    alone = imitation_loss(outputs, {"seed": taught["seed"]}, method, truth, CONFIG)
    assert torch.isfinite(loss) and loss == alone


def test_a_teacher_says_what_its_network_says() -> None:
    method = make_method("spatial_embedding", len(CLASSES))
    teacher = Teacher("street-synthetic", method, CLASSES)
    images = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = load_checkpoint("street-synthetic").network().eval()(images)
    said = teacher(images, 1)
    for head in method.heads:
        torch.testing.assert_close(said[head.name], expected[head.name], atol=1e-4, rtol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_of_clips_remembers(tmp_path: Path) -> None:
    method = make_method("spatio_temporal", 2)
    network = ERFNet(method.heads, temporal=True).eval()
    for parameter in network.temporal.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path / "w.safetensors"
    checkpoint = Checkpoint(network.state_dict(), ("car", "bus"), "spatio_temporal")
    save_checkpoint(checkpoint, path)
    teacher = Teacher(str(path), method, ("car", "bus"))
    images = torch.rand(4, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(images, frames=2)["embedding"]
        forgetful = network(images, frames=1)["embedding"]
    said = teacher(images, 2)
    assert said.keys() == {head.name for head in method.heads}
    torch.testing.assert_close(said["embedding"], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(said["embedding"], forgetful, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "classes", "complaint"),
    [
        (make_method("box_regression", 5), CLASSES, "expected method box_regression, got spatial"),
        (make_method("spatial_embedding", 5, 1), CLASSES, "expected heads"),
        (make_method("spatial_embedding", 1), ("leaf",), r"expected classes \('leaf',\), got"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    method: Method, classes: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=f"train.teacher: street-synthetic: {complaint}"):
        Teacher("street-synthetic", method, classes)


def test_a_small_network_learns_from_a_large_one(tmp_path: Path) -> None:
    small = {**QUICK, "train.steps": 3, "train.validation_frames": 1, "method.profile": "fast"}
    config = merge(Config(), {**small, "train.teacher": "street-synthetic"})
    weights = load_checkpoint(train(config, tmp_path / "run", "street-synthetic"))
    assert weights.profile == "fast" and weights.notes["train"]["teacher"] == "street-synthetic"
    with (tmp_path / "run" / "log.csv").open() as file:
        assert all(float(row["teacher"]) > 0 for row in csv.DictReader(file))
    with pytest.raises(WeightsError, match="nobody"):
        train(merge(config, {"train.teacher": "nobody"}), tmp_path / "other")
