"""docs/extending.md: its runtime and its kind of dataset work, with the lines that it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from documentation import PAGES, ROOT, blocks

from instaseg_ros import cli, datasets
from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.config import RuntimeConfig
from instaseg_ros.config.options import METHODS
from instaseg_ros.methods import make_method
from instaseg_ros.runtimes import RUNTIMES, open_runtime


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the block of code with this name in it; the tables it adds to are restored afterwards."""
    monkeypatch.setattr(datasets, "KINDS", datasets.KINDS)
    for table, key in ((METHODS, "connected_components"), (RUNTIMES, "plain")):
        monkeypatch.setitem(table, key, "")
        del table[key]
    (code,) = (block for block in blocks(PAGES["docs/extending.md"], "python") if name in block)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    return names


def test_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by the line; what it then does is test_options' matter."""
    run("connected_components", monkeypatch)
    assert make_method("connected_components", 2).name == "connected_components"
    assert (ROOT / "test/helpers/connected_components.py").is_file()


def test_runtime(monkeypatch: pytest.MonkeyPatch, untrained: Checkpoint) -> None:
    run("PlainRuntime", monkeypatch)
    plain = open_runtime(replace(RuntimeConfig(), name="plain"), untrained)
    known = open_runtime(replace(RuntimeConfig(), name="torch", precision="fp32"), untrained)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3)).astype(np.uint8)
    expected = known(images)
    for head, output in plain(images).items():
        torch.testing.assert_close(output, expected[head], rtol=1e-3, atol=1e-3)


def test_kind_of_dataset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("class Pairs", monkeypatch)
    labels = np.zeros((64, 96), np.uint8)
    labels[8:40, 8:40], labels[20:60, 50:90] = 1, 2
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((64, 96, 3), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "a.objects.png"), labels)
    assert datasets.kind_of(tmp_path).name == "pairs"
    sample = datasets.open_dataset(tmp_path, datasets.ALL)[0]
    assert sample.ids.tolist() == [1, 2] and sample.labels.dtype == np.uint16
    assert cli.main(["info", str(tmp_path)]) == 0
    assert "thing" in capsys.readouterr().out
