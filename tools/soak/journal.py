"""What a soak has seen, written as it goes: lines of JSON in the files of a folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Protocol

SAMPLES, EVENTS, ABOUT = "samples.jsonl", "events.jsonl", "about.json"
BROKEN = "broken promise"  # the name of such an event


class Recorder(Protocol):
    """What is taken from the rig: see there."""

    accounts: Any
    answers: list[Any]
    found: list[str]
    diagnoses: dict[str, dict[str, str]]


class Journal:
    """about: facts about the run, as they are in ABOUT."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._start_s = time.time()
        self._folder = folder
        self._samples = (folder / SAMPLES).open("w", buffering=1)
        self._events = (folder / EVENTS).open("w", buffering=1)
        self.about = about
        self.write_about()

    def write_about(self) -> None:
        """Write `about` anew."""
        (self._folder / ABOUT).write_text(json.dumps(self.about, indent=2) + "\n")

    def event(self, name: str, what: str = "") -> None:
        """Something happens now."""
        event = {"time_s": round(time.time() - self._start_s, 2), "name": name, "what": what}
        self._events.write(json.dumps(event) + "\n")

    def sample(self, reading: Any, recorder: Recorder, quiet: bool) -> None:
        """A reading of the node, with what has come since the last one, which is taken."""
        for said in recorder.found:
            self.event(BROKEN, said)
        recorder.found.clear()
        latency = {name: [] for name in recorder.accounts}  # type: dict[str, list[float]]
        for answer in recorder.answers:
            latency[answer.camera].append(round(answer.latency_ms, 1))
        recorder.answers.clear()
        sample = {
            "time_s": round(time.time() - self._start_s, 2),
            "quiet": quiet,
            "load": round(os.getloadavg()[0], 1),
            "waiting": waiting(recorder.diagnoses),
            **{name: round(value, 2) for name, value in reading._asdict().items()},
            "latency_ms": latency,
            "accounts": {name: figures(account) for name, account in recorder.accounts.items()},
            "diagnosed_ms": {
                name: [float(values.get(f"total {p} (ms)", "nan")) for p in ("p50", "p99")]
                for name, values in recorder.diagnoses.items()
                if name
            },
        }
        self._samples.write(json.dumps(sample) + "\n")


def waiting(diagnoses: dict[str, dict[str, str]]) -> float:
    """The share of its time that the node, if it could run, waits for a processor."""
    said = [values.get("waiting for a processor", "") for values in diagnoses.values()]
    return max((int(text.rstrip("%")) / 100 for text in said if text), default=0.0)


def figures(account: Any) -> dict[str, Any]:
    """An account's, by name."""
    own = ("published", "bad", "labels", "roll_calls", "exact")
    return {**{name: getattr(account, name) for name in own}, **account.totals}
