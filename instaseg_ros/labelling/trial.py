"""Learns from labelled frames, and compares: `python -m instaseg_ros.labelling.trial FOLDER`.

The process has the lowest priority, and ends when its standard input does: with the process that
started it, however that ends. What a killed one has done is in its folder; started again, it goes
on from there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.checkpoint import describe, reads_safely
from instaseg_ros.config import Config, load, merge
from instaseg_ros.config.recipes import recipe
from instaseg_ros.configure import load_config
from instaseg_ros.datasets import open_dataset
from instaseg_ros.errors import InstasegError
from instaseg_ros.files import write_whole

ASKED, RESULT, OUTPUT = "trial.json", "result.json", "output.txt"
DATA, RUN = "data", "run"
RECIPE = "finetune"
SAVE_EVERY = 20  # steps


@dataclass(frozen=True)
class Settings:
    """What a trial is to do. start: weights, a shipped name or an absolute path. seconds: of
    training. config_file, overrides: how the network of the page is configured. learned, held_out:
    the number of frames in the splits `train` and `val` of its data."""

    start: str
    seconds: float
    learned: int = 0
    held_out: int = 0
    config_file: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def config(self, weights: str) -> Config:
        """The configuration of the page with some weights."""
        overrides = {**self.overrides, "weights": weights}
        config = load_config(self.config_file, overrides)
        return replace(config, tracking=replace(config.tracking, enabled=False))

    def write(self, folder: Path) -> None:
        """Into the folder of a trial."""
        write_whole(folder / ASKED, json.dumps(asdict(self), default=str).encode())

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Of a trial. Raises ValueError or TypeError for anything else than `write` wrote."""
        return cls(**json.loads((folder / ASKED).read_text(encoding="utf-8")))


class Result(NamedTuple):
    """Of the weights that a trial started from and of the new ones, on the frames that were held
    out: mean AP, and AP at IoU 0.5; None if these have no object. step: of the new ones, the steps
    that made them."""

    old_ap: float | None
    new_ap: float | None
    old_ap50: float | None
    new_ap50: float | None
    step: int

    @property
    def is_better(self) -> bool:
        """Whether the new weights are to be used. Mean AP favours the old ones, whose borders masks
        have that were accepted; it decides where AP at IoU 0.5 does not. A tie keeps the old ones.
        """
        new, old = (self.new_ap50, self.new_ap), (self.old_ap50, self.old_ap)
        return [ap or 0.0 for ap in new] > [ap or 0.0 for ap in old]

    @classmethod
    def read(cls, folder: Path) -> Result | None:
        """Of a trial; None if it has not ended."""
        file = folder / RESULT
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def new_weights(folder: Path) -> Path:
    """The weights that a trial makes."""
    return folder / RUN / "weights.safetensors"


def training_config(settings: Settings, folder: Path) -> Config:
    """The shipped recipe, for the time that is given."""
    start = describe(settings.start)
    config = load(
        recipe(RECIPE),
        {
            "train.dataset": str(folder / DATA),
            "train.seconds": settings.seconds,
            "train.workers": 0,  # no process that could be left over
            "train.log_every": 1,  # by which the page tells how far it is
            "train.save_every": SAVE_EVERY,
            "train.validate_every": 1 << 30,  # held-out frames choose nothing but the winner
            "train.validation_frames": 1,
            "runtime.device": settings.config(settings.start).runtime.device,
        },
    )
    config = replace(config, method=start.method_config)
    return merge(config, {"decode": dict(start.decode), "input": dict(start.input)})


def run(folder: Path) -> None:
    """Train in a folder that has DATA and ASKED, then compare; write RESULT."""
    from instaseg_ros.training.trainer import STATE, train  # takes seconds

    settings = Settings.read(folder)
    if not reads_safely():  # the dataset, and its hidden folder, may be from somebody else
        (folder / RUN / STATE).unlink(missing_ok=True)
    weights = train(training_config(settings, folder), folder / RUN, settings.start)
    old, new = (_mean_ap(settings, one, folder) for one in (settings.start, str(weights)))
    found = Result(old[0], new[0], old[1], new[1], int(describe(weights).notes["step"]))
    write_whole(folder / RESULT, json.dumps(found._asdict()).encode())


def _mean_ap(settings: Settings, weights: str, folder: Path) -> tuple[float | None, float | None]:
    """Mean AP, and at IoU 0.5, of the network's proposals: a class that the weights do not know has
    none."""
    from instaseg_ros.evaluation.metrics.average_precision import average_precision
    from instaseg_ros.evaluation.run import ClassMatch, begin, extend
    from instaseg_ros.pipeline import Pipeline

    data = open_dataset(folder / DATA, "val")
    pipeline = Pipeline(settings.config(weights))
    names = tuple(data.class_names)
    known = [names.index(n) if n in names else -1 for n in pipeline.class_names]
    classes = ClassMatch(names, np.arange(len(names)), np.array(known, np.int64))
    counts = extend(begin(data, classes), pipeline).counts
    mean = average_precision(counts, names)["mean"]
    return (mean.ap, mean.ap50) if mean.objects else (None, None)


def _end_with_parent() -> None:
    """End this process when the other end of its standard input is gone."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def main() -> int:
    """0 if RESULT is there; else the last line of stderr says why not."""
    os.nice(19)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell ignores it
    _end_with_parent()
    try:
        run(Path(sys.argv[1]))
    except KeyboardInterrupt:
        return 130
    except InstasegError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
