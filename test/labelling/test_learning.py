"""Learning while labelling: when it begins, what it uses and keeps, and that it never stands in the
way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sessions import CLASSES, SIZE, a_frame, disc_labels, picture, wait_for

from instaseg_ros.checkpoint import Checkpoint, describe, save_checkpoint
from instaseg_ros.datasets import open_dataset
from instaseg_ros.labelling import learning, trial
from instaseg_ros.labelling.editing import CLICK, Drawing, Object
from instaseg_ros.labelling.frames import Origin
from instaseg_ros.labelling.label_image_store import LabelImageStore
from instaseg_ros.labelling.learning import Learner
from instaseg_ros.labelling.trial import Result, Settings

pytest.importorskip("pycocotools", reason="the extra `label` is not installed")

STAND_IN = b"weights"  # nobody reads them here


def discs(number: int) -> Drawing:
    made = {n: Object(int(n == 3), CLICK) for n in (1, 2, 3)}
    return Drawing(disc_labels(number), made)


def empty() -> Drawing:
    return Drawing(np.zeros(SIZE, np.uint16), {})


def label(store: LabelImageStore, *numbers: int, drawing: Drawing | None = None) -> None:
    for number in numbers:
        store.save(number, a_frame(number), Origin(f"drive {number}"), drawing or discs(number))


class Trials:
    """In the place of the trial's process: what it is given, and what it answers. An answer: AP50
    of the old weights and of the new ones, or the exit code of one that fails."""

    def __init__(self) -> None:
        self.asked: list[Settings] = []
        self.frames: list[tuple[list[str], list[str]]] = []
        self.answers: list[tuple[float | None, float | None] | int] = []

    def trained(self, learner: Learner) -> int:
        folder = learner._trial
        wait_for(lambda: self.answers or learner._stop.is_set())
        if not self.answers:
            return 1
        self.asked.append(Settings.read(folder))
        images = folder / "data" / "images"
        both = [sorted(p.stem for p in (images / part).iterdir()) for part in ("train", "val")]
        self.frames.append((both[0], both[1]))
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            (folder / "output.txt").write_text("step 1\nToo little memory\n\n")
            return answer
        (folder / "run").mkdir(exist_ok=True)
        trial.new_weights(folder).write_bytes(STAND_IN)
        (folder / "result.json").write_text(json.dumps(Result(0.0, 0.0, *answer, 7)._asdict()))
        return 0


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    found = Trials()
    monkeypatch.setattr(Learner, "_trained", lambda learner: found.trained(learner))
    monkeypatch.setattr(learning, "POLL_S", 0.01)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelImageStore]:
    one = LabelImageStore(tmp_path / "mine", CLASSES)
    yield one
    one.close()


class Session:
    """A learner at work: the weights that it gave, and the frame that is not finished."""

    def __init__(self, store: LabelImageStore, start: str = "street-synthetic") -> None:
        self.used: list[str] = []
        self.unfinished: Origin | None = None
        self.learner = Learner(store, Settings(start, 60.0), lambda: self.unfinished)
        self.learner.start(self.used.append)

    def says(self, *words: str) -> None:
        wait_for(lambda: all(word in self.learner.line for word in words))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.learner.stop()


def test_it_waits_for_five_frames_that_are_finished(store: LabelImageStore, trials: Trials) -> None:
    with Session(store) as session:
        session.says("waiting for 5 more frames")
        label(store, *range(4))
        session.says("waiting for 1 more frame")
        session.unfinished = Origin("drive 4")
        label(store, 4)
        session.says("waiting for 1 more frame")
        assert not trials.asked
        trials.answers.append((0.2, 0.2))
        session.unfinished = None
        session.says("waiting for 5 more frames", "kept the old weights", "AP50 20.0 %, was 20.0 %")
        assert trials.frames == [([f"{n:03d}" for n in range(4)], ["004"])]
        assert (trials.asked[0].learned, trials.asked[0].held_out) == (4, 1)
        assert not session.used and session.learner.weights == "street-synthetic"


def test_better_weights_are_used_now_and_in_the_next_session(
    store: LabelImageStore, trials: Trials
) -> None:
    trials.answers += [(0.1, 0.3), (0.5, 0.4)]
    with Session(store) as session:
        label(store, *range(5))
        wait_for(lambda: session.used)
        (weights,) = session.used
        assert Path(weights).read_bytes() == STAND_IN and session.learner.weights == weights
        session.says("new weights from 4 frames, step 7", "AP50 30.0 %, was 10.0 %")
        label(store, *range(5, 10))
        session.says("tried from 8 frames and kept the old weights", "newest 2 frames")
    # The second trial began with the new weights, whose held-out frames they have not seen.
    assert [asked.start for asked in trials.asked] == ["street-synthetic", weights]
    assert trials.frames[1] == ([f"{n:03d}" for n in range(8)], ["008", "009"])
    assert not (store.hidden_folder / "learning" / "trial").exists()
    with Session(store) as session:
        assert session.learner.weights == weights
        session.says("waiting for 5 more frames", "tried from 8 frames")
    with Session(store, "street") as session:  # others were given: they begin anew
        assert session.learner.weights == "street"


def test_what_was_learned_is_no_data(store: LabelImageStore, trials: Trials) -> None:
    trials.answers.append((None, 0.3))
    with Session(store) as session:
        label(store, *range(5))
        wait_for(lambda: session.used)
    root = store.hidden_folder.parent
    assert len(open_dataset(root, "all")) == 5
    known = {"images", "labels", "ignore", "meta.json", "coco.json", ".labelling"}
    assert {path.name for path in root.iterdir()} == known


def test_an_error_becomes_a_sentence_and_labelling_goes_on(
    store: LabelImageStore, trials: Trials
) -> None:
    trials.answers += [1, -9, (0.1, 0.2)]
    with Session(store) as session:
        label(store, *range(5))
        session.says("waiting for 5 more frames", "the last try failed: Too little memory")
        label(store, *range(5, 10))
        session.says("the last try failed: its process was ended by SIGKILL")
        label(store, *range(10, 15))
        wait_for(lambda: session.used)
        assert "Too little" in (store.hidden_folder / "learning" / "failed.txt").read_text()


def test_what_the_disk_refuses_is_said_and_tried_again(
    store: LabelImageStore, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learning, "RETRY_AFTER_S", 0.01)
    trials.answers.append((0.1, 0.2))
    with Session(store) as session:
        with monkeypatch.context() as patch:
            patch.setattr(learning, "write_whole", full)
            label(store, *range(5))
            session.says("it waits, because of", "No space left")
        wait_for(lambda: session.used)
    assert len(trials.asked) == 1  # nothing was trained twice


def test_a_trial_that_was_cut_off_goes_on(store: LabelImageStore, trials: Trials) -> None:
    with Session(store) as session:
        label(store, *range(5))
        wait_for((store.hidden_folder / "learning" / "trial" / "trial.json").is_file)
        begun = session.learner._trial / "run"
        begun.mkdir()
        (begun / "state.pt").touch()
    label(store, *range(5, 8))  # of which the trial knows nothing
    trials.answers.append((0.1, 0.2))
    with Session(store) as session:
        wait_for(lambda: session.used)
        session.says("waiting for 2 more frames")
    assert trials.frames == [([f"{n:03d}" for n in range(4)], ["004"])]


@pytest.mark.parametrize("damage", ["", "{}", '{"start": 3}', "[1]", "null"])
def test_a_damaged_state_begins_anew(store: LabelImageStore, trials: Trials, damage: str) -> None:
    folder = store.hidden_folder / "learning"
    for name in ("state.json", "trial/trial.json", "trial/result.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(damage)
    trials.answers.append((0.1, 0.2))
    with Session(store) as session:
        label(store, *range(5))
        wait_for(lambda: session.used)


def test_frames_without_objects_teach_nothing_yet(store: LabelImageStore, trials: Trials) -> None:
    trials.answers.append((0.1, 0.2))
    with Session(store) as session:
        label(store, *range(6), drawing=empty())
        session.says("waiting for frames with objects")
        label(store, 6)
        session.says("waiting for frames with objects")  # one to learn from, and one to compare on
        label(store, 7)
        wait_for(lambda: session.used)
    assert trials.frames[0][1] == ["007"]


def test_a_copy_stays_as_it_was(store: LabelImageStore, tmp_path: Path) -> None:
    label(store, 0, 1, 2)
    names = [*store.objects()]
    store.copy(tmp_path / "copy", {"train": names[:2], "val": names[2:]})
    changed = discs(0)
    changed.remove(1)
    label(store, 0, drawing=changed)
    copied = open_dataset(tmp_path / "copy", "train")
    assert copied.class_names == CLASSES and len(copied) == 2
    np.testing.assert_array_equal(copied[0].labels, disc_labels(0))
    np.testing.assert_array_equal(copied[0].frame.image, picture(0))
    assert copied[0].class_ids.tolist() == [0, 0, 1] and copied[0].ignore is not None
    assert len(open_dataset(tmp_path / "copy", "val")) == 1
    assert open_dataset(tmp_path / "mine", "all")[0].ids.tolist() == [2, 3]


def test_a_copy_is_made_where_the_file_system_has_no_links(
    store: LabelImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    label(store, 0, 1)
    store.copy(tmp_path / "copy", {"train": ["000"], "val": ["001"]})
    np.testing.assert_array_equal(open_dataset(tmp_path / "copy", "val")[0].labels, disc_labels(1))


def asked_of(folder: Path, start: str, **overrides: Any) -> Path:
    """A trial's folder: four frames to learn, one to compare on, and a class that is new."""
    store = LabelImageStore(folder / "mine", CLASSES)
    store.add_class("cone")
    for number in range(5):
        drawing = discs(number)
        drawing.set_class(1, 2)
        label(store, number, drawing=drawing)
    names = [*store.objects()]
    trial_folder = folder / "trial"
    trial_folder.mkdir()
    store.copy(trial_folder / "data", {"train": names[:4], "val": names[4:]})
    store.close()
    values = {"runtime.device": "cpu", "runtime.name": "torch", **overrides}
    Settings(start, 0.5, 4, 1, overrides=values).write(trial_folder)
    return trial_folder


def test_a_trial_trains_and_compares(small: Checkpoint, tmp_path: Path) -> None:
    """In this process, with a network whose weights are chance."""
    start = tmp_path / "start.safetensors"
    save_checkpoint(small, start)
    folder = asked_of(tmp_path, str(start))
    trial.run(folder)
    result = Result.read(folder)
    assert result is not None and result.step > 0 and result.old_ap == 0
    found = describe(trial.new_weights(folder))
    assert found.class_names == (*CLASSES, "cone") and found.profile == "small"
    assert (folder / "run" / "state.pt").is_file()
    assert not [*folder.rglob("*.part-*")]


@pytest.mark.parametrize(
    ("old", "new", "better"),
    [
        ((0.2, 0.5), (0.1, 0.6), True),
        ((None, None), (0.1, 0.3), True),
        ((0.2, 0.5), (0.3, 0.4), False),
        ((0.8, 1.0), (0.9, 1.0), True),  # by borders, where both find the same
        ((0.9, 1.0), (0.8, 1.0), False),
        ((0.9, 1.0), (0.9, 1.0), False),
        ((0.0, 0.0), (0.0, 0.0), False),
        ((None, None), (None, None), False),
        ((None, None), (0.0, 0.0), False),
    ],
)
def test_a_tie_keeps_the_old_weights(
    old: tuple[float | None, float | None], new: tuple[float | None, float | None], better: bool
) -> None:
    """Mean AP, and AP at IoU 0.5."""
    assert Result(old[0], new[0], old[1], new[1], 1).is_better is better


@pytest.mark.slow
def test_a_trial_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A real process, which is killed while it trains; the next one goes on, and ends by itself."""
    folder = asked_of(tmp_path, "street-synthetic-fast")
    asked = json.loads((folder / "trial.json").read_text())
    (folder / "trial.json").write_text(json.dumps({**asked, "seconds": 600}))
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'instaseg_ros.labelling.trial', "
        "sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    wait_for((folder / "run" / "state.pt").is_file, 240)
    assert os.getpriority(os.PRIO_PROCESS, child) == 19
    process.kill()
    process.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists())
    (folder / "trial.json").write_text(json.dumps({**asked, "seconds": 1}))
    trial.run(folder)
    result = Result.read(folder)
    assert result is not None and result.step > trial.SAVE_EVERY
