"""Pictures without objects, from which training learns what is none (`train.backgrounds`)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from instaseg_ros.config import TrainConfig
from instaseg_ros.datasets import Dataset, Sample, remarks, semantic_names
from instaseg_ros.datasets.border import reads_files
from instaseg_ros.datasets.reading import read_image
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.frames import Frame
from instaseg_ros.recordings.image_files import images_in

LONGEST_PX = 1280  # a larger picture is shrunk to this side, as memory may hold all of them


class Backgrounds:
    """The pictures of a folder, as samples without instances whose dense classes are unknown.

    Raises InputError if there are none.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, folder: str) -> None:
        try:
            self._files = images_in(Path(folder))
        except InputError as error:
            raise InputError(f"train.backgrounds: {error}") from error

    def __len__(self) -> int:
        return len(self._files)

    def files(self, index: int) -> tuple[Path, ...]:
        return (self._files[index],)

    @reads_files
    def __getitem__(self, index: int) -> Sample:
        image = read_image(self._files[index])
        height, width = image.shape[:2]
        if max(height, width) > LONGEST_PX:
            share = LONGEST_PX / max(height, width)
            size = max(1, round(width * share)), max(1, round(height * share))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return Sample(
            Frame(image, name=self._files[index].stem),
            np.zeros(image.shape[:2], np.uint16),
            ids=np.zeros(0, np.uint16),
            class_ids=np.zeros(0, np.int64),
        )

    def check(self) -> None:
        """Read every picture once. Raises InputError, which names the broken one."""

        def read(index: int) -> None:
            self[index]

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(read, range(len(self))):
                pass


class WithBackgrounds:
    """A dataset, and after its samples those of `Backgrounds`."""

    def __init__(self, dataset: Dataset, backgrounds: Backgrounds) -> None:
        self._dataset, self._backgrounds = dataset, backgrounds
        self.class_names = dataset.class_names
        self.semantic_names = semantic_names(dataset)
        self.remarks = remarks(dataset)
        self.least_px: float | None = getattr(dataset, "least_px", None)

    def __len__(self) -> int:
        return len(self._dataset) + len(self._backgrounds)

    def __getitem__(self, index: int) -> Sample:
        data, own = self._place(index)
        return data[own]

    def files(self, index: int) -> tuple[Path, ...]:
        data, own = self._place(index)
        return data.files(own)

    def _place(self, index: int) -> tuple[Dataset, int]:
        first = len(self._dataset)
        return (self._dataset, index) if index < first else (self._backgrounds, index - first)


def open_backgrounds(config: TrainConfig) -> Backgrounds | None:
    """The pictures that `train.background_share` of the views show; None if it is 0.

    Raises ConfigError for options that contradict each other, and InputError for a folder without
    pictures.
    """
    share = config.background_share
    if share + config.anywhere_share > 1:
        raise ConfigError(
            "train.background_share: expected at most 1 together with train.anywhere_share, got "
            f"{share} + {config.anywhere_share}"
        )
    if bool(config.backgrounds) != (share > 0):
        raise ConfigError(
            f"train.background_share: got {share} with train.backgrounds '{config.backgrounds}'; "
            "pictures are seen where both are given, such as a folder and 0.1"
        )
    if not share:
        return None
    if config.clip_frames > 1:
        raise ConfigError(
            "train.background_share: expected 0 with train.clip_frames above 1, as pictures do not "
            f"move, got {share}; set it to 0 and train.backgrounds to ''"
        )
    return Backgrounds(config.backgrounds)
