"""The profile `lite`: its trunk, where that comes from, and that training never begins without it
unasked."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import randomize_batchnorms, untrained_checkpoint
from torch import Tensor

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, RuntimeConfig, merge
from instaseg_ros.errors import ConfigError, MissingExtraError, WeightsError
from instaseg_ros.frames import Frame
from instaseg_ros.methods import METHODS
from instaseg_ros.model import lite
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.lite import (
    PIXEL_MEAN,
    PIXEL_SCALE,
    SamePadding,
    Stem,
    Trunk,
    imagenet_trunk,
)
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.runtimes import open_runtime
from instaseg_ros.training.trainer import train

TINY = {
    "method.profile": "lite",
    "train.steps": 1,
    "train.batch_size": 1,
    "train.crop_height": 64,
    "train.crop_width": 96,
    "train.workers": 0,
    "train.warmup_steps": 0,
    "train.validation_frames": 1,
    "train.weight_decay": 0.0,
    "train.ema_decay": 0.0,
    "runtime.device": "cpu",
}
TRUNK = "encoder.trunk."


def trunk_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Weights of the trunk's convolutions; BatchNorms have seen a batch."""
    return {
        name.removeprefix(TRUNK): tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(TRUNK) and "conv" in name
    }


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left and left.keys() <= right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor.half(), right[name].half()), name


def trained(tmp_path: Path, init: str | None = None, **overrides: object) -> Checkpoint:
    settings = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_checkpoint(train(merge(Config(), TINY | settings), tmp_path, init))


@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_is_tensorflows(kernel: int) -> None:
    """For an even side and stride 2 it pads kernel - 2 in all, the smaller half before."""
    side = torch.arange(1.0, 9.0).expand(1, 1, 8, 8)
    padded = SamePadding(kernel)(side)[0, 0, (kernel - 2) // 2].tolist()
    total = kernel - 2
    before = total // 2
    assert padded == [0.0] * before + list(range(1, 9)) + [0.0] * (total - before)


def test_features_come_at_strides_of_4_to_32() -> None:
    features = Trunk().eval()(torch.rand(2, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [
        (2, 24, 16, 24),
        (2, 40, 8, 12),
        (2, 112, 4, 6),
        (2, 320, 2, 3),
    ]


def test_the_stem_sees_pixels_as_they_were_seen_in_training() -> None:
    stem = Stem().eval()
    pixels = torch.randint(0, 256, (1, 3, 8, 8)).float()
    centred = torch.nn.functional.pad((pixels - PIXEL_MEAN) / PIXEL_SCALE, (0, 1, 0, 1))
    found = torch.conv2d(centred, stem.conv.weight, stride=2)
    expected = (found * torch.rsqrt(torch.tensor(1 + lite.BN_EPS))).clamp(0, 6)
    torch.testing.assert_close(stem(pixels / 255), expected)


def test_the_file_is_the_trunk_whole() -> None:
    trunk = Trunk()
    tensors = imagenet_trunk()
    trunk.load_state_dict(tensors)  # strict
    assert sum(p.numel() for p in trunk.parameters()) == 2_958_848
    # Of images it knows what edges are: neighbours in the first kernels are alike.
    kernels = tensors["stem.conv.weight"].flatten(0, 1)
    left, right = kernels[:, :, :2].flatten(), kernels[:, :, 1:].flatten()
    assert abs(float(torch.corrcoef(torch.stack([left, right]))[0, 1])) > 0.2


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite, "PACKAGE", "no-such-package")
    with pytest.raises(
        MissingExtraError, match=r"train\.encoder: imagenet needs .*no-such-package"
    ):
        imagenet_trunk()


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_another_file_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "weights.pth"
    if content is not None:
        found.write_bytes(content)

    class Distribution:
        def locate_file(self, name: str) -> Path:
            return found

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    with pytest.raises(WeightsError, match=r"expected a file of SHA-256 57934424.*got"):
        imagenet_trunk()


def test_training_begins_with_imagenet_and_leaves_it_where_its_rate_is_0(tmp_path: Path) -> None:
    found = trained(tmp_path, train__encoder="imagenet", train__encoder_rate=0.0)
    assert_same(trunk_of(found), dict(imagenet_trunk()))


def test_the_trunk_learns_at_its_own_rate(tmp_path: Path) -> None:
    found = trunk_of(
        trained(
            tmp_path,
            train__encoder="imagenet",
            train__encoder_rate=0.1,
            train__learning_rate=1e-3,
            train__clip_norm=0.0,
        )
    )
    published = imagenet_trunk()
    moved = max(float((found[name].float() - published[name]).abs().max()) for name in found)
    assert 0.5e-4 < moved < 1.5e-3  # Adam's first step is the rate; the file is fp16


def test_held_stages_keep_weights_and_statistics_and_the_rest_learns(tmp_path: Path) -> None:
    found = trained(
        tmp_path,
        train__encoder="imagenet",
        train__encoder_held=2,
        train__learning_rate=1e-3,
        train__clip_norm=0.0,
        train__ema_decay=0.0,
    )
    published = imagenet_trunk()
    first, later = ("stem.", "blocks.0.", "blocks.1.", "blocks.2."), "blocks.3."
    tensors = {
        name.removeprefix(TRUNK): tensor
        for name, tensor in found.tensors.items()
        if name.startswith(TRUNK) and "batches" not in name
    }
    for name, tensor in tensors.items():
        if name.startswith(first):
            torch.testing.assert_close(tensor.float(), published[name], rtol=1e-3, atol=1e-4)
    moved = {name for name, t in tensors.items() if float((t - published[name]).abs().max()) > 2e-4}
    assert f"{later}bn0.running_mean" in moved and f"{later}project_conv.weight" in moved


def test_held_stages_are_of_this_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.encoder_held.*profile lite, got published"):
        trained(tmp_path, method__profile="published", train__encoder_held=2)


def test_from_weights_of_the_profile_everything_is_taken_the_trunk_too(tmp_path: Path) -> None:
    names = ("person", "rider", "car", "truck", "bus")
    theirs = untrained_checkpoint("lite", names)
    save_checkpoint(theirs, tmp_path / "lite.safetensors")
    found = trained(
        tmp_path / "run",
        str(tmp_path / "lite.safetensors"),
        train__encoder="imagenet",
        train__learning_rate=0.0,
    )
    weights = {k: v for k, v in theirs.tensors.items() if "running" not in k and "batches" not in k}
    assert_same(weights, dict(found.tensors))


def test_from_weights_of_another_profile_the_trunk_is_imagenets(tmp_path: Path) -> None:
    save_checkpoint(untrained_checkpoint("fast"), tmp_path / "fast.safetensors")
    found = trained(
        tmp_path / "run",
        str(tmp_path / "fast.safetensors"),
        train__encoder="imagenet",
        train__learning_rate=0.0,
    )
    assert_same(trunk_of(found), dict(imagenet_trunk()))


def test_a_trunk_of_chance_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained(tmp_path)
    assert "train.encoder=imagenet" in caplog.text


def test_imagenet_is_for_this_profile(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.encoder.*profile lite, got published"):
        trained(tmp_path, method__profile="published", train__encoder="imagenet")


def test_crops_are_multiples_of_its_stride(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.crop_width: expected a multiple of 32, got 72"):
        trained(tmp_path, train__crop_width=72)


@pytest.mark.parametrize("name", ["torch", "openvino", "onnx"])
@pytest.mark.xdist_group("converting")
def test_runtimes_agree_with_the_network(name: str, small_lite: Checkpoint, cache: None) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    with torch.inference_mode():
        expected = small_lite.network().eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    runtime = open_runtime(RuntimeConfig(name=name, precision="fp32", device="cpu"), small_lite)
    for head, output in runtime(images).items():
        torch.testing.assert_close(output, expected[head], atol=2e-5, rtol=1e-4, msg=head)


def test_images_of_any_size_are_padded(small_lite: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(small_lite, tmp_path / "lite.safetensors")
    settings = {"weights": str(tmp_path / "lite.safetensors"), "runtime.name": "torch"}
    pipeline = Pipeline(merge(Config(), settings))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    assert pipeline.process([Frame(image)])[0].instances.labels.shape == (50, 70)


def test_folding_leaves_no_batchnorm_in_the_trunk() -> None:
    network = untrained_checkpoint("lite").network().eval()
    randomize_batchnorms(network)
    names = [type(module).__name__ for module in fold(network).encoder.modules()]
    assert "BatchNorm2d" not in names and names.count("Conv2d") > 50


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_with_it(name: str, tmp_path: Path) -> None:
    clip = 2 if name == "spatio_temporal" else 1
    found = trained(tmp_path, method__name=name, train__encoder="imagenet", train__clip_frames=clip)
    assert found.method_name == name and found.profile == "lite"
    moved = [
        float((t.float() - imagenet_trunk()[n]).abs().max()) for n, t in trunk_of(found).items()
    ]
    assert max(moved) > 1e-5
