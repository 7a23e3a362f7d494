"""Weights of several methods side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_layouts import street_samples, write_label_images

from instaseg_ros import cli
from instaseg_ros.benchmarks.methods import row
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, merge
from instaseg_ros.datasets import SYNTHETIC
from instaseg_ros.evaluation.metrics.semantics import frame_confusion
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet

TORCH = merge(Config(), {"runtime.name": "torch"})


def untrained(path: Path, name: str) -> str:
    torch.manual_seed(0)
    method = make_method(name, 2)
    network = ERFNet(method.heads)
    method.initialise(network)
    save_checkpoint(Checkpoint(network.state_dict(), ("car", "bus"), name), path)
    return str(path)


def test_a_row_tells_what_the_weights_are(tmp_path: Path) -> None:
    weights = untrained(tmp_path / "w.safetensors", "discriminative")
    config = merge(TORCH, {"weights": weights})
    found = row(config, SYNTHETIC, (64, 128), 2)
    assert found.method == "discriminative" and found.ap >= 0 and found.network_ms > 0
    assert 0 <= found.mean_iou <= 1
    heads = make_method("discriminative", 2).heads
    assert found.parameters == sum(p.numel() for p in ERFNet(heads).parameters())
    recorded = write_label_images(tmp_path / "data", street_samples(2), "val")
    assert row(config, str(recorded), (1, 1), 5).method == "discriminative"


def test_weights_are_compared_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--methods", "street-synthetic", "--size", "64x128", "--frames", "1"]
    words += ["--runtime", "torch", "--json", str(tmp_path / "m.json")]
    assert cli.main(words) == 0
    rows = json.loads((tmp_path / "m.json").read_text())["methods"]
    assert rows["street-synthetic"]["method"] == "spatial_embedding"
    assert "street-synthetic" in capsys.readouterr().out


def test_the_published_way_stands_beside_spatial_embedding_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = untrained(tmp_path / "w.safetensors", "box_regression")
    words = ["bench", "--weights", weights, "--size", "64x128", "--runtime", "torch"]
    assert cli.main(words) != 0
    assert "compare it with --methods" in capsys.readouterr().err


def test_classes_of_a_frame_are_counted_at_its_size() -> None:
    labels = np.zeros((4, 4), np.uint16)
    labels[:2, :2], labels[2:, 2:] = 7, 9
    crowd = np.zeros((4, 4), np.uint8)
    crowd[0, 3] = 2
    seen = np.array([[1, 0], [0, 1]])  # half the resolution
    counts = frame_confusion(
        labels, np.array([7, 9], np.uint16), np.array([0, -1]), seen, 3, crowd=crowd
    )
    assert counts.tolist() == [[7, 4, 0], [0, 4, 0], [1, 0, 0]]
