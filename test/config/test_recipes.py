"""Shipped recipes are found by name, in a checkout and after an installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from instaseg_ros.cli import main
from instaseg_ros.config import load, recipes
from instaseg_ros.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "config" / "train"


def test_a_checkout_has_its_own() -> None:
    for file in SHIPPED.iterdir():
        assert recipes.recipe(file.stem) == file
    assert load(recipes.recipe("finetune")).train.fixed_batchnorm


def test_an_installation_has_them_in_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "lib" / "instaseg_ros" / "x" / "y.py"))
    folder = tmp_path / "prefix" / recipes.SHARE
    folder.mkdir(parents=True)
    (folder / "mine.yaml").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path / 'prefix'}")
    assert recipes.recipe("mine") == folder / "mine.yaml"
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        recipes.recipe("mime")


def test_the_command_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "fine_tune", "--data", "mine"]) == 2
    said = capsys.readouterr().err
    assert "recipe fine_tune: expected one of" in said and "did you mean 'finetune'?" in said
