"""Splits a dataset without splits into a part to learn and a part to hold out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instaseg_ros.samples import Dataset, Sample, Sequences, remarks, semantic_names

TRAIN, VAL = "train", "val"


class Part:
    """Some samples of a dataset, as a dataset."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, indices
        self.class_names = dataset.class_names
        self.semantic_names = semantic_names(dataset)
        self.remarks = remarks(dataset)
        self.least_px: float | None = getattr(dataset, "least_px", None)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._indices[index]]

    def files(self, index: int) -> tuple[Path, ...]:
        return self._dataset.files(self._indices[index])

    @property
    def whole(self) -> Dataset:
        """The dataset it is a part of."""
        return self._dataset


class SequencePart(Part):
    """Some frames of sequences, in their order."""

    def sequence(self, index: int) -> str:
        assert isinstance(self._dataset, Sequences)
        return self._dataset.sequence(self._indices[index])


def part(dataset: Dataset, split: str) -> tuple[Dataset, str]:
    """The part `train` or `val` of a dataset, and the rule in words.

    Every tenth image is held out (`val`), or the last one of fewer. In sequences it is the last
    tenth of the frames, since frames between others would be nearly known. A single image is both.
    """
    count = len(dataset)
    if count < 2:
        return dataset, "its only image is used for both"
    held = range(9, count, 10) if count >= 10 else range(count - 1, count)
    kind: type[Part] = Part
    which = ""
    if isinstance(dataset, Sequences):
        kind, which, held = SequencePart, "the last ", range(count - len(held), count)
    rule = f"{which}{len(held)} of its {count} images are held out for validation"
    chosen = held if split == VAL else [i for i in range(count) if i not in held]
    return kind(dataset, chosen), rule
