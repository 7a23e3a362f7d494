"""`instaseg label`: what it refuses before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros import errors
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.cli import main
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet

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
        (["--learn-minutes", "3"], "--learn-minutes: expected --learn too"),
        (["--learn", "--learn-minutes", "0"], "--learn-minutes: expected a positive number"),
    ],
)
def test_unusable_options_end_it_before_anything_is_written(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    source = frames / "a.png" if words[0] == "--topic" else frames
    assert main(["label", str(source), "-o", str(tmp_path / "mine"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_only_what_the_recipe_trains_can_learn(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "other.safetensors"
    network = ERFNet(make_method("discriminative", 2).heads)
    save_checkpoint(Checkpoint(network.state_dict(), ("a", "b"), "discriminative"), weights)
    words = ["label", str(frames), "-o", str(tmp_path / "mine"), "--weights", str(weights)]
    assert main([*words, "--learn"]) == 2
    said = capsys.readouterr().err
    assert "expected weights for spatial_embedding" in said and "for discriminative" in said
    assert not (tmp_path / "mine").exists()


def test_a_coco_file_in_place_is_not_learned_from(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = {"id": 1, "file_name": "a.png", "height": 16, "width": 16}
    document = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}
    file = frames / "some.json"
    file.write_text(json.dumps(document))
    assert main(["label", str(file), "--learn"]) == 2
    assert "got COCO that is corrected in place" in capsys.readouterr().err
    assert json.loads(file.read_text()) == document


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
