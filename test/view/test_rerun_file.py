"""The recording for Rerun, read back by Rerun's own reader."""

from __future__ import annotations

import builtins
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from viewed_scenes import CENTERS, HEIGHT, RADIUS, WIDTH, viewed_scene

from instaseg_ros.config import Config
from instaseg_ros.errors import MissingExtraError
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.view.rerun_file import RerunSink
from instaseg_ros.view.viewer import Viewed
from instaseg_ros.visualization import color

NAMES = ["thing"]
IMAGE = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
STAMPS = (1_700_000_000_123_456_789, 1_700_000_000_223_456_789)

Rows = dict[str, list[Any]]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., dict[str, Rows]]:
    """Writes results as a recording; gives the rows of each entity's columns, in order of time."""
    chunk = pytest.importorskip("rerun.chunk", reason="the extra `view` is not installed")

    def write_and_read(*results: Viewed) -> dict[str, Rows]:
        path = tmp_path / "view.rrd"
        sink = RerunSink(path, NAMES, Config(), overwrite=False)
        for stamp_ns, result in zip(STAMPS, results, strict=False):
            sink.write(Frame(IMAGE, stamp_ns), result)
        assert not path.exists()
        sink.close()
        assert [one.name for one in tmp_path.iterdir()] == ["view.rrd"]
        reader = chunk.RrdReader(path)
        assert len(reader.recordings()) == len(reader.blueprints()) == 1
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in reader.stream():
            entity = f"static {one.entity_path}" if one.is_static else one.entity_path
            found[entity] += rows_of(one.to_record_batch())
        for rows in found.values():
            rows.sort(key=lambda row: row.get("frame", 0))
        return {
            entity: {key: [row[key] for row in rows] for key in rows[0]}
            for entity, rows in found.items()
        }

    return write_and_read


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """Plain values; times in nanoseconds."""
    columns = {
        name: (column.cast("int64") if name in ("stamp", "log_time") else column).to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def image(rows: Rows, kind: str, index: int, dtype: Any) -> np.ndarray:
    (layout,) = rows[f"{kind}:format"][index]
    (data,) = rows[f"{kind}:buffer"][index]
    return np.array(data, np.uint8).view(dtype).reshape(layout["height"], layout["width"])


def colors(rows: Rows) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Name and RGBA by value, of the newest annotation context."""
    (context,) = rows["AnnotationContext:context"][-1]
    infos = [one["class_description"]["info"] for one in context]
    return {one["id"]: (one["label"], (*one["color"].to_bytes(4, "big"),)) for one in infos}


def jpeg(rows: Rows, index: int = 0) -> np.ndarray:
    (data,) = rows["EncodedImage:blob"][index]
    return cv2.imdecode(np.array(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_frames_stand_at_their_stamps(read: Callable[..., dict[str, Rows]]) -> None:
    found = read(viewed_scene(), viewed_scene((-40, 30)))
    for rows in (rows for entity, rows in found.items() if "static" not in entity):
        assert rows["frame"] == [0, 1]
        assert rows["stamp"] == [*STAMPS]


def test_objects_have_their_names_colours_and_scores(read: Callable[..., dict[str, Rows]]) -> None:
    viewed = viewed_scene()
    found, clusters = read(viewed), viewed.clusters
    named = colors(found["static /camera/classes"])
    assert named == {0: ("background", (0, 0, 0, 0)), 1: ("thing", (*color(1), 255))}
    known = colors(found["static /"])
    assert known.keys() > {*clusters.ids.tolist()} and known[0] == named[0]
    for label in clusters.ids.tolist():
        assert known[label] == (str(label), (*color(label), 255))
    for entity in ("/camera/boxes", "/network/clusters/boxes"):
        rows = {key: values[0] for key, values in found[entity].items()}
        assert rows["Boxes2D:class_ids"] == rows["id"] == clusters.ids.tolist()
        assert rows["score"] == clusters.scores.tolist()
        assert (rows["class_id"], rows["class_name"]) == ([0, 0], ["thing"] * 2)
        assert rows["Boxes2D:labels"][0] == f"thing {clusters.ids[0]} {clusters.scores[0]:.2f}"
        middle = (clusters.boxes_xyxy[:, :2] + clusters.boxes_xyxy[:, 2:]) / 2
        np.testing.assert_allclose(rows["Boxes2D:centers"], middle)
    for entity in ("/camera/labels", "/network/clusters"):
        labels = image(found[entity], "SegmentationImage", 0, np.uint16)
        np.testing.assert_array_equal(labels, clusters.labels)
    classes = image(found["/camera/classes"], "SegmentationImage", 0, np.uint16)
    np.testing.assert_array_equal(classes, clusters.labels > 0)
    assert abs(jpeg(found["/camera/image"]).astype(int) - 120).max() <= 2
    assert f"{clusters.scores[0]:.2f}" in found["/table"]["TextDocument:text"][0][0]


def test_any_id_has_its_colour(read: Callable[..., dict[str, Rows]]) -> None:
    viewed = viewed_scene()
    labels = np.where(viewed.clusters.labels == 1, np.uint16(40_000), viewed.clusters.labels)
    ids = np.where(viewed.clusters.ids == 1, 40_000, viewed.clusters.ids).astype(np.uint16)
    later = replace(viewed.clusters, labels=labels, ids=ids)
    found = read(viewed, Viewed(later, outputs=viewed.outputs, clusters=later))
    assert len(found["static /"]["AnnotationContext:context"]) == 2
    assert colors(found["static /"])[40_000] == ("40000", (*color(40_000), 255))


def test_each_step_is_where_it_happens(read: Callable[..., dict[str, Rows]]) -> None:
    viewed = viewed_scene()
    found, clusters = read(viewed), viewed.clusters
    order = np.argsort(clusters.centers_xy[:, 0])
    middles = np.array(CENTERS) + 0.5  # of these pixels
    seed = image(found["/network/seed"], "DepthImage", 0, np.float16)
    for x, y in CENTERS:
        assert seed[y, x] == seed.max() > 0.9 and seed[y + 20, x] < 0.01
    assert found["/network/seed"]["DepthImage:depth_range"][0] == [[0, 1]]
    points = np.array(found["/network/seed/seeds"]["Points2D:positions"][0])
    np.testing.assert_array_equal(points[order], middles)
    arrows = {key: np.array(values[0]) for key, values in found["/network/offset/arrows"].items()}
    ends = arrows["Arrows2D:origins"] + arrows["Arrows2D:vectors"]
    assert len(ends) and np.abs(ends[:, None] - middles).max(2).min(1).max() < 0.1
    ellipses = {k: np.array(v[0]) for k, v in found["/network/votes/ellipses"].items()}
    np.testing.assert_allclose(ellipses["Ellipses2D:centers"][order], middles, atol=0.1)
    np.testing.assert_allclose(ellipses["Ellipses2D:half_sizes"], RADIUS, rtol=0.02)
    np.testing.assert_array_equal(ellipses["Ellipses2D:class_ids"], clusters.ids)
    radius = image(found["/network/bandwidth"], "DepthImage", 0, np.float16)
    own = clusters.labels > 0
    np.testing.assert_allclose(radius[own], RADIUS, rtol=0.02)
    assert not radius[~own].any()
    brightest = jpeg(found["/network/votes"]).sum(2)
    for x, y in CENTERS:
        assert brightest[y, x] > 400


def test_what_a_network_does_not_say_is_left_out(read: Callable[..., dict[str, Rows]]) -> None:
    empty = Instances.empty(HEIGHT, WIDTH)
    embedding = np.random.default_rng(0).normal(size=(4, HEIGHT, WIDTH)).astype(np.float32)
    viewed = viewed_scene()
    other = Viewed(viewed.clusters, outputs={"embedding": embedding}, clusters=viewed.clusters)
    found = read(other, Viewed(empty, outputs={"embedding": embedding}, clusters=empty))
    assert "/network/embedding" in found and not [name for name in found if "seed" in name]
    assert found["/camera/boxes"]["id"][1] == []
    assert found["/table"]["TextDocument:text"][1] == ["```text\nno objects\n```"]


def test_without_frames_or_when_discarded_nothing_is_left(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra `view` is not installed")
    for count in (0, 1):
        sink = RerunSink(tmp_path / "view.rrd", NAMES, Config(), overwrite=False)
        for _ in range(count):
            sink.write(Frame(IMAGE), viewed_scene())
        sink.discard()
        assert not list(tmp_path.iterdir())
    sink = RerunSink(tmp_path / "view.rrd", NAMES, Config(), overwrite=False)
    with pytest.raises(TypeError, match="Viewer"):
        sink.write(Frame(IMAGE), Result(Instances.empty(HEIGHT, WIDTH)))
    sink.discard()


def test_without_rerun_the_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def lacking(name: str, *args: Any, **more: Any) -> Any:
        if name == "rerun":
            raise ModuleNotFoundError(name="rerun")
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(MissingExtraError, match=r"pip install rerun-sdk, .*'\.\[view\]'"):
        RerunSink(tmp_path / "view.rrd", NAMES, Config(), overwrite=False)
    assert not list(tmp_path.iterdir())
