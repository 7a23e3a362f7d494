"""A saved frame as one file, which is written before all others, and done again after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from instaseg_ros.datasets.border import named
from instaseg_ros.labelling.coco_document import Entry


class Change(NamedTuple):
    """All that a saved frame changes.

    entry: of meta.json. image: bytes and suffix of a new image, else empty. labels, ignore: PNG.
    coco_image, annotations: of coco.json.
    """

    entry: Entry
    image: bytes
    labels: bytes
    ignore: bytes
    coco_image: Entry
    annotations: list[Entry]

    def packed(self) -> bytes:
        """The content of the journal."""
        facts = {
            "entry": self.entry,
            "coco_image": self.coco_image,
            "annotations": self.annotations,
            "sizes": [len(self.image), len(self.labels), len(self.ignore)],
        }
        return json.dumps(facts).encode() + b"\n" + self.image + self.labels + self.ignore

    @classmethod
    def read(cls, file: Path) -> Change:
        """What `packed` gave. Raises InputError for anything else."""
        with named(str(file), "cannot be read; remove it to go on without the last change"):
            line, _, rest = file.read_bytes().partition(b"\n")
            facts = json.loads(line)
            ends = np.cumsum(facts["sizes"]).tolist()
            if ends[-1] != len(rest):
                raise ValueError(f"expected {ends[-1]} bytes, found {len(rest)}")
            parts = rest[: ends[0]], rest[ends[0] : ends[1]], rest[ends[1] :]
            return cls(facts["entry"], *parts, facts["coco_image"], facts["annotations"])
