"""Recordings evaluated with results made now, and with what a robot said."""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("duckdb")

from fleet_runs import of_sample, without, write_said
from written_recordings import StandInPipeline, stamp_ns, two_instances, write_bag, write_street_bag

from instaseg_ros import cli
from instaseg_ros.datasets import spread
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.datasets.recordings import Recordings
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.run import evaluate, summary_of
from instaseg_ros.fleet import query
from instaseg_ros.fleet.evaluation import (
    NUMBERS_ONLY,
    Alone,
    Keeping,
    evaluate_recordings,
    numbers_of,
)
from instaseg_ros.fleet.folder import RunFolder
from instaseg_ros.fleet.source import Source, names_of
from instaseg_ros.frames import Frame, Result
from instaseg_ros.synthetic_street import SyntheticStreet, export

Log = pytest.LogCaptureFixture
Capture = pytest.CaptureFixture[str]

FRAMES, DROPPED = 6, (2, 5)
DIAGNOSIS = {
    "images received": "6",
    "images labelled": "4",
    "images dropped while busy": "2",
    "total p50 (ms)": "21.50",
    "total p99 (ms)": "35.00",
    "image topic": "/image",
}


class Forgetful(StandInPipeline):
    """Misses the person in every other frame."""

    def process(self, frames: list[Frame]) -> list[Result]:
        results = super().process(frames)
        odd = [int(frame.image[0, 0, 0]) % 2 for frame in frames]
        return [
            replace(r, instances=without(r.instances, 7)) if o else r
            for r, o in zip(results, odd, strict=True)
        ]

    def reset(self) -> None:
        """Nothing is remembered."""


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticStreet]:
    """A recording of the synthetic street with truth and depth."""
    made = SyntheticStreet((64, 128), sequences=1, frames_per_sequence=FRAMES, seed=3)
    path = tmp_path_factory.mktemp("street") / "street.mcap"
    export.write_bag(made, path)
    return path, made


@pytest.fixture(scope="module")
def said(street: tuple[Path, SyntheticStreet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a robot said: the truth, 30 ms after each image, but two frames were dropped."""
    samples = [street[1][k] for k in range(FRAMES) if k not in DROPPED]
    results = {sample.frame.stamp_ns: of_sample(sample) for sample in samples}
    path = tmp_path_factory.mktemp("said") / "robot.mcap"
    return write_said(path, results, street[1].class_names, 30.0, DIAGNOSIS)


def test_what_a_robot_said_is_evaluated_with_its_drops(
    street: tuple[Path, SyntheticStreet],
    said: Path,
    tmp_path: Path,
    capsys: Capture,
    caplog: Log,
) -> None:
    run = tmp_path / "run"
    options = ["--predictions", str(said), "-o", str(run), "--depth", "/depth"]
    with caplog.at_level(logging.INFO):
        assert cli.main(["evaluate", str(street[0]), *options]) == 0
    assert "2 frames without a result, 0 of them before the first result and 1 after" in caplog.text
    numbers = json.loads((run / "evaluation.json").read_text())
    out = capsys.readouterr().out
    assert "street: 2 of 6 frames without a result, latency 30 ms (p99 30 ms) since stamp" in out
    assert "the node counted images: received 6, labelled 4, dropped 2; total 22 ms" in out
    live = numbers["recordings"]["street"]["live"]
    assert (live["frames"], live["dropped"]) == (6, 2)
    assert live["latency_ms"] == pytest.approx([30.0, 30.0])
    assert live["diagnosed"]["counts"] == {"received": 6, "labelled": 4, "dropped": 2}
    # Whatever it saw, it found; what it dropped, it missed.
    with query.opened_run(run) as database:
        of_frames = "SELECT dropped, sum(objects), sum(found), sum(missed), sum(wrong) FROM frames"
        kept, gone = query.ask(database, f"{of_frames} GROUP BY 1 ORDER BY 1").rows
        assert kept[0] is False and kept[1] == kept[2] > 0 and kept[3:] == (0, 0)
        assert gone[0] is True and gone[1] == gone[3] > 0 and (gone[2], gone[4]) == (0, 0)
        dropped = query.ask(database, "SELECT frame FROM frames WHERE dropped ORDER BY 1").rows
        assert dropped == [(2,), (5,)]
        latencies = query.ask(database, "SELECT latency_ms FROM frames ORDER BY frame").rows
        assert [one[0] for one in latencies] == pytest.approx([30, 30, None, 30, 30, None])
        away = query.ask(database, "SELECT min(distance_m), max(distance_m) FROM truths").rows[0]
        assert 1 < away[0] < away[1] < 200
    assert numbers["dropped"] == 2 and numbers["objects"] == kept[1] + gone[1]
    assert sum(one["objects"] for one in numbers["by_distance"]) <= numbers["objects"]
    (minute,) = numbers["by_minute"]
    assert (minute["frames"], minute["dropped"], minute["found"]) == (6, 2, kept[2])
    assert minute["objects"] == numbers["objects"] and numbers["ms_per_frame"] is None


def test_numbers_equal_those_of_the_one_loop(tmp_path: Path) -> None:
    paths = [write_street_bag(tmp_path / f"{name}.mcap", 5) for name in "ab"]
    bags = [LabelledBag(path) for path in paths]
    sources = [Source(path.stem, path) for path in paths]
    keeping = Keeping(tracking=True)
    folder = RunFolder(tmp_path / "run", {"weights": 1}, sources)
    outcome = evaluate_recordings(sources, Alone(Forgetful()), folder, keeping)
    found = numbers_of(outcome.frames, outcome.classes.names, True)
    expected = summary_of(evaluate(Forgetful(), Recordings(bags, ["a", "b"]), tracking=True))
    assert {key: found[key] for key in expected} == expected
    assert found["per_class"]["person"]["objects"] == 10 and found["tracking"]["sequences"] == 2
    assert (found["frames"], found["dropped"]) == (10, 0)
    again = evaluate_recordings(
        sources, Alone(Forgetful()), RunFolder(tmp_path / "run", {"weights": 1}, sources), keeping
    )
    assert again.done_before == ["a", "b"] and again.new == 0
    assert numbers_of(again.frames, again.classes.names, True) == found
    assert again.facts == outcome.facts


def done(run: Path, paths: list[Path], settings: dict[str, Any]) -> list[str]:
    """Evaluates the recordings; those that it did not do again."""
    sources = [Source(n, path) for n, path in zip(names_of(paths), paths, strict=True)]
    folder = RunFolder(run, settings, sources)
    return evaluate_recordings(sources, Alone(Forgetful()), folder, NUMBERS_ONLY).done_before


def test_only_what_has_changed_is_done_again(tmp_path: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    run, settings = tmp_path / "run", {"weights": "a"}
    a, b = (write_street_bag(tmp_path / f"{name}.mcap", 3) for name in "ab")
    assert done(run, [a], settings) == []
    kept = (run / "a.parquet").read_bytes()
    assert done(run, [a, b], settings) == ["a"]
    assert (run / "a.parquet").read_bytes() == kept and "a: done before" in caplog.text
    os.utime(a, ns=(1, 1))
    assert done(run, [a, b], settings) == ["b"]
    assert "a: done again, as its files or the options have changed" in caplog.text
    assert done(run, [a, b], {"weights": "b"}) == []
    with pytest.raises(ConfigError, match=r"run has .* with other weights or options \(b\)"):
        done(run, [a], {"weights": "c"})
    (tmp_path / "there").mkdir()
    other = write_street_bag(tmp_path / "there" / "a.mcap", 3)
    with pytest.raises(ConfigError, match=r"rows of another recording named a, .*a\.mcap: choose"):
        done(run, [other, b], {"weights": "b"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="expected an empty folder or one of an earlier run"):
        done(tmp_path / "mine", [a], settings)


def write_truth(path: Path, frames: int, *labels: int) -> Path:
    """A recording whose truth has only some of the two objects."""
    from instaseg_ros.recordings import result_messages
    from instaseg_ros.recordings.bags import DETECTIONS, IMAGE, BagWriter
    from instaseg_ros.recordings.message_types import make_header

    writer = BagWriter(path)
    writer.add_topic("/ground_truth/labels", IMAGE)
    writer.add_topic("/ground_truth/detections", DETECTIONS)
    for k in range(frames):
        header = make_header(stamp_ns(k) + 4_000_000, "another_camera")
        truth = two_instances(k)
        for label in {7, 300} - set(labels):
            truth = without(truth, label)
        image = result_messages.labels_message(writer.msgs, header, truth.labels)
        objects = result_messages.detections_message(
            writer.msgs, header, truth, StandInPipeline.class_names
        )
        writer.write("/ground_truth/labels", image, stamp_ns(k))
        writer.write("/ground_truth/detections", objects, stamp_ns(k))
    writer.close()
    return path


def test_a_class_new_to_the_run_is_judged_everywhere(tmp_path: Path, caplog: Log) -> None:
    caplog.set_level(logging.INFO)
    bags = [write_bag(tmp_path / f"{name}.mcap", 3) for name in "ab"]
    truths = [
        write_truth(tmp_path / "of_a.mcap", 3, 300),
        write_truth(tmp_path / "of_b.mcap", 3, 7, 300),
    ]
    sources = [
        Source(bag.stem, bag, truth, tolerance_ms=5.0)
        for bag, truth in zip(bags, truths, strict=True)
    ]
    run = tmp_path / "run"

    def wrong(count: int) -> int:
        outcome = evaluate_recordings(
            sources[:count], Alone(Forgetful()), RunFolder(run, {}, sources), NUMBERS_ONLY
        )
        assert outcome.done_before == []
        with query.opened_run(run) as database:
            answer = query.ask(database, "SELECT sum(wrong) FROM frames WHERE recording = 'a'")
        return int(answer.rows[0][0])

    assert wrong(1) == 0  # nobody said that people are labelled
    assert wrong(2) == 2  # found in the frames 0 and 2 of `a`, where there is none
    assert "done again, as another recording has other classes: a" in caplog.text


def test_truth_of_another_recording_is_matched_by_stamp(
    tmp_path: Path, capsys: Capture, caplog: Log
) -> None:
    bag = write_bag(tmp_path / "camera.mcap", 5)
    truth = write_truth(tmp_path / "labels.mcap", 3, 7, 300)  # 4 ms later
    said = write_said(
        tmp_path / "said.mcap",
        {stamp_ns(k): two_instances(k) for k in range(5)},
        StandInPipeline.class_names,
        node="/robot/front",
    )
    options = ["--truth", str(truth), "--predictions", str(said), "--json", str(tmp_path / "j")]
    assert cli.main(["evaluate", str(bag), *options]) == 2
    assert "expected an image, labels and detections of one stamp" in capsys.readouterr().err
    assert cli.main(["evaluate", str(bag), *options, "--tolerance-ms", "3.9"]) == 2
    assert "expected an image within 3.9 ms of labels" in capsys.readouterr().err
    assert cli.main(["evaluate", str(bag), *options, "--tolerance-ms", "4"]) == 0
    assert "2 of 5 images have no truth within 4 ms" in caplog.text
    numbers = json.loads((tmp_path / "j").read_text())
    assert numbers["images"] == 3 and numbers["objects"] == 6 and numbers["ap50"] == 1.0
    live = numbers["recordings"]["camera"]["live"]
    assert live.pop("latency_from") == "stamp"
    assert live == {"frames": 3, "dropped": 0, "latency_ms": None, "diagnosed": {}}


def test_a_labelled_recording_can_be_the_truth(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "camera.mcap", 3)
    results = {stamp_ns(k): two_instances(k) for k in range(3)}
    teacher = write_said(tmp_path / "teacher.mcap", results, StandInPipeline.class_names)
    dataset = LabelledBag(bag, truth=teacher)
    assert dataset.class_names == ("car", "person") and len(dataset) == 3
    np.testing.assert_array_equal(dataset[1].labels, two_instances(1).labels)
    outcome = evaluate_recordings([Source("a", bag, teacher)], Alone(Forgetful()))
    people = [int(one.tracked.counts.counted.sum()) for one in outcome.frames]
    assert people == [2, 2, 2]


def test_parts_and_names_of_recordings(tmp_path: Path) -> None:
    path = write_street_bag(tmp_path / "a.mcap", 20)
    assert len(Source("a", path, split="val").open()) == 2
    assert len(Source("a", path, split="train", frames=5, in_order=True).open()) == 5
    some = Source("a", path, frames=4).open()
    assert [some[k].frame.stamp_ns for k in range(4)] == [stamp_ns(k) for k in spread(20, 4)]
    names = names_of([Path("x/a.mcap"), Path("y/a.mcap"), Path("y/b"), Path("c.1.db3.zstd")])
    assert names[2:] == ["b", "c.1"] and len(set(names)) == 4 and names[0].startswith("a-")
    assert names_of([Path(os.fsdecode(b"x/\xff.mcap"))]) == ["_"]


@pytest.mark.parametrize(
    ("options", "said_why"),
    [
        (["--truth", "a", "b"], "--truth: expected one for each of the 1 recordings, got 2"),
        (["--tolerance-ms", "-1"], "--tolerance-ms: expected at least 0"),
        (["--labels", "/x/labels"], "--labels: names a topic of --predictions"),
        (["--predictions", "BAG", "--weights", "street"], "--predictions: were made before"),
        (["--predictions", "BAG"], "is not labelled: expected a topic .../labels"),
        (["--workers", "0"], "--workers: expected at least 1, got 0"),
        (["-o", "s3://bucket/run"], "-o: expected a folder of this machine, got s3:/bucket/run"),
        (["nothing://a.mcap"], "nothing://a.mcap cannot be read: "),
        (["--split", "test"], "expected a split of train, val, all, got 'test'"),
        (["BAG"], "expected every recording once"),
        (["synthetic"], "several of DATA: expected recordings only, got synthetic"),
        (["--predictions", "BAG", "--truth", "missing"], "missing: no such file"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, capsys: Capture, options: list[str], said_why: str
) -> None:
    bag = str(write_street_bag(tmp_path / "bag.mcap", 1))
    given = [bag if one == "BAG" else one for one in options]
    assert cli.main(["evaluate", bag, *given]) == 2
    assert said_why in capsys.readouterr().err


def test_without_duckdb_numbers_are_there_and_rows_ask_for_it(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_street_bag(tmp_path / "a.mcap", 2)
    results = {stamp_ns(k): two_instances(k) for k in range(2)}
    said = write_said(tmp_path / "said.mcap", results, StandInPipeline.class_names)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    arguments = ["evaluate", str(bag), "--predictions", str(said)]
    assert cli.main(arguments) == 0
    assert "2 frames of 1 recording\n" in capsys.readouterr().out
    for wanting in ([*arguments, "-o", str(tmp_path / "run")], ["query", str(tmp_path), "select"]):
        assert cli.main(wanting) == 2
        assert "needs the Python package 'duckdb'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_recordings_are_for_recordings(capsys: Capture) -> None:
    assert cli.main(["evaluate", "synthetic", "-o", "run", "--depth", "/depth"]) == 2
    assert "--output, --depth: for recordings, which synthetic is not" in capsys.readouterr().err
    assert cli.main(["evaluate", "synthetic", "--workers", "2", "--ray", "auto"]) == 2
    assert "--workers, --ray: for recordings, which synthetic is not" in capsys.readouterr().err


def test_what_ray_cannot_do_is_refused_before_it_starts(tmp_path: Path, capsys: Capture) -> None:
    bag = str(write_street_bag(tmp_path / "a.mcap", 1))
    robot = str(write_said(tmp_path / "r.mcap", {stamp_ns(0): two_instances(0)}, ("car", "person")))
    said = ["evaluate", bag, "--predictions", robot]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        assert cli.main([*said, "--workers", "2"]) == 2
        assert "needs the Python package 'ray'" in capsys.readouterr().err
        assert cli.main([*said, "--workers", "1"]) == 0
    pytest.importorskip("ray", reason="the extra `scale` is not installed")
    for address, why in (
        ("127.0.0.1:1", "--ray 127.0.0.1:1: no cluster can be reached there"),
        ("ray://somewhere:10001", "--ray: expected HOST:PORT of a Ray cluster, or auto"),
    ):
        assert cli.main([*said, "--ray", address]) == 2
        assert why in capsys.readouterr().err
    made_now = ["evaluate", bag, "--workers", "2", "--set", "runtime.device=cuda:1"]
    assert cli.main(made_now) == 2
    assert "runtime.device: expected auto, cpu or cuda" in capsys.readouterr().err
