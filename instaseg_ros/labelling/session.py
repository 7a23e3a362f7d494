"""What the page works on: the frames, their drawings, the network and the dataset."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InstasegError
from instaseg_ros.frames import Frame
from instaseg_ros.labelling import proposals
from instaseg_ros.labelling.editing import GIVEN, Drawing, EditError, Object
from instaseg_ros.labelling.edits import Box, Editor, LiveClick, Request, classes_of
from instaseg_ros.labelling.frames import Frames, Origin
from instaseg_ros.labelling.network import Network, Seen
from instaseg_ros.labelling.saving import Saver
from instaseg_ros.labelling.store import Store
from instaseg_ros.samples import class_name

MOST_CLASSES = 200
KEPT_IMAGES = 4
CLASSES = -1  # among what is to be saved: no frame, but the classes
EVERYWHERE = slice(0, None), slice(0, None)


class Learning(Protocol):
    """What learns from the labelled frames. line: where it is, for people."""

    @property
    def line(self) -> str: ...

    def stop(self) -> None: ...


@dataclass
class _Opened:
    """A frame that was looked at. revision: counts what the page has to fetch again. kept: the
    dataset has it, or is about to. finished: the last edit accepted all. proposed: what it shows
    may be replaced by better proposals."""

    origin: Origin
    drawing: Drawing
    kept: bool
    finished: bool
    proposed: bool
    revision: int = 0
    live: LiveClick | None = None


class Patch(NamedTuple):
    """What an edit changed. labels, ignore: of the frame within the box. active: the label value to
    go on with; 0: none."""

    top: int
    left: int
    labels: NDArray[np.uint16]
    ignore: NDArray[np.bool_]
    facts: dict[str, Any]


class Session:
    """Opens, edits and saves frames; every method may be called from any thread."""

    def __init__(self, frames: Frames, store: Store) -> None:
        self.frames, self.store = frames, store
        self.network: Network | None = None
        self.learning: Learning | None = None
        self._lock = threading.RLock()
        self._opened: dict[int, _Opened] = {}
        self._images: dict[int, tuple[Frame, Origin]] = {}  # the last few, by number
        self._current = -1
        self._saver = Saver(self._save)

    # What the page asks for

    def state(self) -> dict[str, Any]:
        with self._lock:
            labelled = self.store.labelled(self.frames.keys)
            labelled |= {n for n, o in self._opened.items() if o.kept}
            return {
                "frames": len(self.frames),
                "class_names": self.store.class_names,
                "labelled": sorted(n for n in labelled if n < len(self.frames)),
                "no_ignore": self.store.no_ignore,
            }

    def status(self, number: int) -> dict[str, Any]:
        network = self.network
        with self._lock:
            opened = self._opened.get(number)
            return {
                "unsaved": self._saver.unsaved,
                "error": self._saver.error,
                "network": network.trouble(number) or network.state if network else "no network",
                "how": network.how if network else "",
                "newer": bool(network and network.is_newer(number)),
                "learning": self.learning.line if self.learning else "",
                "revision": opened.revision if opened else -1,
            }

    def image(self, number: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        return self._frame(number)[0].image

    def frame(self, number: int) -> Frame:
        """A frame by number. Raises InputError or ImageError if it cannot be read."""
        return self._frame(number)[0]

    def open(self, number: int) -> Patch:
        """The whole frame; the network looks at it next. Raises InputError or ImageError if it
        cannot be read."""
        with self._lock:
            opened = self._of(number)
            if self._current != number and self._current in self._opened:
                self._opened[self._current].drawing.pack()
            self._current = number
            if self.network is not None:
                self.network.want(number)
            if opened.proposed:
                self._propose(number, opened)
            return self._patch(opened, EVERYWHERE)

    def edit(self, number: int, request: Request) -> Patch:
        """Make one edit. Raises EditError, in words, if it cannot be made, and changes nothing."""
        with self._lock:
            opened = self._of(number)
            drawing, store = opened.drawing, self.store
            editor = Editor(drawing, store.class_names, store.no_ignore, lambda: self._seen(number))
            box, active, opened.live = editor.make(request, opened.live)
            opened.kept, opened.proposed = True, False
            opened.finished = request["op"] == "accept"
            opened.revision += 1
            self._saver.changed(number)
            return self._patch(opened, box, active if active in drawing.objects else 0)

    def look_again(self, number: int) -> None:
        """Let the network look at a frame again, with its newest weights: it then has new
        proposals, unless it was edited, and clicks are answered by them."""
        if self.network is None:
            raise EditError("there is no network")
        self.network.again(number)

    def unfinished(self) -> Origin | None:
        """The frame that is being edited; None if none is, or all of it was accepted."""
        with self._lock:
            opened = self._opened.get(self._current)
            return opened.origin if opened and opened.kept and not opened.finished else None

    def add_class(self, name: str) -> int:
        """A class with this name, which is made unless it exists; returns its number."""
        name = class_name(name)[:80]
        with self._lock:
            names = self.store.class_names
            if name not in names:
                if len(names) >= MOST_CLASSES:
                    raise EditError(f"expected at most {MOST_CLASSES} classes")
                self.store.add_class(name)
                self._saver.changed(CLASSES)
            return names.index(name)

    def ready(self, number: int) -> None:
        """The network has seen a frame."""
        with self._lock:
            opened = self._opened.get(number)
            if opened is not None and opened.proposed and number == self._current:
                self._propose(number, opened)
                opened.revision += 1

    def close(self) -> None:
        """Save what is not saved yet, and end. Raises OSError if the disk refuses."""
        if self.network is not None:
            self.network.stop()
        try:
            self._saver.close()
        finally:
            if self.learning is not None:
                self.learning.stop()
            self.store.close()

    # Frames

    def _frame(self, number: int) -> tuple[Frame, Origin]:
        if not 0 <= number < len(self.frames):
            raise EditError(f"expected a frame from 0 to {len(self.frames) - 1}, got {number}")
        with self._lock:
            if number not in self._images:
                self._images[number] = self.frames.frame(number)
                while len(self._images) > KEPT_IMAGES:
                    self._images.pop(next(iter(self._images)))
            return self._images[number]

    def _of(self, number: int) -> _Opened:
        """The frame, with its drawing unpacked."""
        opened = self._opened.get(number)
        if opened is None:
            frame, origin = self._frame(number)
            drawing = self.store.load(number, frame, origin)
            kept = drawing is not None
            if drawing is None and (truth := self.frames.truth(number)) is not None:
                made = {
                    int(i): Object(self._class_of_truth(int(c)), GIVEN)
                    for i, c in zip(truth.ids, truth.class_ids, strict=True)
                }
                ignore = truth.ignore if truth.ignore is None else truth.ignore.copy()
                if truth.crowd is not None:
                    ignore = (truth.crowd > 0) | (False if ignore is None else ignore)
                drawing = Drawing(truth.labels.astype(np.uint16), made, ignore)
            proposed = drawing is None
            if drawing is None:
                drawing = Drawing(np.zeros(frame.image.shape[:2], np.uint16), {})
            opened = self._opened[number] = _Opened(origin, drawing, kept, kept, proposed)
        opened.drawing.unpack()
        return opened

    def _class_of_truth(self, class_id: int) -> int:
        names = self.frames.class_names or ()
        return self.add_class(names[class_id])

    def _propose(self, number: int, opened: _Opened) -> None:
        """Show what the network sees, and what the frame before had."""
        seen = self.network.seen(number) if self.network is not None else None
        found = seen.instances if seen else None
        classes = classes_of(seen, self.store.class_names) if seen else []
        image = self.image(number)
        before = self._before(number)
        if before is not None and before[0].size == image.shape[:2]:
            drawing, image_before = before
            opened.drawing = proposals.moved(drawing, image_before, image, found, classes)
            drawing.pack()
        elif found is not None:
            opened.drawing = proposals.of_network(found, classes)

    def _before(self, number: int) -> tuple[Drawing, NDArray[np.uint8]] | None:
        """The frame before, if it is labelled, and its image."""
        if number == 0:
            return None
        try:
            opened = self._of(number - 1)
            if opened.kept and opened.drawing.objects:
                return opened.drawing, self.image(number - 1)
        except InstasegError:
            return None
        opened.drawing.pack()
        return None

    def _patch(self, opened: _Opened, box: Box, active: int = 0) -> Patch:
        drawing = opened.drawing
        labels, ignore = drawing.labels[box], drawing.ignore[box]
        facts = {
            "height": drawing.size[0],
            "width": drawing.size[1],
            "objects": [
                (number, one.class_id, one.made_by) for number, one in drawing.objects.items()
            ],
            "active": active,
            "undo": drawing.can_undo,
            "redo": drawing.can_redo,
            "kept": opened.kept,
            "revision": opened.revision,
            "name": opened.origin.key,
        }
        return Patch(box[0].start, box[1].start, labels.copy(), ignore.copy(), facts)

    def _seen(self, number: int) -> Seen:
        if self.network is None:
            raise EditError("there is no network: use the brush and the polygon")
        seen = self.network.seen(number)
        if seen is None:
            self.network.want(number)
            why = self.network.trouble(number) or self.network.state or "it comes next"
            raise EditError(f"the network has not seen this frame yet: {why}")
        return seen

    def _save(self, number: int) -> None:
        if number == CLASSES:
            self.store.save_classes()
            return
        with self._lock:
            frame, origin = self._frame(number)
            drawing = self._opened[number].drawing.copy()
        self.store.save(number, frame, origin, drawing)
