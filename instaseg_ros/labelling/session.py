"""What the page works on: the frames, their drawings, the network and the dataset."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.errors import InstasegError
from instaseg_ros.frames import Frame
from instaseg_ros.labelling import proposals
from instaseg_ros.labelling.editing import BRUSH, CLICK, GIVEN, Drawing, EditError, Object
from instaseg_ros.labelling.frames import Frames, Origin
from instaseg_ros.labelling.network import Network, Seen
from instaseg_ros.labelling.regions import Region, component_at, polygon, stroke
from instaseg_ros.labelling.store import Store
from instaseg_ros.samples import class_name

SAVE_AFTER_S, RETRY_AFTER_S = 0.2, 2.0
MOST_CLASSES = 200
KEPT_IMAGES = 4
CLASSES = -1  # among what is to be saved: no frame, but the classes
NARROWEST, WIDEST = 1 / 8, 8.0  # widths of a click
EVERYWHERE = slice(0, None), slice(0, None)

log = logging.getLogger(__name__)
Box = tuple[slice, slice]


@dataclass
class _LiveClick:
    """The last edit, while its width can still be changed. distance: (h, w) float32, as `Seeds`
    gives it."""

    request: dict[str, Any]
    distance: NDArray[np.float32]


@dataclass
class _Opened:
    """A frame that was looked at. revision: counts what the page has to fetch again. kept: the
    dataset has it, or is about to. proposed: what it shows may be replaced by better proposals."""

    origin: Origin
    drawing: Drawing
    kept: bool
    proposed: bool
    revision: int = 0
    live: _LiveClick | None = None


class Patch(NamedTuple):
    """What an edit changed. labels, ignore: of the frame within the box. active: the label value to
    go on with; 0: none."""

    top: int
    left: int
    labels: NDArray[np.uint16]
    ignore: NDArray[np.bool_]
    facts: dict[str, Any]


class Session:
    """Opens, edits and saves frames; every method may be called from any thread.

    network_classes: the class names of the network's weights.
    """

    def __init__(self, frames: Frames, store: Store, network_classes: Sequence[str] = ()) -> None:
        self.frames, self.store = frames, store
        self.network: Network | None = None
        self._network_classes = network_classes
        self._lock = threading.RLock()
        self._opened: dict[int, _Opened] = {}
        self._images: dict[int, tuple[Frame, Origin]] = {}  # the last few, by number
        self._current = -1
        self._dirty: dict[int, int] = {}  # changes that are not saved, by frame
        self._saving = threading.Condition(self._lock)
        self._error = ""
        self._ended = False
        self._saver = threading.Thread(target=self._save_all, daemon=True, name="saver")
        self._saver.start()

    # What the page asks for

    def state(self) -> dict[str, Any]:
        with self._lock:
            labelled = self.store.labelled() | {n for n, o in self._opened.items() if o.kept}
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
                "unsaved": len(self._dirty),
                "error": self._error,
                "network": network.trouble(number) or network.state if network else "no network",
                "how": network.how if network else "",
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

    def edit(self, number: int, request: dict[str, Any]) -> Patch:
        """Make one edit. Raises EditError, in words, if it cannot be made, and changes nothing."""
        with self._lock:
            opened = self._of(number)
            drawing = opened.drawing
            live, opened.live = opened.live, None
            try:
                box, active = self._apply(number, opened, live, request)
            except EditError:
                opened.live = live
                raise
            opened.kept, opened.proposed = True, False
            opened.revision += 1
            self._changed(number)
            return self._patch(opened, box, active if active in drawing.objects else 0)

    def add_class(self, name: str) -> int:
        """A class with this name, which is made unless it exists; returns its number."""
        name = class_name(name)[:80]
        with self._lock:
            names = self.store.class_names
            if name not in names:
                if len(names) >= MOST_CLASSES:
                    raise EditError(f"expected at most {MOST_CLASSES} classes")
                self.store.add_class(name)
                self._changed(CLASSES)
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
        with self._lock:
            self._ended = True
            self._saving.notify()
        self._saver.join()
        try:
            for number in [*self._dirty]:
                self._save(number)
        finally:
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
            opened = self._opened[number] = _Opened(origin, drawing, kept, proposed)
        opened.drawing.unpack()
        return opened

    def _class_of_truth(self, class_id: int) -> int:
        names = self.frames.class_names or ()
        return self.add_class(names[class_id])

    def _classes(self) -> list[int]:
        """The dataset's class of each of the network's, -1 for none."""
        names = self.store.class_names
        return [names.index(name) if name in names else -1 for name in self._network_classes]

    def _propose(self, number: int, opened: _Opened) -> None:
        """Show what the network sees, and what the frame before had."""
        seen = self.network.seen(number) if self.network is not None else None
        found = seen.instances if seen else None
        image = self.image(number)
        before = self._before(number)
        if before is not None and before[0].size == image.shape[:2]:
            drawing, image_before = before
            opened.drawing = proposals.moved(drawing, image_before, image, found, self._classes())
            drawing.pack()
        elif found is not None:
            opened.drawing = proposals.of_network(found, self._classes())

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

    # Edits

    def _apply(
        self, number: int, opened: _Opened, live: _LiveClick | None, request: dict[str, Any]
    ) -> tuple[Box, int]:
        """Make an edit; returns where it was made, and the object to go on with."""
        drawing, into = opened.drawing, request["into"]
        match request["op"]:
            case "click":
                return self._click(number, opened, request)
            case "width":
                return self._widen(number, opened, live, request["width"])
            case "brush":
                region = stroke(request["path"], request["radius"], drawing.size)
                into = drawing.add(region, BRUSH, into, request["class_id"] or 0, over=True)
            case "polygon":
                region = polygon(request["path"], drawing.size)
                into = drawing.add(region, BRUSH, into, request["class_id"] or 0, over=True)
            case "erase":
                region = stroke(request["path"], request["radius"], drawing.size)
                drawing.take(region, BRUSH, into)
            case "stroke":
                into = drawing.cut_or_join(request["path"])[0]
            case "ignore" if self.store.no_ignore:
                raise EditError(self.store.no_ignore)
            case "ignore":
                drawing.set_ignore(polygon(request["path"], drawing.size))
            case "class":
                drawing.set_class(into, request["class_id"] or 0)
            case "remove":
                drawing.remove(into)
            case "undo":
                return drawing.undo(), into
            case "redo":
                return drawing.redo(), into
            case "propose":
                self._add_proposals(number, drawing)
            case "accept":
                return (slice(0, 0), slice(0, 0)), into
            case unknown:
                raise EditError(f"there is no edit named {unknown!r:.40}")
        return drawing.last_box(), into

    def _click(self, number: int, opened: _Opened, request: dict[str, Any]) -> tuple[Box, int]:
        from instaseg_ros.labelling import clicks

        seeds, drawing = self._seeds(number), opened.drawing
        x, y, width, into = (request[key] for key in ("x", "y", "width", "into"))
        distance = seeds.distance(x, y)
        if request["mode"] == "less":
            region = clicks.less(seeds, drawing.labels == into, x, y, width) if into else None
            drawing.take(region, CLICK, into)
        else:
            whole = seeds.mask(distance, width)
            region = component_at(whole, x, y) if into else Region.of(whole)
            class_id = request["class_id"]
            if class_id is None:
                class_id = max(self._classes()[seeds.class_at(x, y)], 0)
            into = drawing.add(region, CLICK, into, class_id)
        opened.live = _LiveClick(request, distance)
        return drawing.last_box(), into

    def _widen(
        self, number: int, opened: _Opened, live: _LiveClick | None, width: float
    ) -> tuple[Box, int]:
        """Make the last click again with another width, in its place."""
        if live is None:
            raise EditError("only the last click can be widened or narrowed, right after it")
        drawing = opened.drawing
        before = drawing.undo()
        try:
            box, into = self._click(number, opened, {**live.request, "width": width})
        except EditError:
            drawing.redo()
            raise
        return _union(before, box), into

    def _seeds(self, number: int) -> Any:
        seen = self._seen(number)
        if seen.seeds is None:
            assert self.network is not None
            raise EditError(self.network.how)
        return seen.seeds

    def _seen(self, number: int) -> Seen:
        if self.network is None:
            raise EditError("there is no network: use the brush and the polygon")
        seen = self.network.seen(number)
        if seen is None:
            self.network.want(number)
            why = self.network.trouble(number) or self.network.state or "it comes next"
            raise EditError(f"the network has not seen this frame yet: {why}")
        return seen

    def _add_proposals(self, number: int, drawing: Drawing) -> None:
        found = proposals.added(drawing, self._seen(number).instances, self._classes())
        drawing.replace(found.labels, found.objects)

    # Saving

    def _changed(self, number: int) -> None:
        """A frame, or the list of classes, has to be saved."""
        self._dirty[number] = self._dirty.get(number, 0) + 1
        self._saving.notify()

    def _save_all(self) -> None:
        while True:
            with self._lock:
                while not self._dirty and not self._ended:
                    self._saving.wait()
                if self._ended:
                    return
            time.sleep(SAVE_AFTER_S)  # a stroke or turning a wheel is many edits
            try:
                with self._lock:
                    number = next(iter(self._dirty))
                self._save(number)
            except Exception as error:  # whatever it is, the frame stays to be saved
                with self._lock:
                    self._error = f"not saved: {error}"
                log.error("frame %d is not saved, trying again: %s", number, error)
                time.sleep(RETRY_AFTER_S)
            else:
                self._error = ""

    def _save(self, number: int) -> None:
        with self._lock:
            changes = self._dirty[number]
            if number != CLASSES:
                frame, origin = self._frame(number)
                drawing = self._opened[number].drawing.copy()
        if number == CLASSES:
            self.store.save_classes()
        else:
            self.store.save(number, frame, origin, drawing)
        with self._lock:
            self._dirty[number] -= changes
            if not self._dirty[number]:
                del self._dirty[number]


def _union(one: Box, other: Box) -> Box:
    """The box around two."""
    boxes = [box for box in (one, other) if box[0].stop and box[1].stop]
    if not boxes:
        return one
    rows, columns = zip(*boxes, strict=True)
    return (
        slice(min(s.start for s in rows), max(s.stop for s in rows)),
        slice(min(s.start for s in columns), max(s.stop for s in columns)),
    )
