"""The dataset on disk: what was labelled is there, whatever ended the process."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_layouts import write_image
from label_sessions import CLASSES, DISCS, SIZE, a_frame, disc_labels, picture, write_frames

from instaseg_ros.cli import main
from instaseg_ros.datasets import open_dataset
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.labelling import desk as desk_module
from instaseg_ros.labelling.coco_store import CocoStore
from instaseg_ros.labelling.editing import BRUSH, CLICK, GIVEN, PROPOSAL, Drawing, Object
from instaseg_ros.labelling.frames import Origin, open_frames
from instaseg_ros.labelling.label_image_store import LabelImageStore
from instaseg_ros.labelling.regions import Region
from instaseg_ros.labelling.store import open_store

pytest.importorskip("pycocotools", reason="the extra `coco` is not installed")

HOSTILE = (
    "../up",
    "a\nb",
    "<img src=x onerror=alert(1)>",
    "'; --",
    "n" * 250,
    "é" * 120,
    "con.",
    "..",
)


def discs(shift: int = 0) -> Drawing:
    made = {1: Object(0, CLICK), 2: Object(1, PROPOSAL), 3: Object(0, BRUSH)}
    ignore = np.zeros(SIZE, bool)
    ignore[:4] = True
    return Drawing(disc_labels(shift), made, ignore)


def _block(top: int, left: int, bottom: int, right: int) -> Region:
    return Region(top, left, np.ones((bottom - top, right - left), bool))


def save(root: Path, count: int = 2) -> None:
    store = LabelImageStore(root, CLASSES)
    for number in range(count):
        store.save(
            number, a_frame(number), Origin(f"drive {number}", topic="/front"), discs(number)
        )
    store.close()


def test_a_new_dataset_is_label_images_and_coco(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mine"
    save(root)
    assert main(["info", str(root), "--check"]) == 0
    assert "2 of 2 images are whole" in capsys.readouterr().out
    dataset = open_dataset(root, "all")
    assert dataset.class_names == CLASSES and dataset.least_px == 1
    for number in range(2):
        sample = dataset[number]
        np.testing.assert_array_equal(sample.frame.image, picture(number))
        np.testing.assert_array_equal(sample.labels, disc_labels(number))
        assert sample.class_ids.tolist() == [0, 1, 0]
        assert sample.ignore[:4].all() and not sample.ignore[4:].any()
    meta = json.loads((root / "meta.json").read_text())["frames"][1]
    assert meta["made_by"] == [CLICK, PROPOSAL, BRUSH]
    facts = [meta[key] for key in ("stamp_ns", "frame_id", "topic", "source")]
    assert facts == [100, "camera", "/front", "drive 1"]
    coco = open_dataset(root / "coco.json", "all")
    assert coco.class_names == CLASSES
    for number in range(2):
        np.testing.assert_array_equal(coco[number].labels, disc_labels(number))
        assert (coco[number].crowd[:4] > 0).all()
    document = json.loads((root / "coco.json").read_text())
    assert [a["made_by"] for a in document["annotations"][:3]] == [CLICK, PROPOSAL, BRUSH]
    assert document["images"][1]["stamp_ns"] == 100


def test_what_was_saved_is_there_again(tmp_path: Path) -> None:
    save(tmp_path)
    store = LabelImageStore(tmp_path, ("other",))
    assert store.class_names == [*CLASSES] and store.labelled("drive ") == {0, 1}
    assert store.labelled("another/") == set()
    read = store.load(1, a_frame(1), Origin("drive 1", topic="/front"))
    assert read is not None and read.objects == discs().objects
    np.testing.assert_array_equal(read.labels, disc_labels(1))
    np.testing.assert_array_equal(read.ignore, discs().ignore)
    assert store.load(5, a_frame(5), Origin("drive 5")) is None
    read.remove(2)
    store.add_class("cone")
    read.set_class(1, 2)
    store.save(1, a_frame(1), Origin("drive 1"), read)
    store.close()
    sample = open_dataset(tmp_path, "all")[1]
    assert sample.ids.tolist() == [1, 3] and sample.class_ids.tolist() == [2, 0]
    document = json.loads((tmp_path / "coco.json").read_text())
    ids = [a["id"] for a in document["annotations"]]
    assert len(set(ids)) == len(ids) and document["categories"][2] == {"id": 3, "name": "cone"}


def test_images_of_a_folder_are_copied_byte_for_byte(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", 1)
    other = write_frames(tmp_path / "more" / "frames", 1)
    cv2.imwrite(str(other / "000.png"), picture(5))
    store = LabelImageStore(tmp_path / "mine", CLASSES)
    for folder in (frames, other):
        frame, origin = open_frames(str(folder), None, 1).frame(0)
        assert store.load(0, frame, origin) is None  # of one name, but another image
        store.save(0, frame, origin, discs())
        assert store.load(0, frame, origin) is not None
    store.close()
    copies = sorted((tmp_path / "mine" / "images").iterdir())
    assert [c.read_bytes() for c in copies] == [
        (f / "000.png").read_bytes() for f in (frames, other)
    ]


def test_names_of_frames_lead_nowhere_else(tmp_path: Path) -> None:
    store = LabelImageStore(tmp_path / "mine", CLASSES)
    for number, name in enumerate(HOSTILE):
        store.save(number, replace(a_frame(), name=name), Origin(name), discs())
    store.close()
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert len([*(tmp_path / "mine" / "labels").iterdir()]) == len(HOSTILE)
    assert main(["info", str(tmp_path / "mine"), "--check"]) == 0
    again = LabelImageStore(tmp_path / "mine")
    for number, name in enumerate(HOSTILE):
        assert again.load(number, a_frame(), Origin(name)) is not None


class _Killed(BaseException):
    """In the place of SIGKILL."""


def _ends_after(root: Path, writes: int, end: Callable[[], None]) -> None:
    """Change a frame and add another, but end after so many files, with the next one unfinished."""
    left, whole = writes, desk_module.publish

    def counted(part: Path, path: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            end()
        whole(part, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk_module, "publish", counted)
        store = LabelImageStore(root, CLASSES)
        try:
            store.save(0, a_frame(0), Origin("drive 0"), _changed())
            store.save(7, a_frame(7), Origin("drive 7"), discs(7))
        finally:
            store.close()


def _changed() -> Drawing:
    drawing = discs(1)
    drawing.remove(1)
    drawing.set_class(2, 0)
    return drawing


def _raised(root: Path, writes: int) -> bool:
    """Whether the process ended before everything was saved."""

    def end() -> None:
        raise _Killed

    try:
        _ends_after(root, writes, end)
    except _Killed:
        return True
    return False


def _killed(root: Path, writes: int) -> bool:
    """The same in a process that is killed indeed."""
    code = (
        "import os, sys, signal, test_store\nfrom pathlib import Path\n"
        "kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
        "test_store._ends_after(Path(sys.argv[1]), int(sys.argv[2]), kill)\n"
    )
    done = _python(code, str(root), str(writes))
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", *words], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("ended", [_raised, pytest.param(_killed, marks=pytest.mark.slow)])
def test_ended_between_any_two_writes_a_change_is_whole_or_not_there(
    tmp_path: Path, ended: Callable[[Path, int], bool]
) -> None:
    states = {True: 0, False: 0}
    for writes in range(20):
        root = tmp_path / str(writes)
        save(root, 1)
        died = ended(root, writes)
        assert main(["info", str(root), "--check"]) == 0  # as it is, before anybody repairs it
        store = LabelImageStore(root)
        read = store.load(0, a_frame(), Origin("drive 0"))
        second = store.load(7, a_frame(7), Origin("drive 7"))
        store.close()
        assert read is not None
        is_old = np.array_equal(read.labels, discs(0).labels)
        expected = discs(0) if is_old else _changed()
        np.testing.assert_array_equal(read.labels, expected.labels)
        np.testing.assert_array_equal(read.ignore, expected.ignore)
        assert read.objects == expected.objects
        if second is not None:
            np.testing.assert_array_equal(second.labels, disc_labels(7))
            assert second.objects == discs().objects
        coco = open_dataset(root / "coco.json", "all")
        np.testing.assert_array_equal(coco[0].labels > 0, expected.labels > 0)
        assert main(["info", str(root), "--check"]) == 0
        states[is_old] += 1
        if not died:
            break
    assert not died and second is not None and states[True] == 1 and states[False] > 8


def test_on_a_full_disk_the_old_stays_and_the_new_is_saved_later(
    tmp_path: Path, monkeypatch
) -> None:
    save(tmp_path, 1)
    store = LabelImageStore(tmp_path)
    changed = discs(1)
    whole = desk_module.publish
    for refused in ("journal", "000.png", "meta.json", "coco.json"):

        def full(part: Path, path: Path, refused: str = refused) -> None:
            if path.name == refused:
                raise OSError(28, "No space left on device")
            whole(part, path)

        monkeypatch.setattr(desk_module, "publish", full)
        changed.set_class(1, 1 - changed.objects[1].class_id)
        with pytest.raises(OSError, match="No space left"):
            store.save(0, a_frame(), Origin("drive 0"), changed)
            store.save(1, a_frame(1), Origin("drive 1"), changed)
        assert main(["info", str(tmp_path), "--check"]) == 0
    monkeypatch.setattr(desk_module, "publish", whole)
    store.save(0, a_frame(), Origin("drive 0"), changed)
    store.save(1, a_frame(1), Origin("drive 1"), discs(1))
    store.close()
    assert main(["info", str(tmp_path), "--check"]) == 0
    read = LabelImageStore(tmp_path).load(0, a_frame(), Origin("drive 0"))
    assert read is not None and read.objects == changed.objects
    assert len([*(tmp_path / "images").iterdir()]) == 2


def test_a_limit_that_the_system_sets_is_met_as_a_full_disk_is(tmp_path: Path) -> None:
    save(tmp_path, 1)
    code = (
        "import resource, sys, test_store as t\nfrom pathlib import Path\n"
        "store = t.LabelImageStore(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try:\n    store.save(1, t.a_frame(1), t.Origin('drive 1'), t.discs(1))\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    done = _python(code, str(tmp_path))
    assert done.stdout == f"{errno.EFBIG}\n", done.stderr
    assert main(["info", str(tmp_path), "--check"]) == 0
    assert [p.name for p in (tmp_path / ".labelling").iterdir()] == ["lock"]


def test_a_second_process_is_refused_in_words(tmp_path: Path) -> None:
    store = LabelImageStore(tmp_path, CLASSES)
    with pytest.raises(ConfigError, match="open in another `instaseg label`"):
        LabelImageStore(tmp_path, CLASSES)
    store.close()
    LabelImageStore(tmp_path, CLASSES).close()


def test_folders_of_others_are_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="expected a new folder, or label images"):
        open_store(tmp_path, CLASSES, in_place=False)
    write_image(tmp_path / "leaves" / "plant1_rgb.png", picture())
    write_image(tmp_path / "leaves" / "plant1_label.png", disc_labels().astype(np.uint8))
    with pytest.raises(ConfigError, match="found CVPPP leaves; give -o"):
        open_store(tmp_path / "leaves", CLASSES, in_place=True)
    (tmp_path / "d" / "images" / "val").mkdir(parents=True)
    (tmp_path / "d" / "labels").mkdir()
    with pytest.raises(ConfigError, match="without folders of splits, found val"):
        open_store(tmp_path / "d", CLASSES, in_place=False)


def test_label_images_are_corrected_in_place(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / "images" / f"{number}.png", picture(number))
        write_image(tmp_path / "labels" / f"{number}.png", disc_labels(number) * 300)
    frames = open_frames(str(tmp_path), None, 1)
    store = open_store(tmp_path, ("car",), in_place=True)
    assert store.labelled(frames.keys) == {0, 1}
    frame, origin = frames.frame(1)
    read = store.load(1, frame, origin)
    assert read is not None and read.objects == {n * 300: Object(0, GIVEN) for n in (1, 2, 3)}
    assert store.class_names == ["object"]
    store.save(1, frame, origin, read)
    assert not (tmp_path / "ignore").exists()  # nobody asked for it
    store.add_class("cone")
    read.set_class(300, 1)
    read.remove(600)
    read.set_ignore(_block(0, 0, 1, SIZE[1]))
    store.save(1, frame, origin, read)
    store.close()
    dataset = open_dataset(tmp_path, "all")
    assert dataset[0].ids.tolist() == [300, 600, 900] and not dataset[0].ignore.any()
    assert dataset[1].ids.tolist() == [300, 900] and dataset[1].class_ids.tolist() == [1, 0]
    assert dataset[1].ignore[0].all()


def test_unknown_fields_of_meta_json_stay(tmp_path: Path) -> None:
    save(tmp_path, 1)
    file = tmp_path / "meta.json"
    meta = json.loads(file.read_text())
    meta["weather"], meta["frames"][0]["driver"] = "rain", "Ada"
    file.write_text(json.dumps(meta))
    store = LabelImageStore(tmp_path)
    store.save(0, a_frame(), Origin("drive 0"), discs())
    store.close()
    meta = json.loads(file.read_text())
    assert (meta["weather"], meta["frames"][0]["driver"]) == ("rain", "Ada")


def coco_file(root: Path) -> Path:
    """An image with two discs, a crowd, an annotation without a mask, and fields of others."""
    write_image(root / "images" / "a.png", picture())
    square = [[2, 2, 10, 2, 10, 10, 2, 10]]
    x, y, r = DISCS[1]
    other = [[x - r, y - r, x + r, y - r, x + r, y + r, x - r, y + r]]
    shared = {"image_id": 7, "category_id": 90}
    document = {
        "info": {"by": "Ada"},
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1], "x": 1}],
        "annotations": [
            {**shared, "id": 40, "segmentation": square, "iscrowd": 0, "mood": "good"},
            {**shared, "id": 41, "segmentation": other, "iscrowd": 0},
            {**shared, "id": 42, "bbox": [70, 40, 5, 5], "iscrowd": 0},
            {
                **shared,
                "id": 43,
                "iscrowd": 1,
                "segmentation": {"size": [*SIZE], "counts": [0, 48, 48 * 79]},
            },
        ],
        "categories": [{"id": 90, "name": "cup", "super": "thing"}],
    }
    path = root / "some.json"
    path.write_text(json.dumps(document))
    return path


def test_coco_is_corrected_in_place_and_the_rest_stays(tmp_path: Path) -> None:
    path = coco_file(tmp_path)
    before = json.loads(path.read_text())
    frame, origin = open_frames(str(path), None, 1).frame(0)
    store = open_store(path, (), in_place=True)
    assert isinstance(store, CocoStore) and store.class_names == ["cup"] and not store.no_ignore
    drawing = store.load(0, frame, origin)
    assert drawing is not None and len(drawing.objects) == 2 and drawing.ignore[:, 0].all()
    store.save(0, frame, origin, drawing)
    assert json.loads(path.read_text()) == before
    drawing.remove(2)
    store.add_class("cone")
    drawing.set_class(1, 1)
    number = drawing.add(_block(30, 30, 36, 40), CLICK, class_id=0)
    drawing.set_ignore(_block(40, 0, 48, 20))
    drawing.take(_block(0, 0, 10, 1), BRUSH)
    store.save(0, frame, origin, drawing)
    assert number == 3
    store.close()
    after = json.loads(path.read_text())
    kept = {a["id"]: a for a in after["annotations"]}
    assert kept[40]["mood"] == "good" and kept[40]["category_id"] == 91
    assert kept[40]["segmentation"] == before["annotations"][0]["segmentation"]
    assert 41 not in kept and kept[42] == before["annotations"][2]
    assert after["info"] == before["info"] and after["images"] == before["images"]
    dataset = open_dataset(path, "all")
    sample = dataset[0]
    assert dataset.class_names == ("cup", "cone") and sorted(sample.class_ids.tolist()) == [0, 1]
    crowd = sample.crowd > 0
    assert not crowd[:10, 0].any() and crowd[12:40, 0].all() and crowd[40:, :20].all()
    assert kept[44]["made_by"] == CLICK and kept[44]["area"] == 60
    again = open_store(path, (), in_place=True)
    read = again.load(0, frame, origin)
    assert read is not None
    np.testing.assert_array_equal(read.labels > 0, drawing.labels > 0)
    np.testing.assert_array_equal(read.ignore, drawing.ignore)
    with pytest.raises(ConfigError, match="open in another"):
        open_store(path, (), in_place=True)


def test_a_damaged_journal_is_named_and_classes_are_saved_alone(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".labelling" / "journal").write_bytes(b"{}\nabc")
    with pytest.raises(InputError, match="journal: cannot be read; remove it"):
        LabelImageStore(tmp_path)
    (tmp_path / ".labelling" / "journal").unlink()
    store = LabelImageStore(tmp_path)
    store.add_class("cone")
    store.save_classes()
    store.close()
    assert open_dataset(tmp_path, "all").class_names == (*CLASSES, "cone")
