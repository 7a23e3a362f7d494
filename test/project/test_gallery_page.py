"""docs/gallery.md and the cards: their pictures are there and small, their Python runs, and
tools/gallery.py makes pictures."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from documentation import PAGES, ROOT, blocks

from instaseg_ros.datasets import open_dataset
from instaseg_ros.recordings.sources import open_source

PAGE = PAGES["docs/gallery.md"]
CARDS = sorted((ROOT / "instaseg_ros" / "weights").glob("*.md"))
MOST_BYTES = 130_000  # but for the drive, which moves


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [ROOT / "docs" / "gallery.md", *CARDS], ids=lambda p: p.stem)
def test_pictures_are_there_and_small(page: Path) -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert pictures
    for picture in pictures:
        size = (page.parent / picture).stat().st_size
        assert size < MOST_BYTES or picture == "street.webp"


def test_its_python_makes_ten_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(PAGE, "python")
    assert "(320, 640)" in code
    exec(compile(code.replace("(320, 640)", "(48, 96)"), "docs/gallery.md", "exec"), {})
    assert len(open_dataset(Path("ten"), "all")) == 10
    assert len(list(Path("others/images").iterdir())) == 6


def test_a_sheet_of_frames(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("frames").mkdir()
    for number, grey in enumerate((50, 100, 150)):
        cv2.imwrite(f"frames/{number}.png", np.full((40, 60, 3), grey, np.uint8))
    words = ("sheet", "out.png", "frames#2", "frames", "--columns", "2", "--width", "128")
    monkeypatch.setattr(sys, "argv", ["gallery.py", *words])
    gallery.main()
    sheet = cv2.imread("out.png")
    assert sheet.shape == (44, 128, 3)
    assert sheet[22, [32, 96], 0].tolist() == [150, 50]


def test_a_rig_has_three_views_of_one_street(
    gallery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "RIG_FRAMES", 1)
    monkeypatch.setattr(gallery, "RIG_SIZE", (48, 64))
    gallery.write_rig(tmp_path / "rig.mcap")
    views = [
        next(iter(open_source(tmp_path / "rig.mcap", f"/{name}/image"))).image
        for name in ("left", "front", "right")
    ]
    assert all(view.shape == (48, 64, 3) for view in views)
    assert not np.array_equal(views[0], views[1]) and not np.array_equal(views[1], views[2])
