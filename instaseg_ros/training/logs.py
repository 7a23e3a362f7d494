"""Numbers of a training, for people and their plots."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path

from instaseg_ros.errors import MissingExtraError
from instaseg_ros.evaluation.average_precision import AveragePrecision
from instaseg_ros.files import written_whole


class TrainingLog:
    """`log.csv` and `validation.csv` in the run's directory, and `tensorboard/` if asked for.

    Rows after `first_step`, which a killed run wrote beyond its last saved state, are dropped: the
    resumed run writes them again.
    """

    def __init__(self, run_dir: Path, first_step: int, tensorboard: bool) -> None:
        self._run_dir = run_dir
        _drop_after(run_dir / "validation.csv", first_step)
        self._started = time.monotonic() - _drop_after(run_dir / "log.csv", first_step)
        self._board = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtraError("tensorboard", "train", "train.tensorboard") from error
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step + 1)

    def loss(self, step: int, terms: Mapping[str, float]) -> None:
        """The terms of the loss in step number `step`, counted from 1."""
        seconds = f"{time.monotonic() - self._started:.1f}"
        self._write("log", {"step": step, "seconds": seconds}, terms)

    def validation(
        self, step: int, table: Mapping[str, AveragePrecision], mean_iou: float | None = None
    ) -> None:
        """AP per class after so many steps, and mean IoU of the classes of pixels, if any."""
        values = {
            f"{name}_{which}": getattr(row, which)
            for name, row in table.items()
            for which in ("ap", "ap50")
        }
        if mean_iou is not None:
            values["mean_iou"] = mean_iou
        self._write("validation", {"step": step}, values)

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._board:
            self._board.close()

    def _write(self, name: str, first: dict[str, object], values: Mapping[str, float]) -> None:
        path = self._run_dir / f"{name}.csv"
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if new:
                writer.writerow([*first, *values])
            writer.writerow([*first.values(), *(f"{value:.6f}" for value in values.values())])
        if self._board:
            kind = {"log": "loss"}.get(name, name)
            for key, value in values.items():
                self._board.add_scalar(f"{kind}/{key}", value, first["step"])


def _drop_after(path: Path, step: int) -> float:
    """Remove the rows of later steps and a torn last one; returns the last row's second column."""
    if not path.exists():
        return 0.0
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
    if not kept:
        path.unlink()
        return 0.0
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])
    return float(kept[-1][1])
