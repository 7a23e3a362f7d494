"""README's commands and its Python do what they say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros import cli
from instaseg_ros.config import load
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_bag

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(program: str) -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == [program]:
                yield words[1:]


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the replay section reads: drive.mcap, drive_bag/, frames/."""
    monkeypatch.chdir(tmp_path)
    street = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=2)
    write_bag(street, tmp_path / "drive.mcap")
    (tmp_path / "drive_bag").mkdir()
    write_bag(street, tmp_path / "drive_bag" / "drive_0.mcap")
    (tmp_path / "frames").mkdir()
    cv2.imwrite("frames/0.png", street[0].frame.image)
    return tmp_path


def test_replay_section(recordings: Path) -> None:
    found = [words for words in commands("instaseg") if words[0] == "replay"]
    assert found
    for words in found:
        outputs = [Path(words[i + 1]) for i, word in enumerate(words) if word == "-o"]
        assert cli.main([*words, "--overwrite"]) == 0
        assert all(output.exists() for output in outputs)


def test_python_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", np.zeros((64, 96, 3), np.uint8))
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(64, 96) [")


def test_training_section_names_what_exists() -> None:
    trainings = [words for words in commands("instaseg") if words[0] == "train"]
    assert trainings
    for words in trainings:
        recipe = load(ROOT / words[1])
        assert (recipe.train.dataset == "synthetic") != ("--data" in words)


@pytest.mark.parametrize("words", commands("instaseg"), ids=" ".join)
def test_every_command_is_one_that_the_program_takes(words: list[str]) -> None:
    assert cli._parser(words).parse_args(words).verb == words[0]


def test_make_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    assert {words[0] for words in commands("make")} <= targets
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
