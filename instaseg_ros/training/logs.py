"""Logs the numbers of a training, for people and plots."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from instaseg_ros.errors import MissingExtraError
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision
from instaseg_ros.files import written_whole

if TYPE_CHECKING:
    from instaseg_ros.training.data import Batch


class TrainingLog:
    """`log.csv` and `validation.csv` in the run's directory, and `tensorboard/` if asked for.

    Rows after `first_step`, written by a killed run after its last saved state, are dropped: the
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

    @property
    def seconds(self) -> float:
        """Seconds since the first step, without the time between stop and resumption."""
        return time.monotonic() - self._started

    def loss(self, step: int, terms: Mapping[str, float]) -> None:
        """Log the terms of the loss in step number `step`, counted from 1."""
        seconds = f"{self.seconds:.1f}"
        self._write("log", {"step": step, "seconds": seconds}, terms)

    def validation(
        self, step: int, table: Mapping[str, AveragePrecision], mean_iou: float | None = None
    ) -> None:
        """Log AP per class after `step` steps, and the mean IoU of pixel classes, if any."""
        values = {
            f"{name}_{which}": getattr(row, which)
            for name, row in table.items()
            for which in ("ap", "ap50")
        }
        if mean_iou is not None:
            values["mean_iou"] = mean_iou
        self._write("validation", {"step": step}, values)

    def close(self) -> None:
        """Flush TensorBoard."""
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


class Progress:
    """Passes on batches and shows progress: a bar on a terminal, else an occasional line.

    first: number of the first of `steps` steps (None: unknown). hidden: print nothing.
    """

    def __init__(
        self, batches: Iterable[Batch], first: int, steps: int | None, hidden: bool
    ) -> None:
        self._bar = tqdm(
            batches,
            "training",
            steps,
            initial=first,
            unit="step",
            smoothing=0.05,
            disable=hidden or None,  # None: if stderr is not a terminal
        )
        self._steps, self._hidden = steps, hidden

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._bar)

    def loss(self, step: int, terms: Mapping[str, float]) -> None:
        """Show the terms of the loss after `step` steps."""
        if not self._bar.disable:
            self._bar.set_postfix({k: f"{v:.3f}" for k, v in terms.items()}, refresh=False)
        elif not self._hidden:
            said = ", ".join(f"{name} {value:.3f}" for name, value in terms.items())
            which = f"step {step} of {self._steps}" if self._steps else f"step {step}"
            print(f"{which}: {said}", file=sys.stderr, flush=True)

    def validation(
        self, step: int, table: Mapping[str, AveragePrecision], mean_iou: float | None = None
    ) -> None:
        """Show the result of a validation after `step` steps."""
        row = ", ".join(f"{name} {r.ap50:.3f}" for name, r in table.items())
        semantic = "" if mean_iou is None else f"; mean IoU {mean_iou:.3f}"
        self._bar.write(f"step {step}: AP {table['mean'].ap:.3f}, AP50 {row}{semantic}")


def _drop_after(path: Path, step: int) -> float:
    """Remove the rows of later steps and an incomplete last one; returns the last row's second
    column."""
    if not path.exists():
        return 0.0
    text = (
        path.read_bytes().replace(b"\0", b"").decode(errors="replace")
    )  # zeros from a power failure
    header, *rows = list(csv.reader(text.splitlines())) or [[]]
    whole = (row for row in rows if len(row) == len(header) > 1 and row[0].isdecimal())
    kept = [row for row in whole if int(row[0]) <= step]
    if not kept:
        path.unlink()
        return 0.0
    with written_whole(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])
    try:
        return float(kept[-1][1])
    except ValueError:
        return 0.0
