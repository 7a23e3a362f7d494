"""The benchmark measures what it claims to: real clusterings, equal on both sides."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from instaseg_ros import cli
from instaseg_ros.benchmarks import sweep
from instaseg_ros.benchmarks.frame import bench, table
from instaseg_ros.benchmarks.yardstick import made_to_measure, published_loop, same_objects
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.clustering.ellipses import reference
from instaseg_ros.config import Config, merge
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.evaluation.by_runtime import REFERENCE, available, compare
from instaseg_ros.methods import make_method
from instaseg_ros.methods.spatial_embedding import embed, inverse_bandwidth, pixel_grid
from instaseg_ros.model.erfnet import ERFNet


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Untrained weights of two classes, in torch."""
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), ("car", "bus")), path)
    return merge(Config(), {"weights": str(path), "runtime.name": "torch"})


@pytest.mark.parametrize(("n_sigma", "objects"), [(1, 5), (2, 30)])
def test_outputs_hold_as_many_objects_and_pixels_as_asked(n_sigma: int, objects: int) -> None:
    outputs = made_to_measure(256, 512, 3, n_sigma, objects, 36_000)
    foreground = int((torch.sigmoid(outputs["seed"]) > 0.5).sum())
    assert foreground == pytest.approx(36_000, rel=0.03)
    method = make_method("spatial_embedding", 3, n_sigma)
    (instances,) = method.decode(outputs, DecodeConfig())
    assert len(instances) == objects
    assert (instances.labels > 0).mean() * 256 * 512 == pytest.approx(36_000, rel=0.1)
    assert set(instances.class_ids) == {0, 1, 2}
    (of_one,) = method.decode(made_to_measure(256, 512, 3, n_sigma, 5, 9000, 1), DecodeConfig())
    assert set(of_one.class_ids) == {0}


@pytest.mark.parametrize("n_sigma", [1, 2])
def test_the_yardstick_is_the_published_loop(n_sigma: int) -> None:
    """On outputs that are noise, where objects overlap and many are refused."""
    generator = torch.Generator().manual_seed(0)
    offset = 0.05 * torch.randn(2, 48, 64, generator=generator)
    bandwidth = 0.7 + 0.1 * torch.randn(n_sigma, 48, 64, generator=generator)
    score = torch.rand(48, 64, generator=generator)
    config = DecodeConfig(seed_threshold=0.6, min_pixels=20)
    embedding = embed(offset, pixel_grid(48, 64))
    labels = published_loop(embedding, bandwidth, score, config)
    pixels = score.flatten() > config.foreground_threshold
    proposals = reference.cluster(
        embedding.flatten(1)[:, pixels],
        inverse_bandwidth(bandwidth).flatten(1)[:, pixels],
        score.flatten()[pixels],
        config,
    )
    expected = torch.zeros(48 * 64, dtype=torch.int32)
    own = torch.zeros(int(pixels.sum()), dtype=torch.int32)
    for number, proposal in enumerate(proposals, 1):
        own[proposal.mask] = number
    expected[pixels] = own
    assert len(proposals) > 3
    assert torch.equal(labels.flatten(), expected)


def test_objects_are_the_same_whatever_their_numbers() -> None:
    labels = np.array([[0, 1, 1], [2, 2, 3]], np.uint16)
    first, second = torch.tensor([[0, 0, 0], [1, 1, 2]]), torch.tensor([[0, 1, 1], [0, 0, 0]])
    assert same_objects(labels, [first, second])
    assert not same_objects(labels, [first])  # one is missing
    assert not same_objects(labels, [first.clamp(max=1), second])  # two are one
    assert not same_objects(labels, [first, torch.tensor([[1, 1, 1], [0, 0, 0]])])  # too large


@pytest.mark.parametrize("overrides", [{}, {"input.height": 64, "input.width": 120}])
def test_every_stage_is_measured_beside_the_published_way(
    config: Config, overrides: dict[str, int]
) -> None:
    numbers = bench(merge(config, overrides), (96, 200), objects=2, rounds=2)
    assert numbers["objects"] == 2
    assert numbers["network_size"] == ("64x120" if overrides else "96x200")
    stages = {"convert", "preprocess", "network", "decode", "label_image", "messages", "total"}
    assert numbers["stages"].keys() == stages
    assert numbers["yardstick"].keys() == numbers["ratio"].keys() == {"network", "decode", "total"}
    for side in ("stages", "yardstick"):
        *parts, total = (stage["p50_ms"] for stage in numbers[side].values())
        assert all(ms > 0 for ms in parts)
        assert total == pytest.approx(sum(parts))  # of two rounds the median is the mean
    assert 0 < numbers["rss_mb"] <= numbers["rss_with_yardstick_mb"]
    assert "published" in table(numbers)


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="matplotlib is missing")
def test_sweep_is_measured_and_drawn(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "OBJECTS", (1, 4))
    monkeypatch.setattr(sweep, "FOREGROUND_SHARES", (0.1, 0.4))
    monkeypatch.setattr(sweep, "SCALES", (0.5, 1.0))
    words = ["bench", "--size", "96x192", "--objects", "2", "--rounds", "2", "--runtime", "torch"]
    files = ["--json", str(tmp_path / "b.json"), "--sweep", str(tmp_path / "b.png")]
    assert cli.main([*words, "--weights", config.weights, *files]) == 0
    curves = json.loads((tmp_path / "b.json").read_text())["sweep"]
    assert curves["objects"]["x"] == [1, 4]
    assert curves["foreground_px"]["x"] == [round(0.1 * 96 * 192), round(0.4 * 96 * 192)]
    assert curves["image_px"]["x"] == [48 * 96, 96 * 192]
    for curve in curves.values():
        assert all(ms > 0 for side in ("ours_ms", "published_ms") for ms in curve[side])
    picture = cv2.imread(str(tmp_path / "b.png"))
    assert picture.shape[0] > 300
    assert len(np.unique(picture)) > 50  # lines and words, not a blank sheet


def test_runtimes_are_compared_with_the_float32_network() -> None:
    checkpoint = load_checkpoint("street-synthetic")
    config = merge(Config(), {"runtime.device": "cpu"})
    runtimes, refused = available(config, checkpoint)
    assert "torch fp32" in runtimes
    assert "fp16 needs a GPU" in refused["torch fp16"]
    rows = compare({"same": runtimes["torch fp32"]}, checkpoint, config.decode, (100, 200), 2)
    assert rows[REFERENCE].largest_difference == {"offset": 0, "bandwidth": 0, "seed": 0}
    assert all(difference < 1e-3 for difference in rows["same"].largest_difference.values())
    assert rows["same"].ap == pytest.approx(rows[REFERENCE].ap, abs=1e-3, nan_ok=True)


@pytest.mark.parametrize(
    "words",
    [
        ["--size", "64"],
        ["--size", "0x8"],
        ["--rounds", "0"],
        ["--runtimes", "0"],
        ["--classes", "-1"],
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *words]) == 2
    assert "expected" in capsys.readouterr().err
