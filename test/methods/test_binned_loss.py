"""The loss for a whole batch at once, against the exact one image by image."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
import torch
from loss_batches import batch
from torch.utils._python_dispatch import TorchDispatchMode

from instaseg_ros.config.options.spatial_embedding import LossConfig
from instaseg_ros.methods import Targets, binned_loss
from instaseg_ros.methods.spatial_embedding import SpatialEmbedding

WAITING = ("nonzero", "_local_scalar_dense", "bincount", "unique", "masked_select")


@pytest.mark.parametrize("learned_center", [False, True])
@pytest.mark.parametrize("bootstrap_px", [0, 512])
@pytest.mark.parametrize(("n_sigma", "radius_px", "quality"), [(1, 10, 0.0), (2, 20, 0.9)])
def test_terms_are_right_to_a_thousandth(
    n_sigma: int,
    radius_px: float,
    quality: float,
    bootstrap_px: int,
    learned_center: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And gradients to one of a hundred; in one portion or several."""
    method = SpatialEmbedding(3, n_sigma)
    outputs, targets = batch(n_sigma, n_sigma, radius_px, quality)
    config = dataclasses.replace(
        LossConfig(),
        learned_center=learned_center,
        bootstrap_px=bootstrap_px,
        other_class_weight=3.0,
        small_object_px=300.0,
    )
    weights = torch.tensor([1.0, 2.0, 0.5])
    found = []
    for lovasz, most in (("exact", 1 << 24), ("binned", 1 << 24), ("binned", 4 * 3 * 96 * 160)):
        monkeypatch.setattr(binned_loss, "MAX_PAIRS", most)
        options = dataclasses.replace(config, lovasz=lovasz)
        terms = method.loss(outputs, targets, options, weights)
        found.append((terms, torch.autograd.grad(terms["total"], list(outputs.values()))))
    (exact, wanted), *others = found
    for terms, gradients in others:
        assert terms["instance"].item() == pytest.approx(exact["instance"].item(), abs=1e-3)
        for name in ("smooth", "seed"):
            assert terms[name].item() == pytest.approx(exact[name].item(), rel=1e-5), name
        for name, gradient, want in zip(outputs, gradients, wanted, strict=True):
            assert (gradient - want).norm() < 0.01 * want.norm(), name


def test_a_batch_without_objects_has_only_a_seed_term() -> None:
    method = SpatialEmbedding(3, 2)
    outputs = {h.name: torch.zeros(2, h.channels, 8, 16, requires_grad=True) for h in method.heads}
    labels = torch.zeros(2, 8, 16, dtype=torch.int64)
    none = [torch.zeros(0, dtype=torch.int64)] * 2
    config = dataclasses.replace(LossConfig(), lovasz="binned")
    terms = method.loss(outputs, Targets(labels, none, labels > 0), config)
    terms["total"].backward()
    assert terms["instance"].item() == terms["smooth"].item() == 0
    assert terms["seed"].item() == pytest.approx(3 * 0.25)


def test_classes_may_be_padded() -> None:
    method = SpatialEmbedding(3, 2)
    outputs, targets = batch(5, 2, 12, 0.5)
    config = dataclasses.replace(LossConfig(), lovasz="binned")
    padded = torch.full((3, 64), -1)
    for row, classes in zip(padded, targets.class_ids, strict=True):
        row[: len(classes)] = classes
    terms = method.loss(outputs, targets, config)
    again = method.loss(outputs, targets._replace(class_ids=padded), config)  # type: ignore[arg-type]
    for name, term in terms.items():
        assert term.item() == pytest.approx(again[name].item(), rel=1e-6)


class Operators(TorchDispatchMode):
    """The names of the computed terms."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_nothing_in_it_waits_for_a_gpu() -> None:
    """By the operators that torch runs: none whose shape or value the host must know."""
    outputs, targets = batch(6, 2, 12, 0.5)
    config = dataclasses.replace(LossConfig(), lovasz="binned", bootstrap_px=64)
    with Operators() as seen:
        total = SpatialEmbedding(3, 2).loss(outputs, targets, config)["total"]
        torch.autograd.grad(total, list(outputs.values()))
    assert len(seen.names) > 50
    assert not [name for name in seen.names if any(wait in name for wait in WAITING)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_finds_the_same_and_is_not_waited_for() -> None:
    outputs, targets = batch(6, 2, 12, 0.5)
    config = dataclasses.replace(LossConfig(), lovasz="binned", bootstrap_px=64)
    method = SpatialEmbedding(3, 2)
    expected = method.loss(outputs, targets, config)
    wanted = torch.autograd.grad(expected["total"], list(outputs.values()))
    device = torch.device("cuda")
    there = {name: o.detach().to(device).requires_grad_() for name, o in outputs.items()}
    truth, weights = targets.to(device), torch.ones(3, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = method.loss(there, truth, config, weights)
        gradients = torch.autograd.grad(terms["total"], list(there.values()))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-3), name
    for name, gradient, want in zip(outputs, gradients, wanted, strict=True):
        assert (gradient.cpu() - want).norm() < 1e-3 * want.norm(), name


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
@pytest.mark.parametrize("name", ["histogram", "pulls"])
@pytest.mark.newest
def test_kernels_compile_for_a_gpu(name: str) -> None:
    """To machine code, without a GPU, as a first launch would compile them there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from instaseg_ros.methods import binned_kernels

    kernel = getattr(binned_kernels, name)
    kinds = {"own": "*i64", "counted": "*u8", "present": "*i64"}
    signature = {
        arg: "constexpr" if arg.isupper() else "i32" if arg.startswith("n_") else "*fp32"
        for arg in kernel.arg_names
    }
    source = ASTSource(kernel, signature | kinds, {"BLOCK": 1024, "BINS": binned_loss.BINS})
    code = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": True}
    )
    assert code.asm["cubin"]
