"""What earlier versions wrote is read, and means what it meant (docs/compatibility.md).

Each folder beside this file is of one version, and is never changed; `write.py` makes the next one.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from compatible import SETTINGS, interface, keys_of, small_profiles  # noqa: E402

from instaseg_ros import __version__, cli  # noqa: E402
from instaseg_ros.checkpoint import HEADER_KEY, describe, load_checkpoint  # noqa: E402
from instaseg_ros.config import Config, leaves_of, parse_assignments, plain  # noqa: E402
from instaseg_ros.configure import load_config  # noqa: E402
from instaseg_ros.contract import INTERFACE, format_of  # noqa: E402
from instaseg_ros.datasets import open_dataset  # noqa: E402
from instaseg_ros.errors import ConfigError, WeightsError  # noqa: E402
from instaseg_ros.frames import Frame  # noqa: E402
from instaseg_ros.pipeline import Pipeline  # noqa: E402
from instaseg_ros.recordings.bags import deserialize  # noqa: E402
from instaseg_ros.recordings.image_messages import image_to_labels  # noqa: E402
from instaseg_ros.recordings.storage import open_recording  # noqa: E402

VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "interface.json").is_file())
NOTHING = {"nothing": torch.zeros(1)}  # older safetensors read no file without a tensor
ALIKE = 0.98  # share of the pixels that have the same label; the rest is rounding


@pytest.fixture(autouse=True)
def profiles() -> Iterator[None]:
    with small_profiles():
        yield


@pytest.fixture(params=VERSIONS)
def kept(request: pytest.FixtureRequest) -> Path:
    """The folder of a version."""
    return HERE / str(request.param)


def test_this_version_has_a_folder() -> None:
    assert __version__ in VERSIONS, "python test/compatibility/write.py makes it, for the release"


def labels_of(kept: Path) -> np.ndarray:
    labels = cv2.imread(str(next((kept / "labels" / "labels").iterdir())), cv2.IMREAD_UNCHANGED)
    assert labels is not None and labels.dtype == np.uint16 and labels.max() > 2
    return labels


def test_weights(kept: Path) -> None:
    """They give the labels that they gave."""
    settings = parse_assignments([word for word in SETTINGS if word != "--set"])
    settings["weights"] = str(kept / "weights.safetensors")
    pipeline = Pipeline(load_config(overrides=settings))
    assert pipeline.class_names == ("person", "rider", "car")
    assert pipeline.config.decode.seed_threshold == 0.5
    image = cv2.imread(str(kept / "image.png"))
    assert image is not None
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    found = pipeline.process([Frame(rgb)])[0].instances
    assert (found.labels == labels_of(kept)).mean() > ALIKE


def test_headers_of_weights_of_every_method(kept: Path, tmp_path: Path) -> None:
    for method, header in json.loads((kept / "headers.json").read_text()).items():
        path = tmp_path / f"{method}.safetensors"
        save_file(NOTHING, path, {HEADER_KEY: json.dumps(header)})
        network = describe(path).fresh_network()
        save_file(network.state_dict(), path, {HEADER_KEY: json.dumps(header)})
        checkpoint = load_checkpoint(path)
        assert checkpoint.method_name == method
        assert checkpoint.class_names == tuple(header["class_names"])
        assert dict(checkpoint.decode) == header["decode"]
        assert dict(checkpoint.input) == header["input"]


def test_parameters(kept: Path) -> None:
    """A file that sets every parameter."""
    (content,) = yaml.safe_load((kept / "parameters.yaml").read_text()).values()
    told = leaves_of(load_config(kept / "parameters.yaml"))
    for key, value in content["ros__parameters"].items():
        for name, one in value.items() if isinstance(value, dict) else [("", value)]:
            assert plain(told[f"{key}.{name}" if name else key]) == one


def test_topics_and_parameters(kept: Path) -> None:
    """Those of a version with the same interface are there, with their types."""
    before, now = json.loads((kept / "interface.json").read_text()), interface()
    if before["interface"] != now["interface"]:
        assert before["interface"] < now["interface"]
        return
    assert now["node"] == before["node"]
    for kind in ("topics", "depth topics"):
        assert before[kind].items() <= now[kind].items()
    for method, known in before["parameters"].items():
        assert known.items() <= now["parameters"][method].items()


def test_recording(kept: Path) -> None:
    recording = open_recording(kept / "labelled.mcap")
    messages = {raw.topic: raw for raw in recording.messages(list(recording.topics))}
    topics = json.loads((kept / "interface.json").read_text())["topics"]
    node = json.loads((kept / "interface.json").read_text())["node"]
    assert {n: t.type for n, t in recording.topics.items()}.items() >= {
        f"/{node}/{name}": topic["type"] for name, topic in topics.items() if topic["recorded"]
    }.items()
    labels, detections = (
        deserialize(messages[f"/{node}/{name}"], topics[name]["type"])
        for name in ("labels", "detections")
    )
    np.testing.assert_array_equal(image_to_labels(labels), labels_of(kept))
    assert {int(one.id) for one in detections.detections} == {*np.unique(labels_of(kept))} - {0}


def test_packed_dataset(kept: Path) -> None:
    for split in ("train", "val"):
        dataset = open_dataset(str(kept / "packed"), split)
        assert len(dataset) == 2
        for sample in (dataset[0], dataset[1]):
            assert len(sample.ids) == len(sample.class_ids) > 0
            assert set(np.unique(sample.labels)) - {0} == set(sample.ids.tolist())


def test_results_still_have_what_they_had(kept: Path, tmp_path: Path) -> None:
    """Of the same format: every entry, with the same kind of value."""
    weights = ["--weights", str(kept / "weights.safetensors"), *SETTINGS]
    json_file = tmp_path / "evaluation.json"
    packed = str(kept / "packed")
    assert cli.main(["evaluate", packed, "--json", str(json_file), *weights]) == 0
    before, now = (json.loads(p.read_text()) for p in (kept / "evaluation.json", json_file))
    assert now["format"] == format_of("evaluation")
    assert_grown(before, now)

    (tmp_path / "frames").mkdir()
    shutil.copy(kept / "image.png", tmp_path / "frames")
    replayed = ["replay", str(tmp_path / "frames"), "-o", str(tmp_path / "labels"), *weights]
    assert cli.main(replayed) == 0
    lines = [path / "detections.jsonl" for path in (kept / "labels", tmp_path / "labels")]
    before, now = (json.loads(path.read_text().splitlines()[0]) for path in lines)
    assert now["format"] == format_of("detections")
    assert_grown(before, now)


def test_rows_of_evaluated_recordings(kept: Path) -> None:
    """They are asked and summed up as when they were written; columns were only added."""
    pytest.importorskip("duckdb")
    from instaseg_ros.fleet import query
    from instaseg_ros.fleet.parquet import duckdb, read_rows
    from instaseg_ros.fleet.rows import COLUMNS, frames_of

    with query.opened_run(kept / "rows") as database:
        found = query.by_class(database).rows
        assert [one[1] for one in query.worst(database, 2).rows] == [1, 2]
    assert found == [("car", 64, 4, 3, 1, 0.75, 0.75, 1.0), ("person", 64, 4, 2, 0, 0.5, 1.0, 1.0)]
    file = kept / "rows" / "drive.parquet"
    frames = frames_of(read_rows(file), ("car", "person"))
    assert [frame.dropped for frame in frames] == [False, False, True, False]
    described = duckdb.sql(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
    assert {one[:2] for one in described} <= {(c.name, c.type) for c in COLUMNS}


def assert_grown(before: dict[str, Any], now: dict[str, Any]) -> None:
    if before["format"] != now["format"]:  # another number: users had to be told
        return
    known, found = keys_of(before), keys_of(now)
    assert not known.keys() - found.keys()
    changed = {key for key in known if "any" not in (known[key], found[key])}
    assert {key: found[key] for key in changed} == {key: known[key] for key in changed}


def test_what_is_newer_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"interface: expected \d+, .* update instaseg_ros"):
        replace(Config(), interface=INTERFACE + 1)
    newer = {"format": "instaseg_ros/2"}
    save_file(NOTHING, tmp_path / "newer.safetensors", {HEADER_KEY: json.dumps(newer)})
    with pytest.raises(WeightsError, match="update instaseg_ros"):
        describe(tmp_path / "newer.safetensors")
