"""What of the CUDA runtime needs no GPU: the network's forms, and compiling ahead of time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_folding import trained_like
from torch import Tensor, nn

from instaseg_ros.methods import make_method
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.erfnet import PROFILES, ERFNet
from instaseg_ros.runtimes.aot_inductor import key, load_or_compile
from instaseg_ros.runtimes.cuda_network import PixelsToOutputs, fuse


def folded(profile: str = "published") -> ERFNet:
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 3, 2).heads, profile).eval()
    trained_like(network)
    return fold(network).to(memory_format=torch.channels_last)


def conv_relu_stand_in(x: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
    """What cuDNN's fused convolution computes, in parts, so that a CPU can."""
    return torch.relu(torch.conv2d(x, weight, bias, *geometry))


def conv_add_relu_stand_in(
    x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor, *geometry: Any
) -> Tensor:
    return torch.relu(torch.conv2d(x, weight, bias, *geometry) + alpha * z)


@pytest.mark.parametrize("profile", PROFILES)
def test_fused_network_is_the_network(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    network = folded(profile)
    x = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        expected = network(x)
        monkeypatch.setattr(torch, "cudnn_convolution_relu", conv_relu_stand_in)
        monkeypatch.setattr(torch, "cudnn_convolution_add_relu", conv_add_relu_stand_in)
        got = fuse(network)(x)
    for head, output in expected.items():
        torch.testing.assert_close(got[head], output)


def test_pixels_go_in_and_contiguous_floats_come_out() -> None:
    network = folded().bfloat16()
    images = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = PixelsToOutputs(network)(images)
        expected = network.float()(images.permute(0, 3, 1, 2) / 255)
    heads = network.split_heads(outputs)
    assert all(t.dtype == torch.float32 and t.is_contiguous() for t in outputs)
    for head, output in expected.items():
        assert (heads[head] - output).abs().max() < 0.1 * output.abs().max()


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
    monkeypatch.setattr(
        torch._inductor, "aoti_load_package", lambda path: torch.export.load(path).module()
    )


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
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


def test_the_network_can_be_exported_for_compiling() -> None:
    images = torch.randint(0, 256, (1, 16, 24, 3), dtype=torch.uint8)
    module = PixelsToOutputs(folded())
    with torch.no_grad():
        program = torch.export.export(module, (images,))
        for got, expected in zip(program.module()(images), module(images), strict=True):
            torch.testing.assert_close(got, expected)
