"""Gives the frames of a recording, a video, a folder or a dataset by number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Protocol

from instaseg_ros.datasets import ALL, Dataset, kind_of, lacks_val, open_dataset, splits_of
from instaseg_ros.errors import ImageError, InputError, TruncatedInputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_files import IMAGE_SUFFIXES, images_in
from instaseg_ros.recordings.image_messages import file_to_rgb
from instaseg_ros.recordings.sources import Source, is_recording, open_source
from instaseg_ros.samples import SYNTHETIC, Sample

KEPT = 8  # frames in memory: going back in a recording means reading it again


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a frame is from.

    key: tells it from all other frames of the source, from run to run. file: its image, if it has
    a file of its own. topic: of a recording, else empty.
    """

    key: str
    file: Path | None = None
    topic: str = ""


class Frames(Protocol):
    """Frames by number. `frame` raises InputError or ImageError for one that cannot be read.
    keys: what the key of each origin begins with, and of no other source. class_names: of the masks
    that they come with, None without."""

    keys: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def frame(self, number: int) -> tuple[Frame, Origin]: ...

    def truth(self, number: int) -> Sample | None:
        """The masks that the frame comes with."""
        ...


def open_frames(path: str, topic: str | None, every: int) -> Frames:
    """The frames of a dataset (with its masks), a recording, a video, or a folder.

    every: of a recording or video, only each so many-th frame. Raises InputError if there is
    nothing that can be read.
    """
    root = Path(path)
    if path == SYNTHETIC or (root.is_dir() and not is_recording(root) and _is_dataset(root)):
        return DatasetFrames(open_dataset(path, split_of(path)), path)
    if root.is_dir() and not is_recording(root):
        return FolderFrames(root)
    if root.suffix == ".json" and root.is_file():
        return DatasetFrames(open_dataset(path, split_of(path)), path)
    return SourceFrames(root, open_source(root, topic), every)


def split_of(path: str) -> str:
    """The split of a dataset that is labelled: all of it, or the part for training."""
    known = splits_of(path)
    if path != SYNTHETIC and lacks_val(known):
        return ALL
    return "train" if "train" in known else known[0]


def _is_dataset(root: Path) -> bool:
    try:
        kind_of(root)
    except InputError:
        return False
    return True


class FolderFrames:
    """The images of a folder, in natural order of name."""

    class_names: tuple[str, ...] | None = None

    def __init__(self, root: Path) -> None:
        self._files = images_in(root)
        self._name = root.resolve().name
        self.keys = f"{self._name}/"

    def __len__(self) -> int:
        return len(self._files)

    def frame(self, number: int) -> tuple[Frame, Origin]:
        file = self._files[number]
        frame = Frame(file_to_rgb(file), 0, self._name, name=file.stem)
        return frame, Origin(f"{self.keys}{file.name}", file)

    def truth(self, number: int) -> Sample | None:
        return None


class DatasetFrames:
    """The images of a dataset, with its masks."""

    def __init__(self, dataset: Dataset, path: str) -> None:
        self._dataset, self.keys = dataset, f"{Path(path).resolve().name}/"
        self.class_names: tuple[str, ...] | None = dataset.class_names

    def __len__(self) -> int:
        return len(self._dataset)

    def frame(self, number: int) -> tuple[Frame, Origin]:
        frame, files = self._dataset[number].frame, self._dataset.files(number)
        if not files or files[0].suffix.lower() not in IMAGE_SUFFIXES:  # generated, or one of many
            return frame, Origin(f"{self.keys}{number:06d}")
        key = f"{self.keys}{files[0].name}"
        return replace(frame, name=files[0].stem), Origin(key, files[0])

    def truth(self, number: int) -> Sample | None:
        return self._dataset[number]


class SourceFrames:
    """The frames of a recording or a video, which is read again to go back."""

    class_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, source: Source, every: int) -> None:
        self._name, self._source, self._every = path.name, source, every
        self._topic: str = getattr(source, "topic", "")
        self.keys = "".join(f"{one} " for one in (path.name, self._topic) if one)
        total = source.total
        if total is None:
            total = sum(1 for _ in source)
        self._count = -(-total // every)
        self._kept: OrderedDict[int, tuple[Frame, Origin] | ImageError] = OrderedDict()
        self._reader: Iterator[Frame] = iter(())
        self._next = -1
        self._lock = Lock()

    def __len__(self) -> int:
        return self._count

    def frame(self, number: int) -> tuple[Frame, Origin]:
        with self._lock:
            if number not in self._kept:
                self._read_to(number * self._every)
            found = self._kept[number]
        if isinstance(found, ImageError):
            raise found
        return found

    def truth(self, number: int) -> Sample | None:
        return None

    def _read_to(self, wanted: int) -> None:
        if self._next < 0 or wanted < self._next:
            self._reader, self._next = iter(self._source), 0
        while self._next <= wanted:
            found: tuple[Frame, Origin] | ImageError
            try:
                frame = next(self._reader)
                found = frame, Origin(self._key(frame), None, self._topic)
            except ImageError as error:
                found = error
            except (StopIteration, TruncatedInputError) as error:
                self._next = -1
                raise InputError(
                    f"{self._name}: frame {wanted} cannot be read: {error or 'it ends earlier'}"
                ) from error
            if self._next % self._every == 0:
                self._keep(self._next // self._every, found)
            self._next += 1

    def _keep(self, number: int, found: tuple[Frame, Origin] | ImageError) -> None:
        self._kept[number] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _key(self, frame: Frame) -> str:
        stamp = frame.stamp_ns or frame.received_ns or self._next
        return f"{self.keys}{stamp}"
