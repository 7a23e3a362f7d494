"""A temporal network gives frame by frame what it gives for the whole clip, in every runtime."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from instaseg_ros.cameras import LONGEST_GAP_NS, Cameras, keep_states, take_states
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, RuntimeConfig, merge
from instaseg_ros.config.options.spatio_temporal import DecodeConfig
from instaseg_ros.deploy.export import Order, export
from instaseg_ros.deploy.quantize import Order as QuantizeOrder
from instaseg_ros.deploy.quantize import quantize
from instaseg_ros.errors import ConfigError, ImageError
from instaseg_ros.frames import Frame
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.model.temporal import NEXT_STATE, state_shape
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.runtimes import RUNTIMES

pytestmark = pytest.mark.xdist_group("converting")
SIZE = (48, 80)
FRAMES = 4


@pytest.fixture(scope="module")
def checkpoint(temporal: Checkpoint, cache: None) -> Checkpoint:
    return temporal


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    """(2 clips, FRAMES, H, W, 3)"""
    return np.random.default_rng(0).integers(0, 256, (2, FRAMES, *SIZE, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def clips(checkpoint: Checkpoint, video: np.ndarray) -> dict[str, torch.Tensor]:
    """What the float32 network says of the two clips, each as a whole: (2, FRAMES, C, H, W)."""
    pixels = torch.from_numpy(video).flatten(0, 1).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        outputs = checkpoint.network().eval()(pixels, None, FRAMES)
    assert outputs[NEXT_STATE].shape == state_shape(2, SIZE)
    heads = {k: o.unflatten(0, (2, FRAMES)) for k, o in outputs.items() if k != NEXT_STATE}
    return heads | {NEXT_STATE: outputs[NEXT_STATE]}


RUNS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not all(map(importlib.util.find_spec, needs)), reason=f"{needs} are not installed"
        ),
    )
    for name, needs in (
        ("torch", ()),
        ("openvino", ("openvino",)),
        ("onnx", ("onnx", "onnxscript", "onnxruntime")),
    )
]


@pytest.mark.parametrize("name", RUNS)
def test_frame_by_frame_is_as_the_whole_clip(
    checkpoint: Checkpoint, video: np.ndarray, clips: dict[str, torch.Tensor], name: str
) -> None:
    runtime = RUNTIMES[name](RuntimeConfig(precision="fp32", device="cpu"), checkpoint)
    state = None
    for t in range(FRAMES):
        outputs = runtime(np.ascontiguousarray(video[:, t]), state)  # type: ignore[call-arg]
        assert outputs.keys() == clips.keys()
        for head in ("embedding", "depth", "semantic"):
            assert (outputs[head] - clips[head][:, t]).abs().max() < 2e-5, (head, t)
        state = outputs.pop(NEXT_STATE).clone()
    assert (state - clips[NEXT_STATE]).abs().max() < 2e-5
    end = np.ascontiguousarray(video[:, -1])
    last = runtime(end)["semantic"].clone()  # without a past
    assert (last - clips["semantic"][:, -1]).abs().max() > 1e-3
    zeros = runtime(end, torch.zeros(state_shape(2, SIZE)))  # type: ignore[call-arg]
    assert (zeros["semantic"] - last).abs().max() < 1e-6


def test_only_the_past_counts(checkpoint: Checkpoint, video: np.ndarray) -> None:
    """The two frames before, neither later ones nor those of another clip."""
    network = checkpoint.network().eval()
    pixels = torch.from_numpy(video).flatten(0, 1).permute(0, 3, 1, 2) / 255
    other = pixels.clone()
    other[1] = 0
    with torch.inference_mode():
        one, two = (network(x, None, FRAMES)["semantic"] for x in (pixels, other))
    differs = [not torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    assert differs == [False, True, True, True] + 4 * [False]
    long = pixels[:1].expand(5, -1, -1, -1).clone()
    changed = long.clone()
    changed[0] = 1
    with torch.inference_mode():
        one, two = (network(x, None, 5)["semantic"] for x in (long, changed))
    differs = [not torch.equal(a, b) for a, b in zip(one, two, strict=True)]
    assert differs == [True, True, True, False, False]


def test_a_fresh_module_changes_nothing_and_learns(small_profiles: None) -> None:
    heads = make_method("spatio_temporal", 2).heads
    plain = ERFNet(heads, "small").eval()
    network = ERFNet(heads, "small", temporal=True).eval()
    network.start_from(plain)
    x = torch.rand(3, 3, *SIZE)
    outputs = network(x, None, 3)
    for name, output in plain(x).items():
        assert torch.equal(output, outputs[name]), name
    outputs["semantic"].square().sum().backward()
    assert network.temporal is not None
    assert network.temporal.expand.weight.grad is not None
    assert network.temporal.expand.weight.grad.abs().max() > 0
    assert not any(name.startswith("temporal") for name in plain.state_dict())


def test_checkpoints_carry_the_module(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(checkpoint, tmp_path / "a.safetensors")
    again = load_checkpoint(tmp_path / "a.safetensors").network()
    weight = checkpoint.tensors["temporal.conv2.weight"]
    assert torch.equal(again.state_dict()["temporal.conv2.weight"], weight)


def test_exports_name_the_state(checkpoint: Checkpoint, tmp_path: Path) -> None:
    onnx, openvino = pytest.importorskip("onnx"), pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    order = Order(checkpoint, SIZE, RuntimeConfig(precision="fp32"))
    export(order, "onnx", tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [i.name for i in graph.input] == ["images", "state"]
    assert [o.name for o in graph.output] == ["embedding", "depth", "semantic", "next_state"]
    for state in (graph.input[1], graph.output[3]):
        sides = [side.dim_param or side.dim_value for side in state.type.tensor_type.shape.dim]
        assert sides == ["batch", 64, 6, 10]
    export(order, "openvino", tmp_path / "net.xml")
    model = openvino.Core().read_model(tmp_path / "net.xml")
    assert [i.any_name for i in model.inputs] == ["images", "state"]
    assert [o.any_name for o in model.outputs] == ["embedding+depth", "semantic", "next_state"]
    assert model.inputs[1].partial_shape.to_string() == "[?,64,6,10]"


def test_what_cannot_carry_a_state_says_so(checkpoint: Checkpoint) -> None:
    with pytest.raises(ConfigError, match="quantize` calibrates on single images"):
        quantize(checkpoint, DecodeConfig(), QuantizeOrder(None, SIZE, 1, 1))


def stamped(image: np.ndarray, ms: int, camera: str = "front") -> Frame:
    return Frame(image, ms * 1_000_000, camera)


@pytest.fixture
def pipeline(checkpoint: Checkpoint, tmp_path: Path) -> Pipeline:
    save_checkpoint(checkpoint, tmp_path / "net.safetensors")
    options = {"runtime.name": "torch", "runtime.precision": "fp32", "runtime.device": "cpu"}
    return Pipeline(merge(Config(weights=str(tmp_path / "net.safetensors")), options))


def semantic(pipeline: Pipeline, *frames: Frame) -> torch.Tensor:
    inferred = pipeline.infer(frames)
    assert NEXT_STATE not in inferred.outputs
    return inferred.outputs["semantic"].clone()


def test_the_pipeline_goes_on_from_each_cameras_last_frame(
    pipeline: Pipeline, video: np.ndarray, clips: dict[str, torch.Tensor]
) -> None:
    for t in range(FRAMES):  # one camera in one call with another, and alone
        batch = [stamped(video[0, t], 100 * t, "left"), stamped(video[1, t], 100 * t, "right")]
        parts = [batch] if t != 2 else [batch[1:], batch[:1]]
        found = torch.cat([semantic(pipeline, *part) for part in parts])
        found = found if t != 2 else found.flip(0)
        assert (found - clips["semantic"][:, t]).abs().max() < 2e-5, t


@pytest.mark.parametrize(
    ("then_ms", "goes_on"), [(1100, True), (2000, True), (2001, False), (999, False), (1000, False)]
)
def test_a_jump_in_time_is_a_new_start(
    pipeline: Pipeline, video: np.ndarray, then_ms: int, goes_on: bool
) -> None:
    assert LONGEST_GAP_NS == 1_000_000_000
    fresh = semantic(pipeline, stamped(video[0, 1], 0))
    pipeline.reset()
    semantic(pipeline, stamped(video[0, 0], 1000))
    then = semantic(pipeline, stamped(video[0, 1], then_ms))
    assert torch.equal(then, fresh) != goes_on


def test_reset_and_warming_up_leave_no_past(pipeline: Pipeline, video: np.ndarray) -> None:
    fresh = semantic(pipeline, stamped(video[0, 1], 0))
    pipeline.reset()
    semantic(pipeline, stamped(video[0, 0], 1000))
    pipeline.reset()
    assert torch.equal(semantic(pipeline, stamped(video[0, 1], 1100)), fresh)
    pipeline.config = dataclasses.replace(pipeline.config)
    pipeline.warm_up()
    assert torch.equal(semantic(pipeline, stamped(video[0, 1], 1)), fresh)


def test_frames_of_one_camera_come_one_by_one(pipeline: Pipeline, video: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"expected frames of different cameras.*'front'"):
        pipeline.process([stamped(video[0, 0], 0), stamped(video[0, 1], 100)])
    pipeline.process([stamped(video[0, 0], 0)])  # the refused call holds nothing


def test_another_size_is_a_new_start() -> None:
    for size, goes_on in (((8, 8), True), ((16, 8), False)):
        cameras, frame = Cameras(), stamped(np.zeros((8, 8, 3), np.uint8), 0)
        keep_states(cameras.of([frame]), torch.ones(state_shape(1, (8, 8))))
        states = take_states(cameras.of([dataclasses.replace(frame, stamp_ns=1)]), size)
        assert (states is not None) == goes_on


def test_a_frame_that_fails_leaves_no_past_that_is_not_its_own(
    pipeline: Pipeline, video: np.ndarray
) -> None:
    fresh = semantic(pipeline, stamped(video[0, 2], 0))
    pipeline.reset()
    semantic(pipeline, stamped(video[0, 0], 1000))
    with pytest.raises(ImageError):
        pipeline.process([stamped(video[0, 0][..., 0], 1050)])  # never reached the network
    assert not torch.equal(semantic(pipeline, stamped(video[0, 2], 1100)), fresh)
    runtime = pipeline.runtime

    def fail(*_: object) -> None:
        raise MemoryError("too large")

    pipeline.runtime = fail  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        pipeline.process([stamped(video[0, 1], 1200)])
    pipeline.runtime = runtime
    assert torch.equal(semantic(pipeline, stamped(video[0, 2], 1300)), fresh)
