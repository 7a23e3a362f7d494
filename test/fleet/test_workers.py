"""Recordings evaluated by workers of Ray, against one process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("duckdb")
pytest.importorskip("ray", reason="the extra `scale` is not installed")

import dying_workers
from dying_workers import ALWAYS, ONCE, DyingRecipe
from fleet_runs import write_said
from written_recordings import (
    CLASS_NAMES,
    StandInPipeline,
    stamp_ns,
    two_instances,
    write_street_bag,
)

from instaseg_ros import cli
from instaseg_ros.fleet.evaluation import Alone, evaluate_recordings, numbers_of
from instaseg_ros.fleet.parquet import connect, picture_sizes, rows_of
from instaseg_ros.fleet.source import Source
from instaseg_ros.fleet.work import Recipe
from instaseg_ros.fleet.workers import RayCrew
from instaseg_ros.synthetic_street import SyntheticStreet, export

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]

Capture = pytest.CaptureFixture[str]
TIMES = {"ms_per_frame", "p50_ms", "p99_ms", "stage_ms"}


class Resettable(StandInPipeline):
    def reset(self) -> None:
        """Nothing is remembered."""


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES}
    return value


def test_workers_give_what_one_process_gives_byte_for_byte(tmp_path: Path, capsys: Capture) -> None:
    """Of three recordings, of which one is long enough to be cut and one is broken."""
    frames = {"long": 125, "short": 7}
    bags = [str(write_street_bag(tmp_path / f"{n}.mcap", count)) for n, count in frames.items()]
    robots = []
    for name, count in frames.items():
        results = {stamp_ns(k): two_instances(k // 2) for k in range(count) if k % 7}
        robots.append(str(write_said(tmp_path / f"{name}-robot.mcap", results, CLASS_NAMES, 30.0)))
    (tmp_path / "broken.mcap").write_bytes(b"no recording")
    data = [bags[0], str(tmp_path / "broken.mcap"), bags[1]]
    options = ["--predictions", robots[0], robots[1], robots[1]]
    for run, workers in (("one", "1"), ("two", "2")):
        arguments = ["evaluate", *data, *options, "--report", str(tmp_path / run)]
        assert cli.main([*arguments, "--workers", workers]) == 1
        said = capsys.readouterr()
        assert "not evaluated: 1 of 3 recordings\n  broken: bag " in said.err
        assert "132 frames of 2 recordings" in said.out
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert made == ["evaluation.json", "long.parquet", "report.html", "short.parquet"]
    for name in made:
        both = [(tmp_path / run / name).read_bytes() for run in ("one", "two")]
        assert both[0] == both[1], name
    live = json.loads((tmp_path / "two" / "evaluation.json").read_text())["recordings"]["long"]
    assert live["live"]["frames"] == 125 and live["live"]["dropped"] == 18
    pictures = list(picture_sizes(tmp_path / "two" / "long.parquet"))
    assert {*range(0, 125, 4), 21, 42, 63, 105} <= set(pictures)  # and the worst of each second
    assert len(pictures) <= 32 + 7
    assert "not evaluated: broken: bag " in (tmp_path / "two" / "report.html").read_text()


def test_workers_run_the_network_on_a_cluster(tmp_path: Path, capsys: Capture) -> None:
    from ray.cluster_utils import Cluster

    bags = []
    for seed, count in enumerate((5, 3)):
        street = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=count, seed=seed)
        export.write_bag(street, tmp_path / f"{seed}.mcap")
        bags.append(str(tmp_path / f"{seed}.mcap"))
    arguments = ["evaluate", *bags, "--weights", "street-synthetic", "--tracking", "--coco"]
    assert cli.main([*arguments, "--report", str(tmp_path / "one")]) == 0
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        crew = ["--ray", cluster.address, "--workers"]
        assert cli.main([*arguments, "--report", str(tmp_path / "two"), *crew, "2"]) == 0
        capsys.readouterr()
        assert cli.main([*arguments, *crew, "3"]) == 2
        assert "--workers: expected 1 to 2, one a core, got 3" in capsys.readouterr().err
    finally:
        cluster.shutdown()
    runs = tmp_path / "one", tmp_path / "two"
    one, two = (json.loads((run / "evaluation.json").read_text()) for run in runs)
    assert without_times(one) == without_times(two)
    runtime = one["recordings"]["0"]["runtime"]
    for run in runs:
        assert f"weights street-synthetic, {runtime}" in (run / "report.html").read_text()
    for name in ("0.parquet", "1.parquet"):
        rows = [
            connect().sql(f"SELECT * EXCLUDE (ms) FROM ({rows_of([run / name])})").fetchall()
            for run in runs
        ]
        assert rows[0] == rows[1]
    assert one["images"] == 8 and one["tracking"]["sequences"] == 2


def test_a_killed_worker_is_replaced_and_what_kills_it_again_and_again_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames of these numbers stop a process at once, as a lack of memory does."""
    helpers = str(Path(dying_workers.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{helpers}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    lengths = {"once": ONCE + 20, "fine": 20, "always": ALWAYS + 9}
    sources = [
        Source(name, write_street_bag(tmp_path / f"{name}.mcap", count))
        for name, count in lengths.items()
    ]
    shown: list[tuple[int, int]] = []
    recipe = cast(Recipe, DyingRecipe(tmp_path / "died"))
    with RayCrew(recipe, 2, None) as crew:
        outcome = evaluate_recordings(
            sources, crew, progress=lambda done, total: shown.append((done, total))
        )
    assert list(outcome.facts) == ["once", "fine"] and (tmp_path / "died").exists()
    assert "its worker died 3 times" in str(outcome.broken["always"])
    assert shown[-1][1] == sum(lengths.values()) and 0 < shown[-1][0] <= shown[-1][1]
    alone = evaluate_recordings(sources[:2], Alone(Resettable()))
    assert numbers_of(outcome.frames, CLASS_NAMES, False) == numbers_of(
        alone.frames, CLASS_NAMES, False
    )
