"""The `instaseg` command: quick help, exit codes, and replay from file to file."""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from rosbags.rosbag2 import Reader
from written_recordings import write_bag

from instaseg_ros import cli, errors
from instaseg_ros.checkpoint import Checkpoint, description, load_checkpoint, save_checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network: its labels are random, but it runs the whole pipeline."""
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), ("car", "person")), path)
    return str(path)


@pytest.fixture
def bag(tmp_path):
    return write_bag(tmp_path / "in.mcap", 40)


def replay(*arguments):
    """Exit code; with the runtime that needs no compilation, unless told otherwise."""
    words = [str(argument) for argument in arguments]
    return cli.main(["replay", "--set", "runtime.name=torch", *words])


def test_help_is_quick_and_names_every_verb():
    """Quick, since nothing heavy is imported."""
    code = (
        "import sys; from instaseg_ros import cli\n"
        "try: cli.main(['--help'])\n"
        "finally: assert not {'torch', 'cv2', 'numpy'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb, (_, purpose) in cli.VERBS.items():
        assert verb in done.stdout
        assert purpose.split()[0] in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_module_and_help(verb, capsys):
    assert callable(import_module(cli.VERBS[verb][0]).run)
    with pytest.raises(SystemExit) as ended:
        cli.main([verb, "--help"])
    assert ended.value.code == 0
    assert f"instaseg {verb}" in capsys.readouterr().out


def test_replay_writes_every_output(tmp_path, bag, weights, capsys):
    outputs = [tmp_path / "out.mcap", tmp_path / "out.mp4", tmp_path / "out"]
    options = [option for output in outputs for option in ("-o", output)]
    assert replay(bag, *options, "--weights", weights, "--limit", 5) == 0
    assert "5 frames: 5 labelled, 0 skipped" in capsys.readouterr().out
    assert all(output.exists() for output in outputs)
    assert not list(tmp_path.glob("*.part*"))
    with Reader(outputs[0]) as reader:
        assert reader.topics["/instaseg_node/labels"].msgcount == 5
    assert len(list((outputs[2] / "labels").iterdir())) == 5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TruncatedInputError("it ends at byte 7"), 1),
        (errors.ImageError("no image"), 1),
        (OSError(28, "No space left on device"), 1),
        (errors.InputError("no such recording"), 2),
        (errors.ConfigError("no such option"), 2),
        (errors.WeightsError("no such weights"), 2),
    ],
)
def test_what_breaks_on_the_way_ends_with_1_and_what_cannot_be_used_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    def run(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(import_module(cli.VERBS["info"][0]), "run", run)
    assert cli.main(["info", "DATA"]) == code
    assert capsys.readouterr().err == f"instaseg info: {error}\n"


def test_replay_of_a_broken_recording_keeps_what_there_is(tmp_path, bag, weights, capsys):
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bag.read_bytes()[:200_000])
    assert replay(cut, "-o", tmp_path / "out.mcap", "--weights", weights) == 1
    printed = capsys.readouterr()
    assert "it gives 21 messages" in printed.err
    with Reader(tmp_path / "out.mcap") as reader:
        assert reader.topics["/instaseg_node/labels"].msgcount == 21


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["IN", "-o", "OUT", "--set", "decode.min_pixel=3"], "did you mean 'decode.min_pixels'"),
        (["IN", "-o", "OUT", "--set", "decode.min_pixels"], "expected name=value"),
        (["IN", "-o", "OUT", "--config", "absent.yaml"], "absent.yaml"),
        (["IN", "-o", "OUT", "--weights", "absent"], "neither a shipped name"),
        (["IN", "-o", "OUT", "--topic", "/up"], "no image topic '/up'"),
        (["absent.mcap", "-o", "OUT"], "no such file"),
        (["IN", "-o", "IN", "--overwrite"], "is the input"),
        (["IN", "-o", "out.avi", "--weights", "WEIGHTS"], "ends in .mcap"),
    ],
)
def test_unusable_options_stop_before_anything_starts(
    tmp_path, bag, weights, capsys, arguments, said
):
    names = {"IN": bag, "OUT": tmp_path / "out.mcap", "WEIGHTS": weights}
    assert replay(*(names.get(word, word) for word in arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("instaseg replay: ")
    assert said in printed
    assert list(tmp_path.iterdir()) == [bag]


def test_second_output_that_is_refused_leaves_no_trace_of_the_first(tmp_path, bag, weights, capsys):
    taken = tmp_path / "taken.mp4"
    taken.touch()
    outputs = ["-o", tmp_path / "out.mcap", "-o", taken]
    assert replay(bag, *outputs, "--weights", weights) == 2
    assert "taken.mp4 exists" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [bag, taken]


@pytest.mark.parametrize("arguments", [[], ["fly"], ["replay"], ["replay", "x", "--limit", "0"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: instaseg" in capsys.readouterr().err


def test_interrupt_exits_with_130(tmp_path, bag, weights, monkeypatch):
    from instaseg_ros.pipeline import Pipeline

    def interrupted(self, frames):
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "process", interrupted)
    assert replay(bag, "-o", tmp_path / "out.mcap", "--weights", weights) == 130
    assert list(tmp_path.iterdir()) == [bag]


ROOT = Path(__file__).parents[2]

# What happens, as the verb is called, when a module is imported.
AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            {what}
sys.meta_path.insert(0, Finder())
from instaseg_ros.cli import main
sys.exit(main(sys.argv[1:]))
"""
CTRL_C = "os.kill(os.getpid(), signal.SIGINT)"


def command(*words, code="import sys; from instaseg_ros.cli import main; sys.exit(main())", **env):
    """Run it in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )


@pytest.mark.parametrize(
    "what", [CTRL_C, f"try: {CTRL_C}\n            except BaseException: raise ImportError('torn')"]
)
@pytest.mark.newest
def test_ctrl_c_while_importing_exits_with_130(tmp_path, what):
    """Also where the interrupted import makes another error of it, as C code does."""
    code = AT_IMPORT.format(name="torch", what=what)
    done = command("replay", ROOT / "docs", "-o", tmp_path / "out", code=code)
    assert (done.returncode, done.stderr) == (130, "instaseg replay: interrupted\n")


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        (
            "raise ValueError('odd')",
            1,
            "instaseg replay: ValueError: odd\nThis error is unexpected",
        ),
        ("raise ModuleNotFoundError('x', name='cv2')", 2, "pip install opencv-python-headless"),
    ],
)
def test_nothing_ends_in_a_traceback_unless_it_is_asked_for(tmp_path, what, code, said):
    words = ("replay", ROOT / "docs", "-o", tmp_path / "out")
    program = AT_IMPORT.format(name="torch", what=what)
    done = command(*words, code=program)
    assert done.returncode == code
    assert done.stderr.startswith("instaseg replay: ") and said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        done = command(*words, code=program, INSTASEG_DEBUG="1")
        assert done.returncode == code and "Traceback" in done.stderr


def test_threads_that_numba_refuses_are_named(tmp_path):
    done = command("replay", ROOT / "docs", "-o", tmp_path / "out", NUMBA_NUM_THREADS="0")
    assert done.returncode == 2
    assert done.stderr == "instaseg replay: NUMBA_NUM_THREADS: expected at least 1, got 0\n"


@pytest.mark.parametrize(
    ("run", "code", "said"),
    [
        ("print('x' * 100_000)", 141, ""),
        ("raise BrokenPipeError", 141, ""),
        ("print('x')", 141, ""),  # comes out in the last flush
    ],
)
def test_who_stops_reading_gets_no_error(run, code, said):
    program = (
        "import sys\nfrom instaseg_ros import cli\nfrom instaseg_ros.cli import info\n"
        f"def run(args):\n    {run}\n    return 0\n"
        "info.run = run\nsys.exit(cli.main(['info', 'synthetic']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_named_once():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "instaseg_ros.cli", "info", "synthetic", "--limit", "1"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert (done.returncode, done.stderr.count("No space left")) == (1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["replay", "IN", "-o", "OUT.avi"], "ends in .mcap"),
        (["replay", "IN", "-o", "TAKEN.mcap"], "TAKEN.mcap exists"),
        (["replay", "IN", "-o", "OUT.mcap", "--topic", "/up"], "no image topic '/up'"),
        (["export", "street", "--to", "onnx", "--images", "absent"], "input absent: no such file"),
        (["export", "absent", "--to", "onnx"], "neither a shipped name"),
        (["export", "street", "--to", "safetensors", "-o", "OUT.pth"], "ends in .safetensors"),
        (["export", "street", "--to", "safetensors", "-o", "TAKEN.mcap"], "ends in .safetensors"),
        (["doctor", "--images", "absent"], "input absent: no such file"),
        (["doctor", "--json", "FOLDER"], "output FOLDER is not replaced: expected a file"),
        (["doctor", "--bundle", "OUT.zip"], "--bundle: expected together with --live"),
        (["doctor", "--image", "/front"], "--image: expected together with --live"),
        (["doctor", "--live", "0.5"], "--live: expected 1 to 3600 seconds, got 0.5"),
        (["doctor", "--live", "nan"], "--live: expected 1 to 3600 seconds, got nan"),
        (["doctor", "--live", "--bundle", "OUT.tar"], "ends in .zip, got OUT.tar"),
        (["doctor", "--live", "--with-pictures"], "with --bundle FILE.zip"),
        (["quantize", "--images", "absent"], "input absent: no such file"),
        (["bench", "--json", "FOLDER"], "output FOLDER is not replaced: expected a file"),
        (["bench", "--sweep", "FOLDER"], "output FOLDER is not replaced: expected a file"),
        (["bench", "--methods", "street", "--data", "absent"], "absent"),
    ],
    ids=range(19),
)
def test_what_is_wrong_is_told_before_the_network_loads(
    tmp_path, bag, words, said, monkeypatch, capsys
):
    def loaded(*_):
        raise AssertionError("the network is loading")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("instaseg_ros.checkpoint.load_checkpoint", loaded)
    monkeypatch.setattr("instaseg_ros.pipeline.load_checkpoint", loaded)
    Path("TAKEN.mcap").touch()
    Path("FOLDER").mkdir()
    before = sorted(tmp_path.iterdir())
    assert cli.main([{"IN": str(bag)}.get(word, word) for word in words]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_package_that_only_the_end_needs_is_missed_at_the_start(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["bench", "--sweep", "growth.png"]) == 2
    said = capsys.readouterr().err
    assert "pip install matplotlib, or in a checkout of instaseg_ros pip install '.[plots]'" in said


@pytest.mark.newest
def test_published_weights_become_safetensors(tmp_path, capsys):
    network = ERFNet(make_method("spatial_embedding", 1, 1).heads)
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "w.pth")
    out = tmp_path / "mine.safetensors"
    words = ["export", str(tmp_path / "w.pth"), "--to", "safetensors", "-o", str(out)]
    assert cli.main(words) == 0
    again, before = load_checkpoint(out), load_checkpoint(tmp_path / "w.pth")
    assert json.dumps(description(again)) == json.dumps(description(before))
    assert (again.decode, again.notes) == (before.decode, before.notes)
    assert all(torch.equal(t, again.tensors[name]) for name, t in before.tensors.items())
    assert cli.main(words) == 2
    assert "exists" in capsys.readouterr().err


def test_messages_go_above_the_progress_bar(monkeypatch, capsys):
    from instaseg_ros.cli.replay import _log_above_bars

    root = logging.getLogger()
    plain = logging.StreamHandler(sys.stderr)
    plain.setFormatter(logging.Formatter("said: %(message)s"))
    monkeypatch.setattr(root, "handlers", [plain])
    with _log_above_bars():
        assert plain not in root.handlers
        root.warning("inside")
    assert root.handlers == [plain]
    assert capsys.readouterr().err == "said: inside\n"
