"""A recording to evaluate: where images, truth and predictions are."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from instaseg_ros.datasets import ALL
from instaseg_ros.datasets.bag import LabelledBag
from instaseg_ros.datasets.parts import SequencePart, part
from instaseg_ros.recordings.bag_paths import BAG_SUFFIXES
from instaseg_ros.samples import Sequences, spread

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
    path: Path
    truth: Path | None = None
    predictions: Path | None = None
    topic: str | None = None
    depth: str | None = None
    labels: str | None = None
    tolerance_ms: float = 0.0
    split: str = ALL
    frames: int | None = None
    in_order: bool = False

    def identity(self) -> dict[str, Any]:
        """What the rows depend on, for JSON: options, and size and time of every file."""
        options = {k: v for k, v in dataclasses.asdict(self).items() if not isinstance(v, Path)}
        paths = {"path": self.path, "truth": self.truth, "predictions": self.predictions}
        files = {key: _files(path) for key, path in paths.items() if path is not None}
        return {**options, **files}

    def open(self) -> Sequences:
        """The frames with truth. Raises InputError if there are none."""
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


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of the files of a recording."""
    there = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in there if f.is_file()]


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each recording, that of its file or folder; of recordings of one name, with digits
    that stand for the path."""
    stems = [_stem(path) for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{_digest(str(path.resolve()))[:8]}"
        for stem, path in zip(stems, paths, strict=True)
    ]


def _stem(path: Path) -> str:
    """Of a file or folder, as text that can be written anywhere."""
    name = path.resolve().name
    for suffix in (".zstd", *BAG_SUFFIXES):
        name = name.removesuffix(suffix)
    printable = "".join(c if c.isprintable() else "_" for c in name)
    return printable.lstrip(".") or "recording"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
