"""Results as annotations of other tools: read back by our readers and by theirs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import written_recordings
from disc_images import QUICK, set_options
from written_recordings import CLASS_NAMES, HEIGHT, WIDTH, stamp_ns

from instaseg_ros import cli
from instaseg_ros.config import Config, merge
from instaseg_ros.datasets.coco import Coco
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Result
from instaseg_ros.recordings.sinks import open_sink

ROOT = Path(__file__).parents[2]
DRIVE = ROOT / "instaseg_ros" / "demo_data" / "street.mcap"
FINETUNE = ROOT / "config" / "train" / "finetune.yaml"
TRACKED = merge(Config(), {"tracking.enabled": True})


def written(path: Path, count: int = 3, names: tuple[str, ...] = ()) -> Path:
    sink = open_sink(path, CLASS_NAMES, TRACKED)
    for k in range(count):
        frame = Frame(written_recordings.noise_image(k), stamp_ns(k), "front")
        frame = dataclasses.replace(frame, name=names[k]) if names else frame
        sink.write(frame, Result(written_recordings.two_instances(k)))
    assert not path.exists()
    sink.close()
    return path


def test_coco_comes_back_as_a_dataset(tmp_path: Path) -> None:
    dataset = Coco(written(tmp_path / "seen.json"))
    assert tuple(dataset.class_names) == tuple(CLASS_NAMES)
    assert len(dataset) == 3
    for k in range(3):
        sample, wanted = dataset[k], written_recordings.two_instances(k)
        assert sample.frame.image.shape == (HEIGHT, WIDTH, 3)
        assert sorted(sample.class_ids.tolist()) == sorted(wanted.class_ids.tolist())
        for number, class_id in zip(sample.ids, sample.class_ids, strict=True):
            mask = sample.labels == number
            (there,) = np.unique(wanted.labels[mask])
            assert class_id == wanted.class_ids[wanted.ids == there]
            np.testing.assert_array_equal(mask, wanted.labels == there)


def test_coco_as_pycocotools_reads_it(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    path = written(tmp_path / "seen.json", names=("a", "b", "A"))
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco.COCO(str(path))
    images = read.loadImgs(read.getImgIds())
    assert [one["file_name"] for one in images] == ["a.jpg", "b.jpg", "A_2.jpg"]
    assert [(one["stamp_ns"], one["frame_id"]) for one in images] == [
        (stamp_ns(k), "front") for k in range(3)
    ]
    assert all((tmp_path / "seen" / one["file_name"]).is_file() for one in images)
    wanted = written_recordings.two_instances(1)
    found = read.loadAnns(read.getAnnIds(imgIds=[2]))
    assert [one["track_id"] for one in found] == wanted.ids.tolist()
    for one, number, score in zip(found, wanted.ids, wanted.scores, strict=True):
        mask = wanted.labels == number
        np.testing.assert_array_equal(read.annToMask(one).astype(bool), mask)
        rows, columns = np.nonzero(mask)
        assert one["area"] == len(rows)
        left, top = int(columns.min()), int(rows.min())
        assert one["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
        assert one["score"] == pytest.approx(float(score))


def test_kitti_mots_as_its_reader_and_the_tools_want_it(tmp_path: Path) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    path = written(tmp_path / "0002.txt")
    lines = [line.split() for line in path.read_text().splitlines()]
    known = {"car": "1", "person": "2"}
    wanted = [
        (str(k), str(number), known[CLASS_NAMES[class_id]])
        for k in range(3)
        for number, class_id in zip(
            written_recordings.two_instances(k).ids,
            written_recordings.two_instances(k).class_ids,
            strict=True,
        )
        if CLASS_NAMES[class_id] in known
    ]
    assert [tuple(line[:3]) for line in lines] == wanted
    for frame, number, _, height, width, counts in lines:
        assert (int(height), int(width)) == (HEIGHT, WIDTH)
        mask = mask_api.decode({"size": [HEIGHT, WIDTH], "counts": counts.encode()})
        labels = written_recordings.two_instances(int(frame)).labels
        np.testing.assert_array_equal(mask.astype(bool), labels == int(number))


@pytest.mark.parametrize(
    ("names", "config", "said"),
    [
        (("car",), Config(), "wants ids that last; --set tracking.enabled=true"),
        (("leaf",), TRACKED, "knows car, person, the weights leaf"),
    ],
)
def test_what_kitti_mots_cannot_say(
    tmp_path: Path, names: tuple[str, ...], config: Config, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        open_sink(tmp_path / "0000.txt", names, config)
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_what_is_discarded(tmp_path: Path) -> None:
    for name in ("seen.json", "0000.txt"):
        sink = open_sink(tmp_path / name, CLASS_NAMES, TRACKED)
        sink.write(
            Frame(written_recordings.noise_image(0)), Result(written_recordings.two_instances(0))
        )
        sink.discard()
    assert not list(tmp_path.iterdir())


def test_folders_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "mine.jpg").touch()
    with pytest.raises(ConfigError, match="seen is not replaced"):
        open_sink(tmp_path / "seen.json", CLASS_NAMES, TRACKED, overwrite=True)
    assert [one.name for one in (tmp_path / "seen").iterdir()] == ["mine.jpg"]


def test_a_recording_becomes_a_dataset_to_correct_and_to_learn_from(tmp_path: Path) -> None:
    """The loop: what was seen in a recording is corrected, learned from, and sees again."""
    out, run = tmp_path / "drive.json", tmp_path / "run"
    seen = ["replay", str(DRIVE), "-o", str(out), "--limit", "3"]
    assert cli.main([*seen, "--set", "runtime.name=torch"]) == 0
    document = json.loads(out.read_text())
    assert len(document["images"]) == 3
    removed = document["annotations"].pop()  # as somebody does who knows better
    out.write_text(json.dumps(document))
    dataset = Coco(out)
    there = {(k, int(number)) for k in range(3) for number in dataset[k].ids}
    assert len(there) == len(document["annotations"]) > 3
    assert sum(k == removed["image_id"] - 1 for k, _ in there) > 0
    few = set_options({**QUICK, "train.steps": 1, "train.validation_frames": 1})
    command = ["train", str(FINETUNE), "--from", "street-synthetic", "--data", str(out)]
    assert cli.main([*command, "-o", str(run), *few]) == 0
    learned = ["--weights", str(run / "weights.safetensors"), "--set", "runtime.name=torch"]
    again = ["replay", str(DRIVE), "-o", str(tmp_path / "again"), "--limit", "1", *learned]
    assert cli.main(again) == 0
