"""Rows hold every count of an evaluation, in memory and as Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fleet_runs import without
from metric_scenes import metric_scene
from written_recordings import two_instances

from instaseg_ros.errors import InputError
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.metrics.tracking import TrackedFrame, summarize_tracks
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.fleet import pictures
from instaseg_ros.fleet.evaluation import numbers_of
from instaseg_ros.fleet.rows import (
    COLUMNS,
    FRAME,
    PICTURE,
    TRUTH,
    Rows,
    Table,
    frames_of,
    joined,
)
from instaseg_ros.frames import Frame, Result
from instaseg_ros.samples import Sample

pytest.importorskip("duckdb")

from instaseg_ros.fleet.parquet import duckdb, read_facts, read_rows, write_rows

NAMES = ("car", "person", "rider")
SIZE = 96, 128


def random_rows(frames: int) -> tuple[Rows, list[FrameCounts], list[TrackedFrame]]:
    """Frames with small and ignored objects, of three classes."""
    rng = np.random.default_rng(3)
    rows, all_counts, tracked = Rows("drive", NAMES, NAMES, tracking=True), [], []
    for k in range(frames):
        scene = metric_scene(rng, len(NAMES), groups=False)
        present = np.isin(scene.ids, scene.labels)
        ids, class_ids = scene.ids[present], scene.class_ids[present]
        sample = Sample(
            Frame(np.zeros((*SIZE, 3), np.uint8), k * 10_000_000_000),
            scene.labels,
            ids,
            class_ids,
            scene.ignore,
        )
        counts = frame_counts(
            scene.labels, ids, class_ids, scene.predicted, scene.ignore, None, 30.5
        )
        rows.add(sample, Result(scene.predicted, {"network": 1.5, "decode": 2.0}), counts)
        all_counts.append(counts)
        ids64 = ids.astype(np.int64), scene.predicted.ids.astype(np.int64)
        tracked.append(TrackedFrame(counts, *ids64))
    return rows, all_counts, tracked


def test_parts_joined_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in pictures, which a part alone chooses otherwise."""
    monkeypatch.setattr(pictures, "WORST", 6)
    monkeypatch.setattr(pictures, "EVENLY", 4)
    rng = np.random.default_rng(5)
    count, first_ns, frames = 90, 7_300_000_000, []
    for k in range(count):
        truth, found = two_instances(k), without(two_instances(k), int(rng.choice([0, 7, 300])))
        order = np.argsort(truth.ids)
        image = np.full((*truth.labels.shape, 3), k, np.uint8)
        stamp_ns = first_ns + k * 190_000_000
        sample = Sample(
            Frame(image, stamp_ns), truth.labels, truth.ids[order], truth.class_ids[order]
        )
        counts = frame_counts(truth.labels, sample.ids, sample.class_ids, found, min_pixels=1)
        frames.append((sample, Result(found), counts))

    def tables_of(span: range) -> dict[str, Table]:
        rows = Rows("drive", NAMES, NAMES, False, span.start, first_ns)
        for k in span:
            rows.add(*frames[k])
        return rows.tables()

    whole = tables_of(range(count))
    kept = whole[PICTURE]["frame"].tolist()
    assert set(range(0, count, 16)) < set(kept) and len(kept) > 8
    cuts: list[list[int]] = [[], [45], [1, 2, 89], list(range(8, count, 9)), list(range(1, count))]
    cuts += [sorted(rng.choice(np.arange(1, count), 3, replace=False).tolist()) for _ in range(8)]
    for cut in cuts:
        edges = [0, *cut, count]
        parts = [tables_of(range(*edges[k : k + 2])) for k in range(len(edges) - 1)]
        made = joined(parts)
        assert list(made) == list(whole)
        for kind, table in whole.items():
            assert list(made[kind]) == list(table)
            for name, column in table.items():
                both = [np.ma.array(one).tolist() for one in (made[kind][name], column)]
                assert both[0] == both[1], (cut, kind, name)


@pytest.mark.parametrize("stored", [False, True])
def test_counts_come_back_to_the_last_digit(tmp_path: Path, stored: bool) -> None:
    rows, all_counts, tracked = random_rows(20)
    tables = rows.tables()
    if stored:
        write_rows(tmp_path / "drive.parquet", tables, {})
        tables = read_rows(tmp_path / "drive.parquet")
    frames = list(frames_of(tables, NAMES))
    assert [frame.minute for frame in frames] == [k // 6 for k in range(20)]
    assert {frame.ms for frame in frames} == {3.5}
    for frame, counts, one in zip(frames, all_counts, tracked, strict=True):
        for name, ours, theirs in zip(counts._fields, frame.tracked.counts, counts, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        np.testing.assert_array_equal(frame.tracked.truth_ids, one.truth_ids)
        np.testing.assert_array_equal(frame.tracked.predicted_ids, one.predicted_ids)
    found = numbers_of(frames, NAMES, tracking=True)
    summary = summarize(all_counts, rankings(all_counts, NAMES))
    assert {key: found[key] for key in summary} == summary
    assert found["tracking"] == summarize_tracks([tracked], NAMES)
    # What one can count in rows is what the metrics count.
    switched = np.ma.filled(tables[TRUTH]["switched"], False)
    assert switched.sum() == found["tracking"]["id_switches"] > 0
    assert tables[FRAME]["objects"].sum() == found["objects"]
    assert sum(one["found"] for one in found["by_minute"]) == tables[FRAME]["found"].sum()


def test_the_file_has_the_documented_columns(tmp_path: Path) -> None:
    path = tmp_path / "drive.parquet"
    rows, all_counts, _ = random_rows(3)
    count = write_rows(path, rows.tables(), {"recording": "it's"})
    described = duckdb.sql(f"DESCRIBE SELECT * FROM '{path}'").fetchall()
    assert [(one[0], one[1]) for one in described] == [(c.name, c.type) for c in COLUMNS]
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(count,)]
    pairs = sum(int((one.overlap > 0).sum()) for one in all_counts)
    objects = sum(len(one.truth_px) + len(one.predicted_px) for one in all_counts)
    assert count == 3 + objects + pairs + 3  # pictures
    assert read_facts(path) == {"recording": "it's"}
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    for column in COLUMNS:
        assert f"| `{column.name}` | {column.type} |" in page, column.name


def test_a_class_that_is_not_evaluated_has_no_verdict(tmp_path: Path) -> None:
    scene = metric_scene(np.random.default_rng(1), 3, groups=False)
    predicted = scene.predicted
    known = np.array([0, -1, 1])  # the person is not evaluated
    present = np.isin(scene.ids, scene.labels)
    ids, class_ids = scene.ids[present], scene.class_ids[present]
    from dataclasses import replace

    counts = frame_counts(
        scene.labels,
        ids,
        known[class_ids],
        replace(predicted, class_ids=known[predicted.class_ids]),
    )
    rows = Rows("drive", NAMES, NAMES, tracking=False)
    image = Frame(np.zeros((*SIZE, 3), np.uint8))
    rows.add(Sample(image, scene.labels, ids, class_ids), Result(predicted), counts)
    tables = rows.tables()
    for kind in (TRUTH, "prediction"):
        people = tables[kind]["class"] == "person"
        assert people.any() and not people.all()
        verdicts = tables[kind]["verdict"]
        assert [one is None for one in verdicts] == people.tolist()
    assert np.ma.getmaskarray(tables[TRUTH]["switched"]).all()
    (frame,) = frames_of(tables, ("car", "rider"))
    np.testing.assert_array_equal(frame.tracked.counts.predicted_class, counts.predicted_class)
    np.testing.assert_array_equal(frame.tracked.counts.truth_class, counts.truth_class)


def test_columns_may_be_added_later(tmp_path: Path) -> None:
    rows, all_counts, _ = random_rows(3)
    whole, older = tmp_path / "whole.parquet", tmp_path / "older.parquet"
    write_rows(whole, rows.tables(), {})
    duckdb.sql(
        f"COPY (SELECT * EXCLUDE (switched, distance_m), 1 AS newer FROM '{whole}') TO '{older}'"
    )
    read = read_rows(older)
    assert np.ma.getmaskarray(read[TRUTH]["switched"]).all()
    for frame, counts in zip(frames_of(read, NAMES), all_counts, strict=True):
        np.testing.assert_array_equal(frame.tracked.counts.overlap, counts.overlap)
        assert np.isnan(frame.truth_m).all()


def test_files_of_others_get_a_sentence(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.parquet"
    duckdb.sql(f"COPY (SELECT 1 AS frame) TO '{foreign}' (FORMAT parquet)")
    with pytest.raises(
        InputError, match=r"instaseg evaluate -o.*found a Parquet file of something"
    ):
        read_facts(foreign)
    newer = tmp_path / "newer.parquet"
    about = "KV_METADATA {format: 'instaseg_ros rows 99', facts: '{}'}"
    duckdb.sql(f"COPY (SELECT 1 AS frame) TO '{newer}' (FORMAT parquet, {about})")
    with pytest.raises(InputError, match=r"rows 1\), found 'instaseg_ros rows 99'"):
        read_facts(newer)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(foreign.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"torn\.parquet: expected .* it cannot be read: "):
        read_facts(torn)
    with pytest.raises(InputError, match=r"foreign\.parquet cannot be read: "):
        read_rows(foreign)
