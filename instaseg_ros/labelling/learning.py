"""Learns from the labelled frames while more are labelled, and uses what has become better."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from instaseg_ros.files import PART, publish, write_whole
from instaseg_ros.labelling.frames import Origin
from instaseg_ros.labelling.trial import ASKED, DATA, OUTPUT, RUN, Result, Settings, new_weights

EVERY = 5  # newly labelled frames
MOST_HELD_OUT = EVERY  # frames: no weights in use have learned from newer ones
HELD_OUT_SHARE = 5  # one of so many
POLL_S, RETRY_AFTER_S = 0.3, 10.0
LONGEST_END_S = 5.0  # that a training may take to save its state
MOST_WORDS = 300  # letters of an error

log = logging.getLogger(__name__)


class Labelled(Protocol):
    """A dataset that frames are labelled in; see `LabelImageStore`."""

    hidden_folder: Path

    def objects(self) -> dict[str, int]: ...

    def name_of(self, origin: Origin) -> str | None: ...

    def copy(self, folder: Path, parts: Mapping[str, list[str]]) -> None: ...


@dataclass(frozen=True)
class State:
    """What is kept between sessions. start: the weights that were given. learned: others are used
    instead. seen: frames of the trials until now. said: how the last one ended."""

    start: str
    learned: bool = False
    seen: tuple[str, ...] = ()
    said: str = ""


class Learner:
    """Makes a trial after every EVERY newly labelled frames, in a process of its own, and uses its
    weights if they are better on the newest frames, which are held out.

    settings: of every trial; `start`: the weights that were given. unfinished: a frame that is not
    yet to learn from. All it keeps is in `learning/` of the dataset's hidden folder.
    """

    def __init__(
        self, dataset: Labelled, settings: Settings, unfinished: Callable[[], Origin | None]
    ) -> None:
        self._dataset, self._settings, self._unfinished = dataset, settings, unfinished
        folder = dataset.hidden_folder / "learning"
        folder.mkdir(exist_ok=True)
        self._trial, self._part = folder / "trial", folder / "trial.part"
        self._state_file, self._learned = folder / "state.json", folder / "learned.safetensors"
        self._failed = folder / "failed.txt"
        for part in folder.glob(f"*{PART}*"):  # of a process that was killed
            part.unlink(missing_ok=True)
        self._state = self._read_state()
        self._open: tuple[Origin, str] | None = None  # the frame that is edited, and its name
        self._use: Callable[[str], None] = lambda weights: None
        self._now = ""  # what it does, in words
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="learner")

    @property
    def weights(self) -> str:
        """The weights in use: a shipped name, or a path."""
        return str(self._learned.resolve()) if self._state.learned else self._state.start

    @property
    def line(self) -> str:
        """Where it is, in words."""
        return "Learning: " + " · ".join(filter(None, (self._now, self._state.said)))

    def start(self, use: Callable[[str], None]) -> None:
        """Begin. use: called in a thread with new weights that are better; it may take its time."""
        self._use = use
        self._thread.start()

    def stop(self) -> None:
        """End the training, which saves its state, and everything else."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * LONGEST_END_S)

    def attempt(self) -> bool:
        """Make the trial that is due, which takes minutes; returns whether one was."""
        due = self._there() or self._prepared()
        if due:
            self._try()
        return due

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self.attempt():
                    self._stop.wait(POLL_S)
            except Exception as error:  # such as a full disk
                strange = not isinstance(error, OSError)
                log.error("learning from labels: %s", error, exc_info=strange)
                self._now = f"it waits, because of {error or type(error).__name__}"[:MOST_WORDS]
                self._stop.wait(RETRY_AFTER_S)

    # A trial's beginning

    def _there(self) -> bool:
        """Whether there is a trial of these weights, which may have begun in an earlier session."""
        try:
            asked = Settings.read(self._trial)
        except (OSError, ValueError, TypeError):
            return False
        return asked.start == self.weights

    def _prepared(self) -> bool:
        """Make a new trial if there are enough frames for it."""
        objects = self._dataset.objects()
        objects.pop(self._unfinished_name(), None)
        seen = {*self._state.seen}
        new = [name for name in objects if name not in seen]
        missing = EVERY - len(new)
        if missing > 0:
            self._now = f"waiting for {missing} more frame{'s' * (missing > 1)}"
            return False
        held_out = _newest(new, objects)
        learned = [name for name in objects if name not in held_out]
        if not held_out or not any(objects[name] for name in learned):
            self._now = "waiting for frames with objects"
            return False
        settings = replace(
            self._settings, start=self.weights, learned=len(learned), held_out=len(held_out)
        )
        for folder in (self._part, self._trial):
            shutil.rmtree(folder, ignore_errors=True)
        self._part.mkdir()
        self._dataset.copy(self._part / DATA, {"train": learned, "val": held_out})
        settings.write(self._part)
        publish(self._part, self._trial)
        return True

    def _unfinished_name(self) -> str:
        """The name of the frame that is being edited; empty if there is none, or not saved yet."""
        origin = self._unfinished()
        if origin is None:
            return ""
        if self._open is None or self._open[0] != origin:  # looking for it may mean reading images
            name = self._dataset.name_of(origin)
            self._open = (origin, name) if name else None
        return self._open[1] if self._open else ""

    # Its course

    def _try(self) -> None:
        result = self._result()
        if result is None:
            code = self._trained()
            if self._stop.is_set():
                return
            result = self._result()
            if result is None:
                self._end(f"the last try failed: {self._why(code)}")
                return
        asked = Settings.read(self._trial)
        frames = f"from {asked.learned} frames"
        held_out = "newest frame" if asked.held_out == 1 else f"newest {asked.held_out} frames"
        new, old = _percent(result.new_ap50), _percent(result.old_ap50)
        aps = f"AP50 {new}, was {old}, on the {held_out}"
        if not result.is_better:
            self._end(f"tried {frames} and kept the old weights: {aps}, held out")
            return
        write_whole(self._learned, new_weights(self._trial).read_bytes())
        self._end(f"new weights {frames}, step {result.step}: {aps}, held out", learned=True)
        self._now = "loading the new weights"
        self._use(self.weights)

    def _result(self) -> Result | None:
        try:
            return Result.read(self._trial)
        except (ValueError, TypeError):
            return None

    def _trained(self) -> int:
        """Let the trial's process do its work; returns its exit code, negative for a signal."""
        asked = Settings.read(self._trial)
        now = self._settings  # not what an earlier session, or somebody else, has configured
        asked = replace(asked, config_file=now.config_file, overrides=now.overrides)
        asked.write(self._trial)
        self._now = f"starting to train on {asked.learned} frames"
        with (self._trial / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.trial", str(self._trial)],
                stdin=subprocess.PIPE,  # whose end it notices, should this process be killed
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C in the terminal is not for it
            )
        try:
            while process.poll() is None and not self._stop.wait(POLL_S):
                self._now = self._progress(asked) or self._now
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(LONGEST_END_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        return process.returncode

    def _progress(self, asked: Settings) -> str:
        """How far the training is; empty if that is not known."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with (self._trial / RUN / "log.csv").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 1000))
                rows = file.read().split(b"\n")  # the last one is empty, or being written
            step, seconds = int(rows[-2].split(b",")[0]), float(rows[-2].split(b",")[1])
            left = asked.seconds - seconds
            if left <= 0:
                return f"comparing old and new weights, after {step} steps"
            minutes = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
            return f"training on {asked.learned} frames, step {step}, {minutes} left"
        return ""

    def _why(self, code: int) -> str:
        """Why the process failed, from the last line that it said, which is kept."""
        try:
            os.replace(self._trial / OUTPUT, self._failed)
            lines = self._failed.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            lines = []
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:MOST_WORDS] if said else f"exit code {code}"

    def _end(self, said: str, learned: bool = False) -> None:
        """Keep what came out, before the trial goes."""
        frames = [*self._state.seen]
        for part in ("train", "val"):
            images = self._trial / DATA / "images" / part
            frames += [file.stem for file in images.iterdir()] if images.is_dir() else []
        seen = tuple(dict.fromkeys(frames))
        self._state = replace(
            self._state, learned=learned or self._state.learned, seen=seen, said=said
        )
        self._write_state()
        log.info("learning: %s", said)
        (self._trial / ASKED).unlink(missing_ok=True)
        shutil.rmtree(self._trial, ignore_errors=True)

    # Between sessions

    def _read_state(self) -> State:
        """What an earlier session has kept, if it began with the same weights."""
        new = State(self._settings.start)
        try:
            found = json.loads(self._state_file.read_text(encoding="utf-8"))
            state = State(**{**found, "seen": tuple(found["seen"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.debug("%s: %s", self._state_file, error)
            return new
        if state.start != new.start:
            return new
        return replace(state, learned=state.learned and self._learned.is_file())

    def _write_state(self) -> None:
        write_whole(self._state_file, json.dumps(asdict(self._state)).encode())


def _newest(new: list[str], objects: Mapping[str, int]) -> list[str]:
    """The frames to hold out: the newest with objects, one of five, at least one."""
    count = min(MOST_HELD_OUT, max(1, len(objects) // HELD_OUT_SHARE))
    return [name for name in new if objects[name]][-count:]


def _percent(ap: float | None) -> str:
    return "-" if ap is None else f"{100 * ap:.1f} %"
