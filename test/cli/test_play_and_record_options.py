"""Options of `instaseg play`, `record` and `replay --live` that cannot be used. Needs no ROS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from written_recordings import write_bag

from instaseg_ros import cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["play", "IN", "--rate", "0"], "--rate: expected a positive number, got 0"),
        (["play", "IN", "--rate", "nan"], "--rate: expected a positive number, got nan"),
        (["play", "IN", "--clock", "-1"], "--clock: expected a positive number"),
        (["play", "IN", "--duration", "inf"], "--duration: expected a positive number"),
        (["play", "IN", "--start", "-1"], "--start: expected 0 or more, got -1"),
        (["play", "IN", "--delay", "-1"], "--delay: expected 0 or more"),
        (["record", "-o", "new.mcap"], "expected names of topics, or --all"),
        (["record", "-o", "new.mcap", "--all", "/a"], "expected names of topics, or --all"),
        (["record", "-o", "new.db3", "/a"], "new.db3: expected a name that ends in .mcap"),
        (["record", "-o", "new.mcap", "/a", "--duration", "0"], "--duration: expected"),
        (["replay", "IN"], "expected an output: -o OUT"),
        (["replay", "IN", "-o", "out", "--rate", "2"], "--rate: expected together with --live"),
        (["replay", "IN", "-o", "out", "--json", "a"], "--json: expected together with --live"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bag(tmp_path / "IN", 1)
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"instaseg {words[0]}: ") and said in printed
    assert [path.name for path in tmp_path.iterdir()] == ["IN"]


@pytest.mark.parametrize(
    "words", [["play", "IN"], ["record", "-o", "new.mcap", "/a"], ["replay", "IN", "--live"]]
)
def test_without_ros_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    for name in [name for name in sys.modules if name.startswith("instaseg_ros.ros")]:
        monkeypatch.delitem(sys.modules, name)
    assert cli.main(words) == 2
    assert "needs ROS 2, which cannot be imported" in capsys.readouterr().err
