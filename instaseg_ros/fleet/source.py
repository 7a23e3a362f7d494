"""A recording to evaluate: where images, truth and predictions are."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from instaseg_ros.datasets import ALL
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.datasets.parts import SequencePart, part
from instaseg_ros.fleet.remote import Place, Remote, local_copy
from instaseg_ros.recordings.bag_paths import BAG_SUFFIXES
from instaseg_ros.samples import Sequences, spread

PLACES = ("path", "truth", "predictions")  # fields of a Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A recording to evaluate.

    name: unique in the run. truth: recording of the truth; None: itself. predictions: labelled
    recording of the results; None: they are made now. topic, depth: of the images, and of depth
    images; labels: of the recorded results. split: `all`, or a part as of datasets. frames: at
    most so many, spread over the recording, or with `in_order` the first ones.
    """

    name: str
    path: Place
    truth: Place | None = None
    predictions: Place | None = None
    topic: str | None = None
    depth: str | None = None
    labels: str | None = None
    tolerance_ms: float = 0.0
    split: str = ALL
    frames: int | None = None
    in_order: bool = False

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, for JSON: options, and size and time of every file."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        options = {key: fields[key] for key in fields if key not in PLACES}
        files = {key: _files(fields[key]) for key in PLACES if fields[key] is not None}
        return {**options, **files}

    @property
    def where(self) -> str:
        """The whole path, or the URL."""
        return where(self.path)

    @contextmanager
    def here(self) -> Iterator[Source]:
        """The source with files on this machine, which stay there within the block. Raises
        InputError for what cannot be copied."""
        with ExitStack() as copies:
            found = {key: getattr(self, key) for key in PLACES}
            local: dict[str, Any] = {
                key: copies.enter_context(local_copy(place))
                for key, place in found.items()
                if isinstance(place, Remote)
            }
            yield dataclasses.replace(self, **local)

    def open(self) -> Sequences:
        """The frames with truth. Raises InputError if there are none. Its files are `here`."""
        assert isinstance(self.path, Path) and not isinstance(self.truth, Remote)
        whole: Sequences = LabelledBag(
            self.path, self.topic, self.truth, self.tolerance_ms, self.depth
        )
        if self.split != ALL:
            chosen, rule = part(whole, self.split)
            log.info("%s, %s: %s (`%s`: all)", self.name, self.split, rule, ALL)
            whole = cast(Sequences, chosen)
        if self.frames is None or self.frames >= len(whole):
            return whole
        kept = range(self.frames) if self.in_order else spread(len(whole), self.frames)
        return SequencePart(whole, kept)


def where(place: Place) -> str:
    """The whole path, or the URL."""
    return place.url if isinstance(place, Remote) else str(place.resolve())


def _files(path: Place) -> list[tuple[str, int, int | str]]:
    """Name, size and time of change of the files of a recording."""
    if isinstance(path, Remote):
        return [(one.name, one.size, one.mark) for one in path.files()]
    there = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in there if f.is_file()]


def names_of(paths: Sequence[Place]) -> list[str]:
    """A name for each recording, that of its file or folder; of recordings of one name, with digits
    that stand for the path."""
    stems = [_stem(path) for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{_digest(where(path))[:8]}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def _stem(path: Place) -> str:
    """Of a file or folder, as text that can be written anywhere."""
    name = path.name if isinstance(path, Remote) else path.resolve().name
    for suffix in (".zstd", *BAG_SUFFIXES):
        name = name.removesuffix(suffix)
    printable = "".join(c if c.isprintable() else "_" for c in name)
    return printable.lstrip(".") or "recording"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
