"""Runs the network on the frames that are looked at, in a thread, and keeps its last outputs."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from instaseg_ros.errors import InstasegError
from instaseg_ros.frames import Frame, Instances

if TYPE_CHECKING:
    from instaseg_ros.labelling.clicks import Seeds
    from instaseg_ros.pipeline import Pipeline

LONGEST_END_S = 3.0
KEPT = 3  # frames: the open one, and its neighbours
NO_CLICK = "does not say what belongs to a pixel; use the brush and the polygon"

log = logging.getLogger(__name__)


class Seen(NamedTuple):
    """What the network sees in a frame. instances: at camera size. seeds: for clicks; None if its
    method cannot answer them. class_names: of its weights. how: what a click does, in words."""

    instances: Instances
    seeds: Seeds | None
    class_names: Sequence[str]
    how: str


class Network:
    """Sees frames by number: the one that was asked for last, then the one after it.

    open_pipeline: called in the thread, as it takes seconds. read: a frame by number. ready: called
    in the thread with the number of each frame that was seen.
    """

    def __init__(
        self,
        open_pipeline: Callable[[], Pipeline],
        read: Callable[[int], Frame],
        count: int,
        ready: Callable[[int], None],
    ) -> None:
        self._open, self._read, self._count, self._ready = open_pipeline, read, count, ready
        self._newer: Pipeline | None = None  # to go on with
        self._seen: OrderedDict[int, Seen | str] = OrderedDict()
        self._old: set[int] = set()  # frames that earlier weights have seen
        self._wanted: list[int] = []
        self._current = -1
        self._change = threading.Condition()
        self._stopped = False
        self.state = "loading the network"  # for people; empty when it waits for work
        self.how = ""  # what a click does
        self._thread = threading.Thread(target=self._run, daemon=True, name="network")
        self._thread.start()

    def want(self, number: int) -> None:
        """See this frame next, and then the following one."""
        with self._change:
            if number != self._current:
                for old in self._old:
                    self._seen.pop(old, None)
                self._old.clear()
            self._current = number
            self._want_unseen()

    def again(self, number: int) -> None:
        """See this frame again."""
        with self._change:
            self._seen.pop(number, None)
            self._old.discard(number)
        self.want(number)

    def renew(self, pipeline: Pipeline) -> None:
        """Go on with another pipeline. What was seen in the frame that was wanted last stays until
        `again`, or until another one is wanted."""
        with self._change:
            self._newer = pipeline
            self._change.notify()

    def is_newer(self, number: int) -> bool:
        """Whether `again` would look at a frame with newer weights."""
        return number in self._old

    def seen(self, number: int) -> Seen | None:
        """What the network sees in a frame; None while that is not known."""
        with self._change:
            found = self._seen.get(number)
            if found is not None:
                self._seen.move_to_end(number)
        return None if isinstance(found, str) else found

    def trouble(self, number: int) -> str:
        """Why the network does not see a frame; empty if it does or will."""
        found = self._seen.get(number)
        return found if isinstance(found, str) else ""

    def stop(self) -> None:
        """End the thread, and wait a moment for the frame at hand; loading may take minutes."""
        with self._change:
            self._stopped = True
            self._change.notify()
        self._thread.join(LONGEST_END_S)

    def _run(self) -> None:
        try:
            pipeline = self._open()
        except Exception as error:
            log.error("no network: %s", error, exc_info=not isinstance(error, InstasegError))
            self.state = f"no network: {error}"
            return
        while (number := self._next()) is not None:
            if self._newer is not None:
                pipeline, self._newer = self._newer, None
                self._forget()
                continue
            found: Seen | str
            try:
                found = self._look(pipeline, self._read(number))
            except Exception as error:  # any kind, depending on the frame
                log.error("frame %d: %s", number, error)
                found = str(error) or type(error).__name__
            with self._change:
                self._seen[number] = found
                while len(self._seen) > KEPT:
                    self._seen.popitem(last=False)
            self._ready(number)

    def _next(self) -> int | None:
        """The frame to look at; -1: a newer pipeline is there; None: the end."""
        with self._change:
            self.state = ""
            while not self._wanted and not self._stopped and self._newer is None:
                self._change.wait()
            if self._stopped:
                return None
            self.state = "the network looks"
            return self._wanted.pop(0) if self._newer is None else -1

    def _forget(self) -> None:
        """Forget what was seen, but for what the open frame shows."""
        with self._change:
            shown = self._seen.get(self._current)
            self._seen.clear()
            self._old.clear()
            if isinstance(shown, Seen):
                self._seen[self._current] = shown
                self._old.add(self._current)
            self._want_unseen()

    def _want_unseen(self) -> None:
        if self._current >= 0:
            following = [self._current + 1] if self._current + 1 < self._count else []
            self._wanted = [n for n in (self._current, *following) if n not in self._seen]
            self._change.notify()

    def _look(self, pipeline: Pipeline, frame: Frame) -> Seen:
        from instaseg_ros.labelling.clicks import seeds_of  # imports torch

        inferred = pipeline.infer([frame])
        seeds = seeds_of(pipeline.method.name, inferred.outputs, pipeline.config, inferred.geometry)
        self.how = (
            seeds.how if seeds else f"a click makes no mask: {pipeline.method.name} {NO_CLICK}"
        )
        found = pipeline.finish(inferred)[0].instances
        return Seen(found, seeds, pipeline.class_names, self.how)
