"""The arrangement of the network for OpenVINO changes no sum, and does what it is for."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_networks import randomize_batchnorms
from torch import Tensor

from instaseg_ros.config import RuntimeConfig
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import PROFILES, ERFNet
from instaseg_ros.numba_cache import compile_all
from instaseg_ros.runtimes import openvino_model
from instaseg_ros.runtimes.openvino_core import core
from instaseg_ros.runtimes.openvino_network import BAND_ROWS, PackedNetwork, unpack
from instaseg_ros.runtimes.openvino_runtime import OpenVinoRuntime

CAN_BF16 = False
if importlib.util.find_spec("openvino"):
    CAN_BF16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def as_pairs(images: NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) as (B, 6, H, W/2)."""
    batch, height, width, _ = images.shape
    seen = torch.from_numpy(images).reshape(batch, height, width // 2, 6)
    return seen.permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("profile", PROFILES)
def test_packed_outputs_are_those_of_the_network(profile: str) -> None:
    torch.manual_seed(0)
    heads = make_method("spatial_embedding", 3, 2).heads
    network = ERFNet(heads, profile, n_dense=5).eval()
    randomize_batchnorms(network)
    if not PROFILES[profile].lite:
        assert (network.encoder.initial_block.bn.weight[-3:] < 0).any()  # of pooled channels
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.inference_mode():
        expected = network.decoder_outputs(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
        packed = PackedNetwork(network).eval()(as_pairs(images))
    torch.testing.assert_close(packed[-1], expected[-1], check_stride=False)  # `dense`, as it is
    for one, output in zip(packed[:-1], expected[:-1], strict=True):
        assert one.shape == (2, 4 * output.shape[1], 32, 48)
        # Random weights make outputs of any size: 1e-5 of that size.
        size = output.abs().max().item()
        torch.testing.assert_close(
            torch.pixel_shuffle(one, 2), output, atol=1e-5 * size, rtol=0, check_stride=False
        )


def test_pooling_of_pairs_rounds_nothing_in_bfloat16() -> None:
    network = ERFNet(make_method("spatial_embedding", 1, 2).heads).eval()
    first = PackedNetwork(network).eval().network.encoder.initial_block
    images = np.random.default_rng(0).integers(0, 256, (1, 16, 32, 3), np.uint8)
    with torch.inference_mode():
        pairs = as_pairs(images).bfloat16()
        in_pairs = torch.relu(first.in_pairs.bfloat16()(pairs))
        left, further = torch.relu(first.in_rows.bfloat16()(in_pairs)).split(3, 1)
    largest = images.reshape(8, 2, 16, 2, 3).max((1, 3))
    np.testing.assert_array_equal((left + further)[0].permute(1, 2, 0).float(), largest)


@pytest.mark.parametrize("half_rows", [3, BAND_ROWS + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpacking_is_the_pixel_shuffle(dtype: torch.dtype, half_rows: int) -> None:
    compile_all()
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(2, half_rows, 12, 4 * 5, generator=generator).to(dtype)
    expected = torch.pixel_shuffle(packed.float().permute(0, 3, 1, 2), 2)
    outputs = np.empty(expected.shape, np.float32)
    as_lies = packed.view(torch.int16).numpy().view(np.uint16)
    unpack(packed.numpy() if dtype == torch.float32 else as_lies, outputs)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.skipif(not CAN_BF16, reason="needs OpenVINO on a CPU with bfloat16")
@pytest.mark.xdist_group("converting")
@pytest.mark.parametrize("weights", ["small", "with_dense"])
def test_no_convolution_falls_back_to_float32(
    request: pytest.FixtureRequest, weights: str, cache: None
) -> None:
    checkpoint = request.getfixturevalue(weights)
    runtime = OpenVinoRuntime(RuntimeConfig(precision="bf16"), checkpoint)
    (request,), _ = runtime._compile((1, 64, 96, 3))
    layers = request.get_compiled_model().get_runtime_model().get_ordered_ops()
    infos = [(layer, layer.get_rt_info()) for layer in layers]
    precisions = [
        info["outputPrecisions"].value
        for layer, info in infos
        if info["layerType"].value in ("Convolution", "Deconvolution")
        and layer.get_output_partial_shape(0)[1].get_length() != len(checkpoint.dense_names)
    ]  # the dense head's own output is float32
    assert len(precisions) > 20
    assert set(precisions) == {"bf16"}


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs OpenVINO")
@pytest.mark.xdist_group("converting")
@pytest.mark.parametrize("weights", ["small", "with_dense", "temporal"])
def test_images_side_by_side_are_as_each_alone(
    request: pytest.FixtureRequest, weights: str, cache: None
) -> None:
    """Byte for byte, though an image alone has both threads: three on two of them, then two, whose
    memory of the past is their own."""
    runtime = OpenVinoRuntime(
        RuntimeConfig(precision="fp32", threads=2), request.getfixturevalue(weights)
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 96, 3), np.uint8)
    alone, together = [], {}
    for n in range(3):
        alone.append({name: o.clone() for name, o in runtime(images[n : n + 1]).items()})
    together = {name: output.clone() for name, output in runtime(images).items()}
    for n, outputs in enumerate(alone):
        assert outputs.keys() == together.keys()
        for name, output in outputs.items():
            assert torch.equal(together[name][n : n + 1], output), name
    if weights == "temporal":
        state = together["next_state"][1:].contiguous()
        followed = {name: o.clone() for name, o in runtime(images[:2], state).items()}
        for n in range(2):
            outputs = runtime(images[n : n + 1], state[n : n + 1])
            for name, output in outputs.items():
                assert torch.equal(followed[name][n : n + 1], output), name


@pytest.mark.xdist_group("converting")
@pytest.mark.parametrize("exports", [True, False])
@pytest.mark.parametrize("kind", ["small", "small_lite", "temporal"])
def test_exported_and_traced_networks_serve_other_sizes_than_the_example(
    kind: str, exports: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, as with older torch, which exports what serves the example's size alone."""
    pytest.importorskip("openvino")
    if exports and not openvino_model.EXPORTS:
        pytest.skip("this torch does not export networks of any size")
    monkeypatch.setattr(openvino_model, "EXPORTS", exports)
    checkpoint = request.getfixturevalue(kind)
    network = checkpoint.network().eval()
    model = openvino_model.traced(network)
    runtime = OpenVinoRuntime(RuntimeConfig(precision="fp32", device="cpu"), checkpoint, model)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 160, 3), np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    for head, output in runtime(images).items():
        torch.testing.assert_close(output, expected[head], atol=2e-5, rtol=1e-4, msg=head)
