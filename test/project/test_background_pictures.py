"""The pictures without objects that a script draws and writes."""

from __future__ import annotations

import importlib.util
from itertools import islice
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "background_pictures.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("background_pictures", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_drawn_is_the_same_every_time(tool: ModuleType) -> None:
    first, again = (list(islice(tool.drawn(np.random.default_rng(2)), 6)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.uint8 and one.shape[0] == 480 and one.std() > 5


def test_pictures_are_shrunk_until_they_are_small_enough(tool: ModuleType, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 1000, 3)).astype(np.uint8)
    plain = np.full((500, 1000, 3), 80, np.uint8)
    for image, longest in ((noise, tool.SIDES[-1]), (plain, tool.SIDES[0])):
        tool.write(image, tmp_path / "a.webp")
        read = cv2.imread(str(tmp_path / "a.webp"))
        assert read is not None and read.shape == (longest // 2, longest, 3)


def test_transparent_parts_become_grey(tool: ModuleType) -> None:
    image = np.zeros((4, 6, 4), np.uint8)
    image[:, 3:] = 10, 20, 30, 255
    decoded = tool._decoded(cv2.imencode(".png", image)[1].tobytes())
    assert decoded[0].tolist() == [[128] * 3] * 3 + [[10, 20, 30]] * 3
