"""Two runs side by side: their numbers, and which differences are more than noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("duckdb")

from fleet_runs import SECOND_NS, without, write_hand_run
from metric_scenes import metric_scene
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH, two_instances

from instaseg_ros import cli
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.fleet import comparison
from instaseg_ros.fleet.comparison import Measured, blocks_of, compare, paired
from instaseg_ros.fleet.evaluation import numbers_of
from instaseg_ros.fleet.parquet import read_rows, write_rows
from instaseg_ros.fleet.rows import Facts, Rows, Stored, frames_of
from instaseg_ros.frames import Frame, Result
from instaseg_ros.samples import Sample

NAMES = ("car", "person", "rider")


def random_frames(recordings: int, count: int, seed: int = 3) -> list[Stored]:
    """Frames of several recordings, with objects of three classes."""
    rng, frames = np.random.default_rng(seed), []
    for number in range(recordings):
        rows = Rows(f"drive{number}", NAMES, NAMES, tracking=True)
        for k in range(count):
            scene = metric_scene(rng, len(NAMES), groups=False)
            present = np.isin(scene.ids, scene.labels)
            ids, class_ids = scene.ids[present], scene.class_ids[present]
            image = np.zeros((*scene.labels.shape, 3), np.uint8)
            sample = Sample(Frame(image, k * SECOND_NS), scene.labels, ids, class_ids)
            counts = frame_counts(scene.labels, ids, class_ids, scene.predicted, min_pixels=1)
            facts = Facts(dropped=k == 1, latency_ms=None if k == 1 else 10.0 * k + number)
            rows.add(sample, Result(scene.predicted), counts, facts)
        frames += frames_of(rows.tables(), NAMES)
    return frames


def test_numbers_of_repeated_frames_are_those_of_a_longer_evaluation() -> None:
    frames = random_frames(1, 8)
    times = np.array([0, 2, 1, 0, 3, 1, 1, 0])
    longer = [one for one, n in zip(frames, times, strict=True) for _ in range(n)]
    found = Measured(frames, NAMES, tracking=False).numbers(times)
    expected = numbers_of(longer, NAMES, tracking=False)
    assert found["dropped"] == 2
    for key in ("ap", "ap50", "pq"):
        assert found[key] == pytest.approx(expected[key], abs=1e-12)
    latencies = [one.latency_ms for one in longer if one.latency_ms is not None]
    assert found["p99_ms"] == pytest.approx(np.percentile(latencies, 99))
    (minute,) = expected["by_minute"]
    assert found["recall"] == pytest.approx(minute["found"] / minute["objects"])
    right_and_wrong = minute["found"] + minute["wrong"]
    assert found["precision"] == pytest.approx(minute["found"] / right_and_wrong)


def test_numbers_of_repeated_recordings_are_those_of_more_recordings() -> None:
    frames = random_frames(3, 5)
    times = np.array([2, 0, 1])
    again = [replaced(one, "again") for one in frames if one.recording == "drive0"]
    longer = [one for one in frames if one.recording != "drive1"] + again
    found = Measured(frames, NAMES, tracking=True).tracks(times)
    expected = numbers_of(longer, NAMES, tracking=True)["tracking"]
    for key, value in found.items():
        assert value == pytest.approx(expected[key], abs=1e-12), key


def replaced(frame: Stored, recording: str) -> Stored:
    return frame._replace(recording=recording)


def test_blocks_are_as_long_as_there_are_enough_of_them() -> None:
    def frames(seconds: float, count: int) -> list[Stored]:
        (one,) = random_frames(1, 1)
        return [one._replace(stamp_ns=round(k * seconds * SECOND_NS)) for k in range(count)]

    for seconds, count, said in (
        (1.0, 660, "11 blocks of up to 60 s"),
        (1.0, 300, "30 blocks of up to 10 s"),
        (0.1, 150, "15 blocks of up to 1 s (short drives"),
        (0.1, 50, "50 frames (short drives"),
    ):
        block, told = blocks_of(frames(seconds, count))
        assert told.startswith(said)
        assert np.unique(block).tolist() == list(range(int(said.split()[0])))
        assert np.all(np.diff(block) >= 0)
    # A block never spans two recordings.
    both = frames(0.5, 20) + [replaced(one, "other") for one in frames(0.5, 20)]
    block, _ = blocks_of(both)
    assert not set(block[:20]) & set(block[20:])


def write_run(
    folder: Path, missing: list[bool], *, names: tuple[str, ...] = CLASS_NAMES, **facts: Any
) -> Path:
    """A run of five recordings, in the frames of which the person is found, or missed."""
    folder.mkdir()
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, part in enumerate(np.split(np.array(missing), 5)):
        rows = Rows(f"drive{number}", names, names, tracking=True)
        for k, gone in enumerate(part.tolist()):
            truth = two_instances(k)
            said = without(truth, 7) if gone else truth
            order = np.argsort(truth.ids)
            ids, class_ids = truth.ids[order], truth.class_ids[order]
            sample = Sample(Frame(image, k * SECOND_NS), truth.labels, ids, class_ids)
            counts = frame_counts(truth.labels, ids, class_ids, said, min_pixels=1)
            rows.add(sample, Result(said, {"network": 5.0}), counts)
        settings = {"with_tracking": True, "weights": folder.name, "config": {"a": {"b": 1}}}
        about = {"evaluated_classes": list(names), "settings": settings, **facts}
        write_rows(folder / f"drive{number}.parquet", rows.tables(), about)
    return folder


def renamed(run: Path) -> Path:
    """A copy with one recording of another name."""
    (run / "other").mkdir()
    facts = {"evaluated_classes": ["car"]}
    tables = read_rows(run / "drive0.parquet")
    for table in tables.values():
        table["recording"] = np.ma.array(np.full(len(table["recording"]), "x", object))
    write_rows(run / "other" / "x.parquet", tables, facts)
    return run / "other"


@pytest.fixture(autouse=True)
def _fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 200)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, one with other errors but no more, and one that is worse."""
    root, rng = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    missing = {name: (rng.random(60) < rate).tolist() for name, rate in
               (("one", 0.3), ("other", 0.3), ("worse", 0.7))}  # fmt: skip
    return {name: write_run(root / name, gone) for name, gone in missing.items()}


def verdicts(a: Path, b: Path) -> dict[str, str]:
    return {one.key: one.verdict for one in compare(paired((a, b))[1]).changes}


def test_noise_is_not_called_progress(runs: dict[str, Path]) -> None:
    same = verdicts(runs["one"], runs["one"])
    assert set(same.values()) == {"same"} and len(same) == 12
    noise = verdicts(runs["one"], runs["other"])
    assert {noise[k] for k in ("ap", "ap50", "pq", "recall", "hota", "motsa")} == {"noise"}
    assert noise["p99_ms"] == noise["dropped"] == "same"
    worse = verdicts(runs["one"], runs["worse"])
    assert {worse[k] for k in ("ap", "ap50", "pq", "recall", "hota", "motsa")} == {"worse"}
    assert worse["precision"] == "same"


def test_intervals_are_seeded_and_hold_the_difference(runs: dict[str, Path]) -> None:
    _, both = paired((runs["one"], runs["worse"]))
    found = compare(both)
    assert compare(both) == found
    said = "200 resamples of 10 blocks of up to 10 s; for tracks, of 5 recordings, seed 0"
    assert found.resampled == said
    for one in found.changes:
        assert one.interval is not None
        assert one.interval[0] <= one.difference <= one.interval[1]


def test_latency_is_better_when_there_is_less_of_it() -> None:
    frames = [one._replace(latency_ms=None, ms=20.0 + k % 3) for k, one in
              enumerate(random_frames(2, 10))]  # fmt: skip
    faster = [one._replace(ms=(one.ms or 0) - 5) for one in frames]
    both = comparison.Paired((frames, faster), NAMES, False, [])
    changes = {one.key: one for one in compare(both).changes}
    assert changes["p50_ms"].verdict == changes["p99_ms"].verdict == "better"
    assert changes["p50_ms"].interval == pytest.approx((-5.0, -5.0))
    nothing = [one._replace(ms=None) for one in frames]
    both = comparison.Paired((frames, nothing), NAMES, False, [])
    assert {one.key: one.verdict for one in compare(both).changes}["p50_ms"] == "unknown"


def test_what_cannot_be_compared_is_said(runs: dict[str, Path], tmp_path: Path) -> None:
    hand = write_hand_run(tmp_path / "hand")
    with pytest.raises(ConfigError, match="class in common"):  # it says nothing of its classes
        paired((runs["one"], hand))
    with pytest.raises(InputError, match="expected a folder that"):
        paired((runs["one"], tmp_path / "missing"))
    fewer = write_run(tmp_path / "fewer", [False] * 20, names=("car", "rider"))
    _, both = paired((runs["one"], fewer))
    assert both.classes == ("car",) and len(both.frames[0]) == len(both.frames[1]) == 20
    with pytest.raises(InputError, match="frames of one recording name and stamp"):
        paired((runs["one"], renamed(fewer)))
    assert both.remarks[:2] == [
        "classes of one run only are not compared: person, rider",
        f"40 frames of {runs['one']} are not in the other run",
    ]


def test_another_truth_is_said(runs: dict[str, Path]) -> None:
    (a, _), both = paired((runs["one"], runs["one"]))
    assert both.remarks == []
    changed = a.frames[0].tracked.counts._replace(truth_px=np.array([1, 2]))
    other = a.frames[0]._replace(tracked=a.frames[0].tracked._replace(counts=changed))
    assert not comparison._same_truth(a.frames[0], other)


def test_the_command(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page = tmp_path / "numbers.json", tmp_path / "page"
    words = ["compare", str(runs["one"]), str(runs["worse"]), "--json", str(file), "--frames", "3"]
    assert cli.main([*words, "--report", str(page)]) == 0
    out = capsys.readouterr().out
    assert "60 frames of both" in out and "  weights: one -> worse" in out
    assert "200 resamples of 10 blocks of up to 10 s" in out
    numbers = json.loads(file.read_text())
    assert numbers["format"] == "instaseg_ros comparison 1"
    ap50 = next(one for one in numbers["changes"] if one["key"] == "ap50")
    assert ap50["verdict"] == "worse" and ap50["difference"] == ap50["b"] - ap50["a"] < 0
    assert len(numbers["disagreements"]) == 3 and numbers["settings"] == {
        "weights": ["one", "worse"]
    }
    text = (page / "compare.html").read_text(encoding="utf-8")
    assert "one against worse" in text and text.count("data:image/jpeg") == 1  # made by the page
    assert cli.main(["compare", str(runs["one"]), str(tmp_path)]) == 2
    assert "expected a folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    for wrong in (["--frames", "0"], ["--report", str(tmp_path / "file")]):
        assert cli.main([*words[:3], *wrong]) == 2
        assert "expected" in capsys.readouterr().err
