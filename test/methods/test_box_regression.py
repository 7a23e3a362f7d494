"""Per-pixel boxes: formulas and loss by hand, decoding of ideal outputs, four frames by heart."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from box_scenes import perfect_outputs, street_of_ellipses, targets_of_image

from instaseg_ros.config.options.box_regression import DecodeConfig, LossConfig
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.frames import Instances
from instaseg_ros.methods import Targets, make_method
from instaseg_ros.methods.box_regression import BETA, UNIT_PX, box_iou, box_loss, embed, raw_outputs
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.training.state import start_from

CONFIG = DecodeConfig(seed_threshold=0.3, min_pixels=12)


def decode(outputs: dict[str, torch.Tensor], n_classes: int) -> Instances:
    (found,) = make_method("box_regression", n_classes).decode(outputs, CONFIG)
    return found


def test_boxes_from_raw_outputs_and_back() -> None:
    raw = torch.tensor([0.5, -0.25, math.log(2), 0.0])
    position = torch.tensor([10.5, 40.5])
    box = embed(raw, position)
    assert box.tolist() == pytest.approx(
        [10.5 + UNIT_PX / 2, 40.5 - UNIT_PX / 4, 2 * UNIT_PX, UNIT_PX]
    )
    assert raw_outputs(box, position).tolist() == pytest.approx(raw.tolist(), abs=1e-6)
    assert embed(torch.full((4,), 1e9), position).isfinite().all()


def test_overlap_of_boxes_by_hand() -> None:
    one = torch.tensor([[10.0, 10], [10, 10], [8, 8], [4, 4]])  # 8 high, 4 wide
    two = torch.tensor([[11.0, 20], [12, 10], [8, 2], [4, 2]])
    two[0, 1] = 10
    assert box_iou(one, two).tolist() == pytest.approx([18 / 46, 4 / 32])
    assert box_iou(one, one + torch.tensor([[9.0], [0], [0], [0]])).tolist() == [0, 0]


def one_row(errors: list[list[float]], sizes: list[int]) -> tuple[torch.Tensor, Targets]:
    """Objects side by side in one row, every pixel with its own error in raw units (4)."""
    labels = np.repeat(np.arange(1, len(sizes) + 1), sizes)[None]
    truth = targets_of_image(labels, [0] * len(sizes))
    raw = perfect_outputs(truth, 1)["box"] + torch.tensor(errors).T[None, :, None]
    return raw.requires_grad_(), truth


def test_every_instance_counts_the_same() -> None:
    """One pixel off by 1 in x in an object of one pixel, all of three pixels by BETA / 2."""
    raw, truth = one_row([[1.0, 0, 0, 0], *[[0, BETA / 2, 0, 0]] * 3], [1, 3])
    loss = box_loss(raw, truth)
    assert loss.item() == pytest.approx(((1 - BETA / 2) + BETA / 8) / 2)
    loss.backward()
    assert raw.grad is not None
    assert raw.grad[0, :, 0].tolist() == [
        pytest.approx([0.5, 0, 0, 0], abs=1e-6),
        pytest.approx([0, *[0.5 / 6] * 3], abs=1e-6),
        pytest.approx([0] * 4, abs=1e-6),
        pytest.approx([0] * 4, abs=1e-6),
    ]


def test_the_box_is_of_what_is_not_ignored() -> None:
    raw, truth = one_row([[0.0] * 4] * 6, [6])
    truth.ignore[0, 0, 4:] = True  # leaves four pixels
    width = math.log(6 / 4)
    expected = 1 / UNIT_PX  # the centre lies a pixel further left
    loss = box_loss(raw, truth)
    square = 0.5 * expected**2 / BETA
    assert loss.item() == pytest.approx(square + width - BETA / 2, rel=1e-4)
    loss.backward()
    assert raw.grad is not None and not raw.grad[..., 4:].any()


def test_bootstrapping_leaves_out_boxes_that_overlap_the_true_one() -> None:
    """Hard is a box that overlaps little: an object of 20 x 1 pixels, one of which sees it twice as
    long, and one half as long again more."""
    errors = [[0.0] * 4 for _ in range(20)]
    errors[3] = [0, 0, 0, math.log(2)]
    errors[5] = [0, 0, 0, math.log(1.25)]
    raw, truth = one_row(errors, [20])
    everything = box_loss(raw, truth)
    losses = [math.log(factor) - BETA / 2 for factor in (2, 1.25)]
    assert everything.item() == pytest.approx(sum(losses) / 20, rel=1e-4)
    assert box_loss(raw, truth, 1).item() == pytest.approx(losses[0], rel=1e-4)
    assert box_loss(raw, truth, 2).item() == pytest.approx(sum(losses) / 2, rel=1e-4)
    assert box_loss(raw, truth, 20).item() == pytest.approx(everything.item(), rel=1e-4)


def test_gradients_of_the_box_loss() -> None:
    torch.manual_seed(0)
    raw = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    labels = torch.zeros(2, 6, 8, dtype=torch.int64)
    labels[0, :3, 1:5], labels[0, 3:6, 4:7], labels[1, 2:4, 3:5] = 1, 2, 1
    truth = Targets(labels, [torch.tensor([0, 0]), torch.tensor([0])], labels < 0)
    assert torch.autograd.gradcheck(lambda r: box_loss(r, truth), raw)


@pytest.mark.parametrize("bootstrap_px", [0, 512])
@pytest.mark.parametrize("what", ["no object", "all ignored", "an object without pixels"])
def test_nothing_to_learn_from(what: str, bootstrap_px: int) -> None:
    method = make_method("box_regression", 2)
    outputs = {
        head.name: torch.randn(2, head.channels, 8, 16, requires_grad=True) for head in method.heads
    }
    labels = torch.zeros(2, 8, 16, dtype=torch.int64)
    labels += what == "all ignored"
    classes = [torch.zeros(int(what != "no object"), dtype=torch.int64)] * 2
    truth = Targets(labels, classes, (labels > 0) & (what == "all ignored"))
    config = dataclasses.replace(LossConfig(), bootstrap_px=bootstrap_px)
    terms = method.loss(outputs, truth, config)
    terms["total"].backward()
    assert terms["box"] == 0 and terms["total"].isfinite()
    assert (terms["semantic"] == 0) == (what == "all ignored")
    assert all(output.grad is None or output.grad.isfinite().all() for output in outputs.values())


@pytest.mark.parametrize("bootstrap_px", [0, 512])
def test_ideal_outputs_have_less_loss_than_noise(bootstrap_px: int) -> None:
    truth = targets_of_image(*street_of_ellipses(96, 128, 9))
    method = make_method("box_regression", 3)
    config = dataclasses.replace(LossConfig(), bootstrap_px=bootstrap_px)
    best = perfect_outputs(truth, 3)
    noise = {name: torch.randn_like(value) for name, value in best.items()}
    low, high = (method.loss(outputs, truth, config) for outputs in (best, noise))
    assert all(low[name] < high[name] for name in ("total", "box", "semantic"))
    assert low["box"] < 1e-6


def test_ideal_outputs_decode_to_the_truth() -> None:
    labels, classes = street_of_ellipses(192, 256, 12)
    found = decode(perfect_outputs(targets_of_image(labels, classes), 3), 3)
    pairs = np.unique(np.stack([labels.ravel(), found.labels.ravel()]), axis=1).T
    assert len(pairs) == len(found) + 1 == labels.max() + 1 > 6
    by_truth = dict(pairs[1:].tolist())
    assert [found.class_ids[by_truth[k + 1] - 1] for k in range(len(classes))] == classes


def test_objects_whose_boxes_tell_them_apart_may_touch_and_hide_each_other() -> None:
    labels = np.zeros((64, 96), int)
    labels[10:50, 10:40], labels[20:60, 40:80], labels[35:50, 20:32] = 1, 2, 3
    found = decode(perfect_outputs(targets_of_image(labels, [1, 1, 1]), 2), 2)
    pairs = np.unique(np.stack([labels.ravel(), found.labels.ravel()]), axis=1).T
    assert len(pairs) == 4 and found.class_ids.tolist() == [1, 1, 1]


def test_a_batch_and_an_empty_image() -> None:
    labels, classes = street_of_ellipses(64, 96, 5)
    one = perfect_outputs(targets_of_image(labels, classes), 3)
    none = perfect_outputs(targets_of_image(np.zeros_like(labels), []), 3)
    outputs = {name: torch.cat([none[name], one[name]]) for name in one}
    empty, found = make_method("box_regression", 3).decode(outputs, CONFIG)
    assert len(empty) == 0 and not empty.labels.any()
    np.testing.assert_array_equal(found.labels, decode(one, 3).labels)


@pytest.mark.parametrize("strength", [0.1, 3.0])
def test_a_network_by_chance_is_decoded(strength: float) -> None:
    torch.manual_seed(0)
    outputs = {
        "box": strength * torch.randn(1, 4, 64, 96),
        "semantic": strength * torch.randn(1, 4, 64, 96),
    }
    found = make_method("box_regression", 3).decode(outputs, DecodeConfig(0.0, 0.0, 0))[0]
    assert len(found) > 10 and found.scores.min() >= 0 and found.scores.max() <= 1


def overfit(steps: int, bootstrap_px: int) -> float:
    """AP50 on four small frames after so many steps on them."""
    scenes = [street_of_ellipses(64, 96, 7, seed) for seed in range(4)]
    method = make_method("box_regression", 3)
    torch.manual_seed(0)
    colors = torch.rand(4, 8, 3)
    images = [colors[k][labels].permute(2, 0, 1) for k, (labels, _) in enumerate(scenes)]
    truth = [targets_of_image(*scene) for scene in scenes]
    batch = Targets(
        torch.cat([t.labels for t in truth]),
        [t.class_ids[0] for t in truth],
        torch.cat([t.ignore for t in truth]),
    )
    network = ERFNet(method.heads)
    method.initialise(network)
    start_from(network, method, ("a", "b", "c"), "street-synthetic")
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    config = dataclasses.replace(LossConfig(), bootstrap_px=bootstrap_px)
    for _ in range(steps):
        outputs = network(torch.stack(images))
        optimizer.zero_grad()
        method.loss(outputs, batch, config)["total"].backward()
        optimizer.step()
    counts = []
    for found, (labels, classes) in zip(method.decode(outputs, CONFIG), scenes, strict=True):
        ids = np.arange(1, len(classes) + 1)
        counts.append(frame_counts(labels, ids, np.array(classes), found, min_pixels=30))
    return average_precision(counts, ("a", "b", "c"))["mean"].ap50


@pytest.mark.slow
@pytest.mark.parametrize("bootstrap_px", [0, 512])
def test_four_frames_are_learned_by_heart(bootstrap_px: int) -> None:
    assert overfit(100, bootstrap_px) > 0.7
