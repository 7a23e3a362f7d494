"""Whole runs: killed and resumed, in two processes, diverging; each on a few small images."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from disc_images import QUICK, write_discs
from small_networks import untrained_checkpoint

from instaseg_ros.checkpoint import load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, dump, merge
from instaseg_ros.errors import ConfigError, MissingExtraError, WeightsError
from instaseg_ros.training import trainer
from instaseg_ros.training.logs import TrainingLog
from instaseg_ros.training.state import State, mean_ap
from instaseg_ros.training.trainer import DivergedError, train
from instaseg_ros.training.validation import Validation

INTERRUPTED = """
import os, signal, sys
from instaseg_ros import cli
from instaseg_ros.training import trainer

whole = trainer._step
def interrupted(run, model, optimizer, batch, step):
    if step == 2:
        os.kill(0, signal.SIGINT)  # as a terminal does: to the workers too
    return whole(run, model, optimizer, batch, step)
trainer._step = interrupted
if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:]))
"""

DYING = """
import os, signal, sys
from instaseg_ros import cli
from instaseg_ros.training import trainer

whole = trainer._step
def dying(run, model, optimizer, batch, step):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(run, model, optimizer, batch, step)
trainer._step = dying
cli.main(sys.argv[1:])
"""


def rows(path: Path) -> list[dict[str, float]]:
    """Of a CSV, but for the seconds."""
    with path.open() as file:
        return [
            {name: float(value) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def config_of(tmp_path: Path, **overrides: object) -> tuple[Config, Path]:
    """A quick training on six images, as Config and as file."""
    data = tmp_path / "data"
    if not data.exists():
        write_discs(data, 6)
    options = {**QUICK, "dataset": str(data), "batch_size": 4, **overrides}
    options = {"train." + name.removeprefix("train."): value for name, value in options.items()}
    options["runtime.device"] = options.pop("train.runtime.device")
    config = merge(Config(), options)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config))
    return config, file


def test_a_training_by_time_ends_with_it(tmp_path: Path) -> None:
    """Its last step, and no other, is validated; weights come before that, too."""
    settings = {"train.seconds": 1.0, "train.save_every_s": 1e-3, "train.validate_every": 10**6}
    config, _ = config_of(tmp_path, **settings)
    weights = train(config, tmp_path / "run")
    steps = [row["step"] for row in rows(tmp_path / "run" / "validation.csv")]
    assert steps == [load_checkpoint(weights).notes["step"]]


def run_python(
    *arguments: object, start_new_session: bool = False
) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=start_new_session,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """With dropout, a learning rate that changes, and rows logged after the last saved state."""
    config, file = config_of(tmp_path, steps=5, validate_every=2, batch_size=2)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config, whole)
    done = run_python("-c", DYING, "train", file, "-o", killed)
    assert done.returncode == -9, done.stderr
    assert len(rows(killed / "log.csv")) == 3 and not (killed / "state.part").exists()
    train(config, killed)
    for name in ("log.csv", "validation.csv"):
        assert rows(killed / name) == rows(whole / name), name
    for name in ("weights.safetensors", "best.safetensors"):
        sides = [load_checkpoint(run / name) for run in (whole, killed)]
        assert json.dumps(sides[0].notes) == json.dumps(sides[1].notes)
        for tensor, value in sides[0].tensors.items():
            assert torch.equal(value, sides[1].tensors[tensor]), (name, tensor)
    states = [torch.load(run / "state.pt", weights_only=True) for run in (whole, killed)]
    assert states[0].keys() == {"format", "version", "step", "network", "average", "optimizer"}
    assert all(torch.equal(a, states[1]["network"][k]) for k, a in states[0]["network"].items())


def interrupted_run(tmp_path: Path, workers: int) -> subprocess.CompletedProcess[str]:
    """A training in a process group of its own that gets Ctrl-C in its third step."""
    _, file = config_of(tmp_path, steps=4, save_every=100, batch_size=1, workers=workers)
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    return run_python(program, "train", file, "-o", tmp_path / "run", start_new_session=True)


def test_ctrl_c_saves_the_state_after_the_step_in_work(tmp_path: Path) -> None:
    """And the loss is printed where there is no terminal."""
    done = interrupted_run(tmp_path, workers=0)
    assert done.returncode == 130, done.stderr
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["step"] == 3
    assert [row["step"] for row in rows(tmp_path / "run" / "log.csv")] == [1, 2, 3]
    assert "stopping after this step" in done.stderr
    assert re.search(r"^step 3 of 4: .*total \d", done.stderr, re.MULTILINE)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_reaches_the_workers_too(tmp_path: Path) -> None:
    done = interrupted_run(tmp_path, workers=1)
    assert done.returncode == 130, done.stderr
    assert "stopped after step 3: the same command continues" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"no state", b"half", {"step": "3"}, {"a": 1}, [1]])
def test_a_state_that_no_run_saved_is_named(tmp_path: Path, content: object) -> None:
    path = tmp_path / "state.pt"
    state = State(*(torch.nn.Linear(1, 1) for _ in range(2)), None)  # type: ignore[arg-type]
    if content == b"half":
        state.save(path, 1)
        content = path.read_bytes()[:-300]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(
        ConfigError, match=r"state\.pt is not what a run saves.*--output, or remove"
    ):
        state.resume(path)


def test_best_weights_that_no_run_left_are_named(tmp_path: Path) -> None:
    save_checkpoint(untrained_checkpoint(), tmp_path / "best.safetensors")
    with pytest.raises(ConfigError, match="expected weights of this run"):
        mean_ap(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    ("options", "init", "said"),
    [
        ({"train.teacher": "nobody"}, None, "weights 'nobody': neither"),
        ({}, "nobody", "weights 'nobody': neither"),
    ],
)
def test_weights_to_start_from_are_looked_for_before_the_data(
    tmp_path: Path, options: dict[str, object], init: str | None, said: str
) -> None:
    config = merge(Config(), {"train.dataset": str(tmp_path / "absent"), **options})
    with pytest.raises(WeightsError, match=said):
        train(config, tmp_path / "run", init)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_twice_the_images(tmp_path: Path) -> None:
    """Without dropout, which each process draws for itself, and with BatchNorm fixed, since on a
    CPU it sees only its own process's images."""
    write_discs(tmp_path / "data", 25)  # two of them held out
    config, file = config_of(tmp_path, steps=3, dropout=0, fixed_batchnorm=True, learning_rate=1e-4)
    train(config, tmp_path / "one")
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    done = run_python(*launch, "-m", "instaseg_ros.cli", "train", file, "-o", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("weights: ") == 1
    one, two = (rows(tmp_path / run / "log.csv") for run in ("one", "two"))
    assert [row["step"] for row in two] == [1, 2, 3], "the first process alone writes"
    for left, right in zip(one, two, strict=True):
        assert left == pytest.approx(right, rel=2e-4, abs=2e-6)
    states = [torch.load(tmp_path / run / "state.pt", weights_only=True) for run in ("one", "two")]
    first, second = (state["optimizer"]["state"] for state in states)
    assert first.keys() == second.keys()
    for key, value in first.items():  # the averaged gradients, up to rounding, perhaps of bf16
        difference = (value["exp_avg"] - second[key]["exp_avg"]).norm()
        assert difference <= 0.1 * value["exp_avg"].norm() + 1e-7
    notes = [load_checkpoint(tmp_path / run / "best.safetensors").notes for run in ("one", "two")]
    assert notes[0]["validation"] == notes[1]["validation"], "frames are shared out, none is lost"
    assert notes[0]["validation"]["mean"]["objects"] > 5


def test_a_batch_that_the_processes_cannot_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="expected a multiple of the 3 processes, got 4"):
        train(config_of(tmp_path)[0], tmp_path / "run")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, foreground_weight=1e38)
    with pytest.raises(DivergedError, match=r"step 0: the gradient is .*diverged\.pt"):
        train(config, tmp_path / "run")
    batch = torch.load(tmp_path / "run" / "diverged.pt", weights_only=True)
    assert batch["images"].shape == (4, 3, 64, 64) and batch["images"].dtype == torch.uint8
    assert batch["labels"].max() == max(len(c) for c in batch["class_ids"]) > 0
    assert batch["ignore"].dtype == torch.bool


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_crops_that_memory_cannot_hold_are_named(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        if where == "cuda":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        torch.empty(1 << 50)

    config, _ = config_of(tmp_path)
    monkeypatch.setattr("instaseg_ros.model.erfnet.Encoder.forward", full)
    with pytest.raises(
        ConfigError, match=r"train\.batch_size: 4 crops of 64 x 64 need more memory"
    ):
        train(config, tmp_path / "run")


def test_best_weights_are_those_of_the_best_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over a resumption, though a later validation is worse."""
    config, _ = config_of(tmp_path, steps=4, save_every=1, validate_every=1, batch_size=1)
    values = iter([0.1, 0.4, 0.3, 0.2])
    table = trainer.AveragePrecision

    def scripted(*_: object) -> Validation:
        ap = next(values)
        return Validation({"object": table(ap, ap, 5), "mean": table(ap, ap, 5)}, None)

    monkeypatch.setattr(trainer, "validate", scripted)
    whole = trainer._step

    def dying(run: object, model: object, optimizer: object, batch: object, step: int) -> object:
        if step == 3 and not resumed:
            raise KeyboardInterrupt
        return whole(run, model, optimizer, batch, step)  # type: ignore[arg-type]

    resumed = False
    monkeypatch.setattr(trainer, "_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    resumed = True
    train(config, tmp_path / "run")
    best, last = (
        load_checkpoint(tmp_path / "run" / f"{n}.safetensors") for n in ("best", "weights")
    )
    assert (best.notes["step"], last.notes["step"]) == (2, 4)
    assert [row["mean_ap"] for row in rows(tmp_path / "run/validation.csv")] == [0.1, 0.4, 0.3, 0.2]


def test_a_run_of_another_network_is_not_resumed(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, steps=1, batch_size=1)
    train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"state\.pt belongs to a run with another network"):
        train(merge(config, {"method.n_sigma": 1}), tmp_path / "run")


def test_without_averaging_the_weights_are_those_of_the_last_step(tmp_path: Path) -> None:
    config, _ = config_of(tmp_path, steps=2, batch_size=1, ema_decay=0)
    train(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    for name, value in state["network"].items():
        assert torch.equal(value, state["average"][name]), name


def test_tensorboard_gets_the_numbers_of_the_csv(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, losses in ((0, [3.0, 2.0, 9.0]), (2, [1.0])):  # killed after a step it did not save
        log = TrainingLog(tmp_path, first, tensorboard=True)
        for step, loss in enumerate(losses, first + 1):
            log.loss(step, {"total": loss})
        log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    written = [(e.step, e.value) for e in events.Scalars("loss/total")]
    assert written == [(row["step"], row["total"]) for row in rows(tmp_path / "log.csv")]
    assert written == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_tensorboard_that_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"'\.\[train\]'"):
        TrainingLog(tmp_path, 0, tensorboard=True)
    TrainingLog(tmp_path, 0, tensorboard=False).close()


def test_a_torn_row_of_a_killed_run_is_dropped(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0, tensorboard=False)
    for step in range(1, 4):
        log.loss(step, {"total": 1.0, "seed": np.float32(0.5)})
    file = tmp_path / "log.csv"
    file.write_bytes(file.read_bytes()[:-12] + bytes(30))  # and the zeros of a power cut
    TrainingLog(tmp_path, 3, tensorboard=False)
    assert [row["step"] for row in rows(file)] == [1, 2]
