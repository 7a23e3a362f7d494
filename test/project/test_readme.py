"""README is short, and its commands and its Python, like those of docs/, do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from documentation import PAGES, README, ROOT, blocks, commands
from setup_file import setup_arguments

from instaseg_ros import cli
from instaseg_ros.config import load
from instaseg_ros.config.recipes import recipe
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_bag

MOST_WORDS = 600  # as `wc -w` counts
MOST_LINES = 6  # of a card


def test_it_is_short() -> None:
    assert len(README.split()) < MOST_WORDS
    cards = [block.splitlines() for kind in ("sh", "python") for block in blocks(README, kind)]
    assert max(map(len, cards)) <= MOST_LINES


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the replays read: drive.mcap, drive_bag/, frames/."""
    monkeypatch.chdir(tmp_path)
    street = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=2)
    write_bag(street, tmp_path / "drive.mcap")
    (tmp_path / "drive_bag").mkdir()
    write_bag(street, tmp_path / "drive_bag" / "drive_0.mcap")
    (tmp_path / "frames").mkdir()
    cv2.imwrite("frames/0.png", street[0].frame.image)
    return tmp_path


def test_replays(recordings: Path) -> None:
    pages = ("README.md", "docs/quick-start.md", "docs/recordings.md")
    found = [words for words in commands("instaseg", *pages) if words[0] == "replay"]
    assert {page for page in pages if "instaseg replay" in PAGES[page]} == set(pages)
    for words in found:
        if "--weights" in words:  # those of a training before it
            continue
        outputs = [Path(words[i + 1]) for i, word in enumerate(words) if word == "-o"]
        assert cli.main([*words, "--overwrite"]) == 0
        assert all(output.exists() for output in outputs)


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md"])
def test_python(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("street.jpg", np.zeros((64, 96, 3), np.uint8))
    (code,) = blocks(PAGES[page], "python")
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out.startswith("(64, 96) [")


def test_trainings_name_what_exists() -> None:
    trainings = [words for words in commands("instaseg") if words[0] == "train"]
    assert trainings
    for words in trainings:
        shipped = not Path(words[1]).suffix  # by its name
        trained = load(recipe(words[1]) if shipped else ROOT / words[1])
        assert trained.train.dataset or "--data" in words


@pytest.mark.parametrize("words", commands("instaseg"), ids=" ".join)
def test_every_command_is_one_that_the_program_takes(words: list[str]) -> None:
    assert cli._parser(words).parse_args(words).verb == words[0]


def test_what_is_installed_is_what_setup_declares() -> None:
    extras = setup_arguments()["extras_require"]
    declared = {re.split(r"\W", line)[0] for lines in extras.values() for line in lines}
    declared |= {re.split(r"\W", line)[0] for line in setup_arguments()["install_requires"]}
    installs = [words[1:] for words in commands("pip") if words[0] == "install"]
    assert installs
    for wanted in (one for words in installs for one in words):
        if wanted.startswith("."):
            assert set(wanted[2:-1].split(",")) <= set(extras), wanted
        else:
            assert re.split(r"[^\w-]", wanted)[0] in declared, wanted
    for words in commands("colcon"):
        assert words == ["build", "--packages-select", setup_arguments()["name"]]


def test_make_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
    wanted = {word for words in commands("make") for word in words if "=" not in word}
    assert "demo" in wanted
    assert wanted <= targets
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
