"""`instaseg info` counts what is there, shows it, and names every file that is broken."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import dataset_layouts
import numpy as np
import pytest
from dataset_layouts import street_samples, write_image

from instaseg_ros import cli
from instaseg_ros.datasets import open_dataset
from instaseg_ros.datasets.label_images import LabelImages
from instaseg_ros.datasets.survey import content

ROOT = Path(__file__).parents[2]


def test_counts_sizes_and_quantiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros((40, 60), np.uint16)
    truth[:10, :10], truth[20, :7], truth[30, :9] = 26000, 26001, 24005  # 100, 7 and 9 pixels
    truth[35:] = 24  # a group of persons
    write_image(tmp_path / "images" / "a.png", np.zeros((40, 60, 3), np.uint8))
    write_image(tmp_path / "instances" / "a.png", truth)
    write_image(tmp_path / "images" / "b.png", np.zeros((20, 30, 3), np.uint8))
    write_image(tmp_path / "instances" / "b.png", np.full((20, 30), 29, np.uint16))
    assert cli.main(["info", str(tmp_path), "--min-pixels", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path} all: LabelImages of 2 images"
    assert lines[1] == "height x width 20 x 30 (1), 40 x 60 (1)"
    assert lines[2] == "ignored 20.00%, crowds 10.00% of all pixels"
    rows = {words[0]: words[1:] for words in map(str.split, lines[4:])}
    assert rows["person"] == ["1", "1", "1", "9", "9", "9", "9", "9"]
    assert rows["car"][:3] == ["2", "1", "1"] and rows["car"][5] == "54"  # rounded to even
    assert rows["bus"] == ["0", "0", "0", *"-----"]


def test_counts_are_those_of_the_samples(tmp_path: Path) -> None:
    samples = street_samples()
    dataset = open_dataset(dataset_layouts.write_label_images(tmp_path, samples), "all")
    for i, sample in enumerate(samples):
        counted = content(dataset[i])
        assert sorted(counted.object_px) == sorted((sample.labels == k).sum() for k in sample.ids)


def test_every_broken_file_is_named_and_none_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = LabelImages(
        dataset_layouts.write_label_images(tmp_path, street_samples(4), "train"), "train"
    )
    dataset_layouts.write_label_images(tmp_path, street_samples(1), "val")
    assert cli.main(["info", str(tmp_path), "--check"]) == 0
    assert "train: 4 of 4 images are whole" in capfd.readouterr().out
    broken = [*dataset.files(1), dataset.files(3)[1]]
    for file in broken[1:]:
        file.unlink()
    broken[0].write_bytes(b"no image")
    config = ROOT / "config" / "train" / "street.yaml"
    for words in (
        ["info", str(tmp_path)],
        ["info", str(tmp_path), "--check"],
        ["train", str(config), "--data", str(tmp_path), "--check", "-o", str(tmp_path / "run")],
    ):
        assert cli.main(words) == 1
        said = capfd.readouterr()
        named = re.findall(r"^(/.*?): expected an image", said.err, re.MULTILINE)
        assert sorted(named) == sorted(map(str, broken))
        if "--check" in words:
            assert "train: 2 of 4 images are whole" in said.out
    assert "val: 1 of 1 images are whole" in said.out
    assert not (tmp_path / "run").exists()


def test_contact_sheet_shows_objects_in_their_place(tmp_path: Path) -> None:
    truth = np.zeros((120, 480), np.uint16)
    truth[40:80, 100:300], truth[100:] = 26000, 24
    write_image(tmp_path / "images" / "a.png", np.full((120, 480, 3), 90, np.uint8))
    write_image(tmp_path / "instances" / "a.png", truth)
    path = tmp_path / "sheet.png"
    assert cli.main(["info", str(tmp_path), "--sheet", str(path)]) == 0
    sheet = cv2.imread(str(path))
    assert sheet.shape == (120, 4 * 480, 3)
    assert (sheet[5, :480] == 90).all() and (sheet[110, :480] > 150).all()
    assert (sheet[60, 100:300] != 90).any(1).all() and not sheet[:, 480:].any()
    assert not list(tmp_path.glob("*.part*"))


def test_unusable_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset_layouts.write_label_images(tmp_path, street_samples(1))
    for words, said in (
        (["--limit", "0"], "--limit: expected at least 1"),
        (["--sheet", "a.gif"], "--sheet: expected a name in .png"),
    ):
        assert cli.main(["info", str(tmp_path), *words]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["info", str(tmp_path / "absent")]) == 2
