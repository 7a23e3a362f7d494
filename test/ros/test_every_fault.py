"""A soak with every fault once: the node keeps all that can be judged in a minute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from robot import free_domain

from instaseg_ros.config import InputConfig
from instaseg_ros.errors import ImageError
from instaseg_ros.recordings.image_messages import compressed_to_rgb, image_to_rgb

pytestmark = pytest.mark.ros

TOOLS = Path(__file__).parents[2] / "tools"
PATIENCE_S = 400.0  # only bounds it on a busy machine


@pytest.mark.parametrize("compressed", [False, True])
def test_bad_images_are_refused_and_good_ones_are_not(
    compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from soak import images

    picture = np.zeros((96, 192, 3), np.uint8)
    config = InputConfig(max_pixels=round(images.MAX_PIXELS * 128 * 256))
    make: Any = images.compressed if compressed else images.raw
    convert: Any = compressed_to_rgb if compressed else image_to_rgb
    kinds: dict[str, Any] = images.BAD_COMPRESSED if compressed else images.BAD_RAW
    assert convert(make(picture), config).shape == picture.shape
    for kind, spoil in kinds.items():
        with pytest.raises(ImageError):
            pytest.fail(f"{kind}: {convert(spoil(make(picture)), config).shape}")


@pytest.mark.slow
def test_every_fault_once(tmp_path: Path, network: dict[str, Any]) -> None:
    domain, lock = free_domain()
    parameters = [part for k, v in network.items() for part in ("-p", f"{k}:={v}")]
    options = ["--each-once", "--seed", "1", "--out", str(tmp_path)]
    paths = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    with lock:
        subprocess.run(
            [sys.executable, "-m", "soak", *options, *parameters],
            env={**os.environ, "PYTHONPATH": paths, "ROS_DOMAIN_ID": str(domain)},
            timeout=PATIENCE_S,
        )
    summary = json.loads((tmp_path / "soak.json").read_text())
    assert not summary["broken"], (tmp_path / "node.log").read_text()
    assert summary["complete"]
    assert len(summary["faults"]) == 14
    for account in summary["cameras"].values():
        assert account["roll_calls"] == 4
        assert account["exact"] >= 1
        assert account["labelled"]
