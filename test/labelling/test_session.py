"""A session: edits reach the disk, live clicks stay one step, frames follow each other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import written_recordings
from label_sessions import (
    CLASSES,
    DISCS,
    DiscNetwork,
    asked,
    disc_labels,
    wait_for,
    write_frames,
)

from instaseg_ros.cli import main
from instaseg_ros.datasets import open_dataset
from instaseg_ros.errors import InputError
from instaseg_ros.labelling.editing import EditError
from instaseg_ros.labelling.frames import open_frames
from instaseg_ros.labelling.network import Network
from instaseg_ros.labelling.session import Session
from instaseg_ros.labelling.store import open_store

pytest.importorskip("pycocotools", reason="the extra `coco` is not installed")


def start(tmp_path: Path) -> Session:
    frames = open_frames(str(write_frames(tmp_path / "frames")), None, 1)
    session = Session(frames, open_store(tmp_path / "mine", CLASSES, False))
    session.network = cast(Network, DiscNetwork())
    return session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    one = start(tmp_path)
    yield one
    one.close()


def test_a_frame_opens_with_what_the_network_sees_and_is_not_saved(
    session: Session, tmp_path: Path
) -> None:
    patch = session.open(0)
    assert [made for _, _, made in patch.facts["objects"]] == ["proposal"] * 2
    np.testing.assert_array_equal(patch.labels > 0, np.isin(disc_labels(), (1, 2)))
    assert not patch.facts["kept"] and session.state()["labelled"] == []
    assert not (tmp_path / "mine" / "images").exists()
    session.edit(0, asked("accept"))
    wait_for((tmp_path / "mine" / "images" / "000.png").exists)
    wait_for(lambda: not session.status(0)["unsaved"])
    np.testing.assert_array_equal(open_dataset(tmp_path / "mine", "all")[0].labels, patch.labels)


def test_a_click_is_one_step_however_often_it_is_widened(session: Session) -> None:
    first = session.open(0)
    x, y, _ = DISCS[2]
    patch = session.edit(0, asked("click", x=x, y=y))
    number = patch.facts["active"]
    assert number == 3 and (3, 1, "click") in patch.facts["objects"]
    assert np.count_nonzero(patch.labels == 3) == np.count_nonzero(disc_labels() == 3)
    for width in (0.5, 2, 0.7, 1):
        patch = session.edit(0, asked("width", width=width))
    assert patch.facts["active"] == 3
    session.edit(0, asked("undo"))
    np.testing.assert_array_equal(session.open(0).labels, first.labels)
    with pytest.raises(EditError, match="only the last click"):
        session.edit(0, asked("width", width=2.0))
    session.edit(0, asked("redo"))
    session.edit(0, asked("class", into=3, class_id=0))
    assert (3, 0, "click") in session.open(0).facts["objects"]


def test_a_width_that_leaves_nothing_changes_nothing(session: Session) -> None:
    session.open(0)
    x, y, _ = DISCS[2]
    session.edit(0, asked("brush", path=[(x, y)], radius=30.0))  # everything around has an owner
    session.edit(0, asked("undo"))
    session.edit(0, asked("click", x=x, y=y))
    before = session.open(0).labels
    with pytest.raises(EditError):
        session.edit(0, asked("stroke", path=[(1, 1), (3, 1)]))
    np.testing.assert_array_equal(session.open(0).labels, before)
    assert session.edit(0, asked("width", width=0.9)).facts["active"]  # the click still lives


def test_clicks_add_to_and_take_from_an_object(session: Session) -> None:
    session.open(0)
    x, y, _ = DISCS[2]
    session.edit(0, asked("remove", into=2))
    into = session.edit(0, asked("click", x=x, y=y)).facts["active"]
    other = {"x": DISCS[1][0], "y": DISCS[1][1], "into": into}
    session.edit(0, asked("click", mode="more", **other))
    truth = disc_labels()
    np.testing.assert_array_equal(session.open(0).labels == into, truth >= 2)
    session.edit(0, asked("click", mode="less", **other))
    np.testing.assert_array_equal(session.open(0).labels == into, truth == 3)


def test_the_next_frame_opens_with_the_objects_of_this_one(session: Session) -> None:
    session.open(0)
    x, y, _ = DISCS[2]
    session.edit(0, asked("click", x=x, y=y, class_id=0))
    session.edit(0, asked("class", into=1, class_id=1))
    patch = session.open(1)
    assert {(i, c) for i, c, _ in patch.facts["objects"]} == {(1, 1), (2, 0), (3, 0)}
    assert not patch.facts["kept"]
    again = session.open(0)  # packed in between
    assert again.facts["undo"] and (3, 0, "click") in again.facts["objects"]


def test_a_frame_is_finished_when_it_is_accepted(session: Session) -> None:
    session.open(0)
    assert session.unfinished() is None  # nobody has touched it
    x, y, _ = DISCS[2]
    session.edit(0, asked("click", x=x, y=y))
    unfinished = session.unfinished()
    assert unfinished is not None and unfinished.key.endswith("000.png")
    session.edit(0, asked("accept"))
    assert session.unfinished() is None
    session.edit(0, asked("undo"))
    assert session.unfinished() == unfinished
    session.open(1)
    assert session.unfinished() is None


def test_everything_is_there_after_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = start(tmp_path)
    for number in range(3):
        session.open(number)
        session.edit(number, asked("polygon", path=[(2, 2), (12, 2), (12, 9)], class_id=1))
        session.edit(number, asked("ignore", path=[(60, 2), (70, 2), (70, 9)]))
    assert session.add_class("cone") == 2 and session.add_class("cone") == 2
    session.close()
    assert main(["info", str(tmp_path / "mine"), "--check"]) == 0
    capsys.readouterr()
    again = start(tmp_path)
    state = again.state()
    assert state["class_names"] == [*CLASSES, "cone"] and state["labelled"] == [0, 1, 2]
    patch = again.open(2)
    assert (3, 1, "brush") in patch.facts["objects"] or patch.facts["kept"]
    assert patch.ignore.any()
    again.close()


def test_what_the_disk_refuses_is_said_and_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    session.open(0)
    save = session.store.save

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session.store, "save", full)
    with caplog.at_level(logging.ERROR):
        session.edit(0, asked("accept"))
        wait_for(lambda: "No space left" in session.status(0)["error"])
    assert session.status(0)["unsaved"] == 1 and "not saved" in caplog.text
    monkeypatch.setattr(session.store, "save", save)
    wait_for(lambda: not session.status(0)["unsaved"])
    wait_for(lambda: not session.status(0)["error"])


def test_frames_of_a_recording_keep_stamp_and_topic(tmp_path: Path) -> None:
    path = tmp_path / "drive.mcap"
    written_recordings.write_bag(path, 5)
    frames = open_frames(str(path), None, 2)
    assert len(frames) == 3
    store = open_store(tmp_path / "mine", CLASSES, False)
    session = Session(frames, store)
    for number in (2, 0):  # also backwards
        session.edit(number, asked("brush", path=[(5, 5)], class_id=0))
    with pytest.raises(EditError, match="there is no network"):
        session.edit(0, asked("click"))
    session.close()
    again = open_store(tmp_path / "mine", CLASSES, False)
    assert again.labelled(frames.keys) == {0, 2}
    assert again.labelled(open_frames("synthetic", None, 1).keys) == set()
    again.close()
    kept = json.loads((tmp_path / "mine" / "meta.json").read_text())["frames"]
    facts = [(one["stamp_ns"], one["topic"], one["frame_id"]) for one in kept]
    stamps = [written_recordings.stamp_ns(index) for index in (4, 0)]
    assert facts == [(stamp, "/image", "camera_front") for stamp in stamps]
    dataset = open_dataset(tmp_path / "mine", "all")
    images = [written_recordings.noise_image(index) for index in (0, 4)]
    assert sorted(dataset[i].frame.image[0, 0, 0] for i in range(2)) == [0, 4]
    assert any(np.array_equal(dataset[0].frame.image, image) for image in images)


def test_a_dataset_is_a_source_with_its_masks(tmp_path: Path) -> None:
    frames = open_frames("synthetic", None, 1)
    store = open_store(tmp_path / "mine", frames.class_names or (), False)
    session = Session(frames, store)
    truth = frames.truth(0)
    assert truth is not None
    patch = session.open(0)
    np.testing.assert_array_equal(patch.labels, truth.labels)
    assert {made for _, _, made in patch.facts["objects"]} == {"given"}
    session.close()


def test_frames_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_frames(str(tmp_path / "no.mcap"), None, 1)
    with pytest.raises(InputError, match="expected images"):
        open_frames(str(tmp_path), None, 1)
