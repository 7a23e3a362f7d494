"""Online bootstrapping: which pixels are hard, and the losses over them by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_spatial_embedding import golden_labels, golden_prediction

from instaseg_ros.config.options import options_of
from instaseg_ros.config.options.spatial_embedding import LossConfig
from instaseg_ros.methods import Targets, make_method
from instaseg_ros.methods.bootstrapping import EASY, hard_pixels
from instaseg_ros.methods.semantic import IGNORED, semantic_loss
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding


def test_hard_pixels_of_each_image() -> None:
    correct = torch.tensor([[0.1, 0.9, 0.8, 0.3, 0.0], [0.99, 0.9, 0.95, 0.8, 0.2]])
    counted = torch.tensor([[True, True, True, True, False], [True, True, True, True, True]])
    none, first, second = [False] * 5, [True, False, False, True, False], [False] * 4 + [True]
    assert hard_pixels(correct, counted, 1).tolist() == [first, second]
    first, second = [True, False, True, True, False], [False, True, False, True, True]
    assert hard_pixels(correct, counted, 3).tolist() == [first, second]
    assert hard_pixels(correct, counted, 100).tolist() == counted.tolist()
    assert hard_pixels(correct, counted, 0).tolist() == counted.tolist()
    assert hard_pixels(correct, counted & False, 3).tolist() == [none, none]


def test_hard_pixels_that_tie_are_all_kept() -> None:
    correct = torch.full((9,), EASY)
    assert hard_pixels(correct, correct > 0, 2).all()


def test_semantic_loss_over_hard_pixels_by_hand() -> None:
    """Of four pixels with p = 0.5, 0.8, 0.9 and an ignored 0.1."""
    p = torch.tensor([0.5, 0.8, 0.9, 0.1])
    logits = torch.stack([torch.zeros(4), torch.logit(p)])[None, :, None]
    truth = torch.tensor([[[1, 1, 1, IGNORED]]])
    expected = {
        0: -math.log(0.5 * 0.8 * 0.9) / 3,
        1: -math.log(0.5),
        2: -math.log(0.5 * 0.8) / 2,
        3: -math.log(0.5 * 0.8 * 0.9) / 3,
    }
    for at_least, value in expected.items():
        loss = semantic_loss(logits, truth, bootstrap_px=at_least)
        assert loss.item() == pytest.approx(value, rel=1e-5)
        weighted = semantic_loss(logits, truth, torch.tensor([3.0]), at_least)
        assert weighted.item() == pytest.approx(3 * value, rel=1e-5)
    assert semantic_loss(logits, torch.full_like(truth, IGNORED), bootstrap_px=2) == 0


def seed_term(bootstrap_px: int, seed: torch.Tensor, classes: int = 1) -> torch.Tensor:
    raw = golden_prediction(1)
    outputs = {"offset": raw[:, :2], "bandwidth": raw[:, 2:3], "seed": seed}
    labels = golden_labels()
    targets = Targets(labels, [torch.zeros(3, dtype=torch.int64)], torch.zeros_like(labels) > 0)
    config = LossConfig(bootstrap_px=bootstrap_px)
    return SpatialEmbedding(classes, 1).loss(outputs, targets, config)["seed"]


def test_seed_term_over_hard_pixels() -> None:
    seed = golden_prediction(1)[:, 3:].requires_grad_()
    assert seed_term(48 * 64, seed).item() == pytest.approx(seed_term(0, seed).item(), rel=1e-6)
    hard = seed_term(1, seed)
    assert hard > 1.1 * seed_term(0, seed)
    (gradient,) = torch.autograd.grad(hard, seed)
    background = golden_labels()[0] == 0
    used = gradient[0, 0][background] != 0
    assert torch.equal(used, torch.sigmoid(seed[0, 0][background]) > 1 - EASY)


def test_seed_map_of_another_class_makes_a_pixel_hard() -> None:
    """One background pixel of 3072 is taken for the second class."""
    seed = torch.full((1, 2, 48, 64), -30.0)
    seed[0, 0][golden_labels()[0] > 0] = 0.0
    seed[0, 1, 0, 0] = 30.0
    seed.requires_grad_()
    (gradient,) = torch.autograd.grad(seed_term(1, seed, 2), seed)
    labels = golden_labels()[0]
    assert seed_term(1, seed, 2) > seed_term(0, seed, 2)
    assert not gradient[0, :, labels == 0][:, 1:].any()


@pytest.mark.parametrize("name", ["box_regression", "discriminative", "spatio_temporal"])
def test_methods_with_a_semantic_head_learn_from_hard_pixels(name: str) -> None:
    method = make_method(name, 2)
    torch.manual_seed(0)
    outputs = {head.name: torch.randn(1, head.channels, 16, 24) for head in method.heads}
    outputs["semantic"].mul_(4).requires_grad_()
    labels = torch.zeros(1, 16, 24, dtype=torch.int64)
    labels[0, 4:12, 5:20] = 1
    targets = Targets(labels, [torch.tensor([1])], labels < 0)
    used = {}
    for at_least in (0, 8):
        config = dataclasses.replace(options_of(name).LossConfig(), bootstrap_px=at_least)
        total = method.loss(outputs, targets, config)["total"]
        (gradient,) = torch.autograd.grad(total, outputs["semantic"])
        used[at_least] = (gradient != 0).any(1)
    right = torch.softmax(outputs["semantic"], 1).gather(1, 2 * (labels > 0)[:, None].long())
    assert used[0].all() and torch.equal(used[8], right[:, 0] < EASY)
