"""What of the CUDA runtime needs no GPU: the network's forms, and compiling ahead of time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_networks import randomize_batchnorms
from torch import Tensor, nn

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.erfnet import PROFILES, ERFNet
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.runtimes.aot_inductor import key, load_or_compile
from instaseg_ros.runtimes.cuda_network import UNIT, PixelsToOutputs, Rearranged, Verdicts, fuse


def folded(profile: str = "published", n_dense: int = 0) -> ERFNet:
    torch.manual_seed(0)
    heads = make_method("spatial_embedding", 3, 2).heads
    network = ERFNet(heads, profile, n_dense=n_dense).eval()
    randomize_batchnorms(network)
    return fold(network).to(memory_format=torch.channels_last)


def relu_of_sum_stand_in(
    x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor, *geometry: Any
) -> Tensor:
    """What cuDNN's fused convolution computes, in parts, so that a CPU can."""
    y = torch.conv2d(x, weight, bias, *geometry)
    assert z.shape == y.shape and z.dtype == y.dtype
    return torch.relu(y + alpha * z)


def pixels(size: tuple[int, int] = (64, 96)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8, generator=generator)


def assert_same(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Up to rounding: random weights make outputs of any size, so 1e-5 of that size."""
    for one, output in zip(got, expected, strict=True):
        assert one.dtype == torch.float32 and one.shape == output.shape
        size = output.abs().max().item()
        torch.testing.assert_close(one, output, atol=1e-5 * size, rtol=0, check_stride=False)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_rearranged_network_is_the_network(
    monkeypatch: pytest.MonkeyPatch, profile: str, side_by_side: bool, fused: bool
) -> None:
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", relu_of_sum_stand_in)
    network, images = folded(profile, n_dense=5), pixels()
    module = Rearranged(network, side_by_side).to(memory_format=torch.channels_last)
    verdicts: Verdicts = {}
    if fused:
        fuse(module, verdicts)
    with torch.inference_mode():
        assert_same(module(images), PixelsToOutputs(network)(images))
        assert_same(module(images), PixelsToOutputs(network)(images))  # kinds are known now
    assert any(verdicts.values()) == fused
    assert all(verdicts.values()) or PROFILES[profile].lite


@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_rearranged_network_remembers(temporal: Checkpoint, side_by_side: bool) -> None:
    network, images = fold(temporal.network()), pixels((48, 80))
    state = torch.rand(state_shape(2, (48, 80)))
    with torch.inference_mode():
        expected = PixelsToOutputs(network)(images, state)
        assert_same(Rearranged(network, side_by_side)(images, state), expected)
        forgetful = PixelsToOutputs(network)(images)
    assert (forgetful[0] - expected[0]).abs().max() > 1e-3 * expected[0].abs().max()


def test_matrix_units_get_whole_channels() -> None:
    """Of all but the transposed convolutions between the resolutions, and the unused head."""
    for profile in PROFILES:
        network = Rearranged(folded(profile, n_dense=19)).network
        for name, conv in network.named_modules():
            if isinstance(conv, nn.Conv2d) and name != "encoder.output_conv.conv":
                assert conv.in_channels % UNIT == conv.out_channels % UNIT == 0, (profile, name)


def test_decoders_side_by_side_are_half_as_many_convolutions() -> None:
    def count(side_by_side: bool) -> int:
        decoders = Rearranged(folded(), side_by_side).network.decoders
        return sum(isinstance(part, nn.Conv2d | nn.ConvTranspose2d) for part in decoders.modules())

    assert (count(False), count(True)) == (38, 19)


def test_one_convolution_that_does_not_fuse_leaves_the_others_fused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that cuDNN refuses, one whose result is another, one that is not a number."""

    def picky(x: Tensor, weight: Tensor, z: Tensor, *others: Any) -> Tensor:
        if weight.shape[1] == UNIT:
            raise RuntimeError("FIND was unable to find an engine to execute this computation")
        y = relu_of_sum_stand_in(x, weight, z, *others)
        if weight.shape[:2] == (64, 16):
            return y * 1.01
        return y * torch.nan if weight.shape[2:] == (1, 3) and len(weight) == 16 else y

    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", picky)
    network, images = folded(), pixels()
    verdicts: Verdicts = {}
    module = fuse(Rearranged(network), verdicts)
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        for _ in range(2):
            assert_same(module(images), PixelsToOutputs(network)(images))
    refused = {kind[0] for kind, holds in verdicts.items() if not holds}
    assert refused == {(16, 8, 3, 3), (64, 16, 3, 3), (16, 16, 1, 3)}
    assert sum(verdicts.values()) > len(refused)
    assert len(caplog.messages) == sum(not holds for holds in verdicts.values())
    assert "unable to find an engine" in caplog.text and "differs by" in caplog.text


def test_pixels_go_in_and_contiguous_floats_come_out() -> None:
    network = folded()
    images = pixels((16, 24))
    forms = PixelsToOutputs(network), Rearranged(network), Rearranged(network, side_by_side=True)
    with torch.inference_mode():
        expected = PixelsToOutputs(network)(images)
        for form in forms:
            outputs = copy.deepcopy(form).bfloat16()(images)
            assert all(t.dtype == torch.float32 for t in outputs)
            assert outputs[0][0].is_contiguous()
            for one, output in zip(outputs, expected, strict=True):
                assert (one - output).abs().max() < 0.1 * output.abs().max()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (torch.relu(self.conv(images.permute(0, 3, 1, 2) / 255)),)


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced program stands for what a C++ compiler would make of it, which takes seconds."""
    monkeypatch.setattr(
        torch._inductor,
        "aoti_compile_and_package",
        lambda program, package_path: torch.export.save(program, package_path),
    )

    def load(path: str, run_single_threaded: bool, device_index: int) -> Any:
        # Else it asks for events where a stream is captured, which CUDA forbids.
        assert run_single_threaded
        assert device_index == -1  # a CPU
        return torch.export.load(path).module()

    monkeypatch.setattr(torch._inductor, "aoti_load_package", load)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.newest
def test_compiled_module_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setenv("INSTASEG_CACHE", str(tmp_path))
    if not compiled:
        no_compiler(monkeypatch)
    module, images = Small(), torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    with torch.inference_mode():
        (expected,) = module(images)
        (got,) = load_or_compile(module, images)(images)
    torch.testing.assert_close(got, expected)
    (kept,) = tmp_path.glob("aot/*")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    (again,) = load_or_compile(module, images)(images)
    torch.testing.assert_close(again, expected)
    with pytest.raises(AssertionError, match="compiled again"):
        load_or_compile(module, images[:, :4])
    assert list(tmp_path.glob("aot/*")) == [kept]


def test_key_names_all_that_a_compiled_module_depends_on() -> None:
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    other = Small()
    with torch.no_grad():
        other.conv.bias[0] += 1e-3
    keys = [
        key(Small(), images),
        key(Small().half(), images),
        key(other, images),
        key(Small(), images[:, :4]),
        key(Small(), images.float()),
    ]
    assert len(set(keys)) == 5
    assert key(Small(), images) == keys[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_the_network_can_be_exported_for_compiling(profile: str) -> None:
    images, module = pixels(), Rearranged(folded(profile))
    with torch.no_grad():
        program = torch.export.export(module, (images,))
        assert_same(program.module()(images), module(images))
