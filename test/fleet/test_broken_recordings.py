"""Recordings that cannot be evaluated, among others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("duckdb")

from fleet_runs import write_said
from written_recordings import (
    CLASS_NAMES,
    StandInPipeline,
    stamp_ns,
    two_instances,
    write_street_bag,
)

from instaseg_ros import cli
from instaseg_ros.errors import InputError
from instaseg_ros.fleet.evaluation import Alone, Keeping, evaluate_recordings, numbers_of
from instaseg_ros.fleet.folder import RunFolder
from instaseg_ros.fleet.source import Source
from instaseg_ros.fleet.work import Broken, Part, Task
from instaseg_ros.frames import Frame, Result

Capture = pytest.CaptureFixture[str]


class Pipeline(StandInPipeline):
    """Refuses a frame, by the red corner of its image."""

    def __init__(self, refused: int | None = None) -> None:
        self._refused = refused

    def process(self, frames: list[Frame]) -> list[Result]:
        if int(frames[0].image[0, 0, 0]) == self._refused:
            raise InputError("the frame is gone")
        return super().process(frames)

    def reset(self) -> None:
        """Nothing is remembered."""


class Backwards(Alone):
    """Cuts recordings into parts of three frames, and evaluates the last part first."""

    workers, may_cut = 4, True

    def evaluate(
        self, tasks: Sequence[Task], opened: Sequence[Any], progress: Callable[[int], object]
    ) -> Iterator[tuple[int, Part | Broken]]:
        order = range(len(tasks))[::-1]
        alone = super().evaluate([tasks[k] for k in order], [opened[k] for k in order], progress)
        for number, part in alone:
            yield order[number], part


def test_others_go_on_and_the_run_ends_with_1(tmp_path: Path, capsys: Capture) -> None:
    bags = [write_street_bag(tmp_path / f"{name}.mcap", 4) for name in "ac"]
    (tmp_path / "b.mcap").write_bytes(b"no recording")
    results = {stamp_ns(k): two_instances(k) for k in range(4)}
    robot = str(write_said(tmp_path / "robot.mcap", results, CLASS_NAMES))
    run = tmp_path / "run"
    data = [str(bags[0]), str(tmp_path / "b.mcap"), str(bags[1])]
    arguments = ["evaluate", *data, "--predictions", robot, robot, robot, "-o", str(run)]
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "not evaluated: 1 of 3 recordings\n  b: bag " in said.err
    assert "8 frames of 2 recordings" in said.out
    numbers = json.loads((run / "evaluation.json").read_text())
    assert list(numbers["recordings"]) == ["a", "c"] and numbers["ap50"] == 1.0
    assert list(numbers["broken"]) == ["b"] and "no message can be read" in numbers["broken"]["b"]
    # Limits tell of the others only: kept or broken, the exit code is that of an incomplete run.
    for limit in ("ap50=1", "ap=2"):
        assert cli.main([*arguments, "--fail-under", limit]) == 1
        told = capsys.readouterr().err
        assert "not evaluated: 1 of 3 recordings, nor held to the limits" in told
        assert ("--fail-under: ap 1, expected at least 2" in told) == (limit == "ap=2")
    # Repaired, it is all that is left to do.
    (tmp_path / "b.mcap").write_bytes(bags[0].read_bytes())
    assert cli.main([*arguments, "--fail-under", "ap=2"]) == 3
    assert "done before, not again: a, c" in capsys.readouterr().out
    assert json.loads((run / "evaluation.json").read_text())["broken"] == {}


def test_without_any_left_the_reason_is_the_error(tmp_path: Path, capsys: Capture) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mcap").write_bytes(b"no recording")
    sources = [Source(name, tmp_path / f"{name}.mcap") for name in "ab"]
    with pytest.raises(InputError, match=r"^bag .*a\.mcap: no message can be read"):
        evaluate_recordings(sources[:1], Alone(Pipeline()))
    both = r"^no recording can be evaluated:\nbag .*a\.mcap.*\nbag .*b\.mcap"
    with pytest.raises(InputError, match=both):
        evaluate_recordings(sources, Alone(Pipeline()))


@pytest.mark.parametrize("crew", [Alone, Backwards])
def test_one_that_breaks_on_the_way_leaves_nothing(tmp_path: Path, crew: type[Alone]) -> None:
    sources = [
        Source(name, write_street_bag(tmp_path / f"{name}.mcap", count))
        for name, count in (("short", 5), ("long", 9))
    ]
    folder = RunFolder(tmp_path / "run", {}, sources)
    outcome = evaluate_recordings(sources, crew(Pipeline(7)), folder)
    assert list(outcome.facts) == ["short"] and outcome.new == len(outcome.frames) == 5
    assert str(outcome.broken["long"]) == "the frame is gone"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["short.parquet"]


def test_parts_in_any_order_give_the_same_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is kept besides rows."""
    monkeypatch.setattr("instaseg_ros.fleet.schedule.LEAST", 3)
    sources = [
        Source(name, write_street_bag(tmp_path / f"{name}.mcap", count))
        for name, count in (("a", 7), ("b", 1), ("c", 10))
    ]
    keeping = Keeping(coco=True)
    made = {}
    for crew in (Alone, Backwards):
        folder = RunFolder(tmp_path / crew.__name__, {}, sources)
        outcome = evaluate_recordings(sources, crew(Pipeline()), folder, keeping)
        assert outcome.found.coco is not None
        made[crew] = (
            [path.read_bytes() for path in sorted((tmp_path / crew.__name__).iterdir())],
            str(numbers_of(outcome.frames, outcome.classes.names, False)),
            str(outcome.found.coco.average_precision()),  # with NaN
            outcome.found.indices,
            [outcome.found.dataset[k].frame.stamp_ns for k in outcome.found.indices],
        )
    assert made[Alone] == made[Backwards]
    assert made[Alone][3] == list(range(18)) and len(made[Alone][0]) == 3


def test_one_that_has_gone_since_it_was_done_is_broken(tmp_path: Path) -> None:
    sources = [Source(n, write_street_bag(tmp_path / f"{n}.mcap", 2)) for n in "ab"]
    for _ in range(2):
        folder = RunFolder(tmp_path / "run", {}, sources)
        outcome = evaluate_recordings(sources, Alone(Pipeline()), folder)
        (tmp_path / "a.mcap").unlink(missing_ok=True)
    assert outcome.done_before == ["b"] and "no such file" in str(outcome.broken["a"])


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    sources = [Source(n, write_street_bag(tmp_path / f"{n}.mcap", 4)) for n in "abc"]

    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run", {}, sources)
    with pytest.raises(KeyboardInterrupt):
        evaluate_recordings(sources, Alone(Pipeline()), folder, progress=interrupt)
    folder = RunFolder(tmp_path / "run", {}, sources)
    outcome = evaluate_recordings(sources, Alone(Pipeline()), folder)
    assert outcome.done_before == ["a"] and outcome.new == 8 and len(outcome.frames) == 12
