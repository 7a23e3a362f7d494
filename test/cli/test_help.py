"""Help, hints for what is mistyped, the version, and completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from setup_file import setup_arguments

from instaseg_ros import __version__, cli
from instaseg_ros.errors import nearest
from instaseg_ros.ros import node

ROOT = Path(__file__).parents[2]


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What it prints before it ends."""
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"instaseg_ros {__version__}\n"


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_node_answers_without_ros(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        node.run([option, "--ros-args", "-p", "weights:=street"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said == f"instaseg_ros {__version__}\n" or said.startswith("usage: instaseg_node")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_examples_are_commands_that_it_takes(verb: str) -> None:
    commands = [
        shlex.split(line, comments=True)
        for line in import_module(cli.VERBS[verb][0]).EXAMPLES.strip().splitlines()
    ]
    assert len(commands) >= 2
    for program, *words in commands:
        assert program == "instaseg"
        assert cli._parser(words).parse_args(words).verb == verb


def test_names_keep_their_letters(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Write the network as ONNX, OpenVINO IR or an engine." in printed(capsys, "export", "-h")
    assert "Watch the ROS node label" in printed(capsys, "demo", "-h")


def test_defaults_are_told_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    said = printed(capsys, "export", "-h")
    assert "input (default: 512x1024)" in said
    assert "fp16 (default" not in said  # --precision tells its own
    assert "default: None" not in said and "default: False" not in said
    assert "a dataset (default: synthetic)" in printed(capsys, "bench", "-h")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_extras_in_help_exist(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    named = re.findall(r"extra\s+`(\w+)`", printed(capsys, verb, "-h"))
    assert set(named) <= set(setup_arguments()["extras_require"])


def test_exit_codes_are_in_help(capsys: pytest.CaptureFixture[str]) -> None:
    said = printed(capsys, "-h")
    for code, meaning in cli.EXIT_CODES.items():
        assert re.search(rf"^ +{code} +{re.escape(meaning)}$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reply", "drive.mcap"], "did you mean replay?"),
        (["fly"], "expected one of demo, replay,"),
        (["mine", "drive.mcap", "--ouput", "d"], "unknown option --ouput; did you mean --output?"),
        (["mine", "drive.mcap", "--ouput=d"], "unknown option --ouput; did you mean --output?"),
        (["replay", "--zzzz"], "unknown option --zzzz; see instaseg replay --help"),
        (["export", "street", "--to", "onxx"], "argument --to: unknown: 'onxx'; did you mean onnx"),
        (["--vesion"], "unknown option --vesion; did you mean --version?"),
    ],
)
def test_what_is_mistyped_is_told_with_the_nearest(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in printed(capsys, *words, code=2).splitlines()[-1]


def test_shortened_options_and_odd_files_are_no_mistakes() -> None:
    words = ["replay", "--lim", "3", "--", "--odd name"]
    args = cli._parser(words).parse_args(words)
    assert (args.limit, args.input) == (3, "--odd name")


def test_mistyped_weights_are_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "stret-synthetic", "--to", "onnx"]) == 2
    assert capsys.readouterr().err.endswith("did you mean street-synthetic?\n")


def test_nearest_of_an_endless_name_is_none() -> None:
    assert nearest("x" * 10_000_000, ["street", "nuclei"]) is None


@pytest.mark.parametrize(
    ("line", "proposed"),
    [
        ("instaseg re", {"replay", "record"}),
        ("instaseg replay drive.mcap --overw", {"--overwrite"}),
        ("instaseg replay --ouput x --overw", {"--overwrite"}),
        ("instaseg replay drive.mcap --weights nuc", {"nuclei"}),
        ("instaseg replay drive.mcap --set runtime.na", {"runtime.name="}),
        ("instaseg export nuclei --to o", {"onnx", "openvino"}),
    ],
)
def test_completion(line: str, proposed: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="needs the extra `completion`")
    answer = tmp_path / "answer"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "PYTHONPATH": str(ROOT)}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
    command = [sys.executable, "-m", "instaseg_ros.cli"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {word.strip() for word in answer.read_text().split("\n")} == proposed


def test_bash_finds_the_mark_that_it_may_ask() -> None:
    """argcomplete looks for it at the begin of the module that the command is in."""
    assert "PYTHON_ARGCOMPLETE_OK" in Path(str(cli.__file__)).read_text(encoding="utf-8")[:1024]
