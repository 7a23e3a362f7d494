"""`instaseg label`: what it refuses before it starts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros import errors
from instaseg_ros.cli import main

for package in ("starlette", "uvicorn", "pycocotools"):
    pytest.importorskip(package, reason="the extra `label` is not installed")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((16, 16, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--every", "0"], "--every: expected at least 1, got 0"),
        (["--port", "65536"], "--port: expected 0 to 65535"),
        (["--classes", " ,"], "--classes: expected names such as"),
        (["--topic", "/a"], "--topic is for recordings"),
        (["--weights", "none"], "weights"),
    ],
)
def test_unusable_options_end_it_before_anything_is_written(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    source = frames / "a.png" if words[0] == "--topic" else frames
    assert main(["label", str(source), "-o", str(tmp_path / "mine"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_frames_without_masks_need_an_output(
    frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(frames)]) == 2
    assert "-o: expected a folder for the labelled frames" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(
    frames: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(errors, "import_module", missing)
    assert main(["label", str(frames), "-o", "mine"]) == 2
    assert "pip install '.[label]'" in capsys.readouterr().err
