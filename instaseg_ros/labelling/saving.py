"""Saves what has changed, in a thread, and tries again what the disk refuses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

SAVE_AFTER_S, RETRY_AFTER_S = 0.2, 2.0

log = logging.getLogger(__name__)


class Saver:
    """Calls `save` with the number of each thing that has changed, a moment after the change; it
    may raise anything, and is called again then."""

    def __init__(self, save: Callable[[int], None]) -> None:
        self._save_one = save
        self._dirty: dict[int, int] = {}  # changes that are not saved, by number
        self._change = threading.Condition()
        self._ended = False
        self.error = ""  # why something is not saved
        self._thread = threading.Thread(target=self._run, daemon=True, name="saver")
        self._thread.start()

    @property
    def unsaved(self) -> int:
        """How many things wait."""
        return len(self._dirty)

    def changed(self, number: int) -> None:
        """Something has to be saved."""
        with self._change:
            self._dirty[number] = self._dirty.get(number, 0) + 1
            self._change.notify()

    def close(self) -> None:
        """Save what is not saved yet, and end. Raises OSError if the disk refuses."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()
        for number in [*self._dirty]:
            self._save(number)

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._dirty and not self._ended:
                    self._change.wait()
                if self._ended:
                    return
            time.sleep(SAVE_AFTER_S)  # a stroke or turning a wheel is many edits
            try:
                with self._change:
                    number = next(iter(self._dirty))
                self._save(number)
            except Exception as error:  # whatever it is, it stays to be saved
                self.error = f"not saved: {error}"
                log.error("frame %d is not saved, trying again: %s", number, error)
                time.sleep(RETRY_AFTER_S)
            else:
                self.error = ""

    def _save(self, number: int) -> None:
        with self._change:
            changes = self._dirty[number]
        self._save_one(number)
        with self._change:
            self._dirty[number] -= changes
            if not self._dirty[number]:
                del self._dirty[number]
