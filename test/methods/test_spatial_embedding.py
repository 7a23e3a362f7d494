"""Loss of the spatial embedding method against hand-computed golden numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from instaseg_ros.config.options.spatial_embedding import LossConfig
from instaseg_ros.methods import Targets, instance_loss
from instaseg_ros.methods.lovasz import lovasz_hinge
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding, pixel_grid

GOLDEN = {  # n_sigma, learned_center: instance, smooth, seed, total, sum |grad| per channel
    (1, False): (
        1.738275,
        0.000486,
        1.055360,
        2.798493,
        [37.449814, 32.646824, 2.608863, 0.775620],
    ),
    (1, True): (1.362556, 0.000486, 0.889746, 2.257159, [53.069271, 55.250839, 2.137322, 0.682840]),
    (2, False): (
        *(1.638480, 0.000473, 0.963178, 2.606391),
        [55.136757, 23.263361, 1.794395, 0.659078, 0.728082],
    ),
    (2, True): (
        *(1.275431, 0.000473, 0.948787, 2.228952),
        [62.866631, 35.076759, 1.041856, 1.256581, 0.716170],
    ),
}


def golden_prediction(n_sigma: int) -> torch.Tensor:
    y, x = torch.meshgrid(
        torch.arange(48, dtype=torch.float64), torch.arange(64, dtype=torch.float64), indexing="ij"
    )
    channels = [
        0.02 * torch.sin(0.11 * x + 0.07 * y),
        0.02 * torch.cos(0.05 * x - 0.13 * y),
        0.9 + 0.05 * torch.sin(0.2 * x) * torch.cos(0.15 * y),
        0.8 + 0.04 * torch.cos(0.17 * x + 0.1 * y),
        2 * torch.sin(0.3 * x + 0.1) * torch.cos(0.2 * y - 0.3),
    ]
    if n_sigma == 1:
        del channels[3]
    return torch.stack(channels).float()[None]


def golden_labels() -> torch.Tensor:
    labels = torch.zeros(1, 48, 64, dtype=torch.int64)
    labels[0, 4:20, 5:25] = 1
    labels[0, 10:40, 30:51] = 2
    labels[0, 30:45, 4:21] = 3
    return labels


@pytest.mark.parametrize(("n_sigma", "learned_center"), GOLDEN)
def test_loss_reproduces_golden_numbers(n_sigma: int, learned_center: bool) -> None:
    raw = golden_prediction(n_sigma).requires_grad_()
    parts = raw.split([2, n_sigma, 1], 1)
    outputs = dict(zip(("offset", "bandwidth", "seed"), parts, strict=True))
    labels = golden_labels()
    targets = Targets(labels, [torch.zeros(3, dtype=torch.int64)], torch.zeros_like(labels) > 0)
    config = dataclasses.replace(LossConfig(), learned_center=learned_center)
    terms = SpatialEmbedding(1, n_sigma).loss(outputs, targets, config)
    terms["total"].backward()
    instance, smooth, seed, total, gradients = GOLDEN[n_sigma, learned_center]
    assert terms["instance"].item() == pytest.approx(instance, abs=2e-6)
    assert terms["smooth"].item() == pytest.approx(smooth, abs=1e-6)
    assert terms["seed"].item() == pytest.approx(seed, abs=2e-6)
    assert terms["total"].item() == pytest.approx(total, abs=4e-6)
    assert raw.grad is not None
    assert raw.grad.abs().sum((0, 2, 3)).tolist() == pytest.approx(gradients, rel=1e-4)


def test_lovasz_hinge_reproduces_golden_numbers() -> None:
    logits = torch.tensor([0.5, -0.2, 1.3, -1.1, 0.4, -0.7])
    truth = torch.tensor([1, 0, 1, 0, 1, 1]) > 0
    together = lovasz_hinge(logits, truth, torch.zeros(6, dtype=torch.int64), 1)
    assert together.item() == pytest.approx(0.765, abs=1e-6)
    apart = lovasz_hinge(logits, truth, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    assert apart.item() == pytest.approx(0.791667, abs=1e-6)


def test_batch_without_objects_has_only_a_seed_term() -> None:
    method = SpatialEmbedding(3, 2)
    outputs = {h.name: torch.zeros(2, h.channels, 8, 16, requires_grad=True) for h in method.heads}
    labels = torch.zeros(2, 8, 16, dtype=torch.int64)
    none = [torch.zeros(0, dtype=torch.int64)] * 2
    terms = method.loss(outputs, Targets(labels, none, labels > 0), LossConfig())
    terms["total"].backward()
    assert terms["instance"].item() == terms["smooth"].item() == 0
    assert terms["seed"].item() == pytest.approx(3 * 0.25)  # sigmoid(0)^2, three maps


def test_ignored_pixels_have_no_gradient() -> None:
    method = SpatialEmbedding(1, 1)
    raw = golden_prediction(1).requires_grad_()
    outputs = dict(zip(("offset", "bandwidth", "seed"), raw.split([2, 1, 1], 1), strict=True))
    labels = golden_labels()
    ignore = torch.zeros_like(labels, dtype=torch.bool)
    ignore[0, :, 28:40] = True
    targets = Targets(labels, [torch.zeros(3, dtype=torch.int64)], ignore)
    method.loss(outputs, targets, LossConfig())["total"].backward()
    assert raw.grad is not None
    assert raw.grad[0, :, :, 28:40].abs().sum() == 0
    assert raw.grad[0, :, :, 40:].abs().sum() > 0


@pytest.mark.parametrize("radius_px", [1.0, 8.0, 60.0])
def test_what_instances_do_not_look_at_adds_nothing(
    radius_px: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of forty touching instances equal those over all pixels of the image, in
    one portion or many."""
    rng = torch.Generator().manual_seed(3)
    height, width, n = 40, 64, 40
    own = torch.arange(height)[:, None] // 8 * 8 + torch.arange(width) // 8
    own[torch.rand(height, width, generator=rng) < 0.3] = -1
    counted = torch.rand(height * width, generator=rng) < 0.9
    own = own.flatten().masked_fill(~counted, -1)
    own[own == 7] = -1  # an instance of which nothing counts
    grid = pixel_grid(height, width).flatten(1)
    embedding = grid + 0.004 * torch.randn(2, height * width, generator=rng)
    center = torch.stack([grid[:, own == k].mean(1).nan_to_num() for k in range(n)], 1)
    scale = 0.7 / (radius_px / 1024 * (0.5 + torch.rand(2, n, generator=rng))) ** 2
    inputs = [t.requires_grad_() for t in (embedding, center, scale)]

    def everything() -> torch.Tensor:
        terms = []
        for k in range(n):
            logits = 2 * torch.exp(-((embedding - center[:, [k]]) ** 2 * scale[:, [k]]).sum(0)) - 1
            group = torch.zeros(int(counted.sum()), dtype=torch.int64)
            if (own == k).any():
                terms.append(lovasz_hinge(logits[counted], (own == k)[counted], group, 1))
        return torch.stack(terms).sum() / n

    expected = everything()
    wanted = torch.autograd.grad(expected, inputs)
    for most in (instance_loss.MAX_PAIRS, 5000):
        monkeypatch.setattr(instance_loss, "MAX_PAIRS", most)
        loss = instance_loss.InstanceLoss.apply(*inputs, own, counted)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for got, want in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
            assert (got - want).norm() < 1e-3 * want.norm()  # near ties may change places


def test_a_class_that_weighs_more_counts_so_often_in_the_seed_term() -> None:
    outputs = dict(
        zip(("offset", "bandwidth", "seed"), golden_prediction(1).split([2, 1, 1], 1), strict=True)
    )
    labels = golden_labels()
    targets = Targets(labels, [torch.zeros(3, dtype=torch.int64)], torch.zeros_like(labels) > 0)
    method = SpatialEmbedding(1, 1)
    seeds = [
        method.loss(outputs, targets, dataclasses.replace(LossConfig(), **options), weights)["seed"]
        for options, weights in (({"foreground_weight": 30.0}, None), ({}, torch.tensor([3.0])))
    ]
    assert seeds[0].item() == pytest.approx(seeds[1].item())
    assert seeds[0].item() > 1.5 * GOLDEN[1, False][2]
