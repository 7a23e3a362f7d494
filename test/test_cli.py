"""The `instaseg` command: quick help, exit codes, and replay from file to file."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch
from recordings import write_bag
from rosbags.rosbag2 import Reader

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network: what it labels is chance, but it goes the whole way."""
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
