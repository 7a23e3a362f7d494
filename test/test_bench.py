"""The benchmark measures what it claims to: real clusterings, equal on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from instaseg_ros.bench import bench, made_to_measure, table
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, DecodeConfig, merge
from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet


@pytest.mark.parametrize(("n_sigma", "objects"), [(1, 5), (2, 30)])
def test_outputs_hold_as_many_objects_and_pixels_as_asked(n_sigma: int, objects: int) -> None:
    outputs = made_to_measure(256, 512, 3, n_sigma, objects, 36_000)
    foreground = int((torch.sigmoid(outputs["seed"]) > 0.5).sum())
    assert foreground == pytest.approx(36_000, rel=0.03)
    method = make_method("spatial_embedding", 3, n_sigma)
    (instances,) = method.decode(outputs, DecodeConfig())
    assert len(instances) == objects
    assert (instances.labels > 0).mean() * 256 * 512 == pytest.approx(36_000, rel=0.1)


def test_every_stage_is_measured_beside_the_published_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads)
    save_checkpoint(Checkpoint(network.state_dict(), ("car", "bus")), tmp_path / "w.safetensors")
    overrides = {"weights": str(tmp_path / "w.safetensors"), "runtime.name": "torch"}
    numbers = bench(merge(Config(), overrides), (64, 128), objects=2, rounds=2)
    assert numbers["objects"] == 2
    expected = {"convert", "preprocess", "network", "decode", "restore", "messages", "total"}
    assert numbers["stages"].keys() == expected
    assert numbers["yardstick"].keys() == numbers["ratio"].keys() == {"network", "decode", "total"}
    assert all(stage["p50_ms"] >= 0 for stage in numbers["stages"].values())
    assert "published" in table(numbers)
