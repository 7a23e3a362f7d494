"""Makes the edits that the page asks for: clicks by the network, the rest by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.labelling import proposals
from instaseg_ros.labelling.editing import BRUSH, CLICK, Drawing, EditError
from instaseg_ros.labelling.network import Seen
from instaseg_ros.labelling.regions import Region, component_at, polygon, stroke

NARROWEST, WIDEST = 1 / 8, 8.0  # widths of a click
NOWHERE = slice(0, 0), slice(0, 0)

Box = tuple[slice, slice]
Request = dict[str, Any]


@dataclass(frozen=True)
class LiveClick:
    """The last edit, while its width can still be changed. distance: (h, w) float32, as `Seeds`
    gives it."""

    request: Request
    distance: NDArray[np.float32]


class Made(NamedTuple):
    """What an edit did. box: where. active: the object to go on with. live: a click whose width can
    still be changed."""

    box: Box
    active: int
    live: LiveClick | None = None


@dataclass(frozen=True)
class Editor:
    """Edits one frame. class_names: of the dataset. no_ignore: why there are no ignored pixels;
    empty if there are. seen: what the network sees; it raises EditError if it does not."""

    drawing: Drawing
    class_names: Sequence[str]
    no_ignore: str
    seen: Callable[[], Seen]

    def make(self, request: Request, live: LiveClick | None) -> Made:
        """Make an edit. Raises EditError, in words, if it cannot be made, and changes nothing."""
        drawing, into = self.drawing, request["into"]
        match request["op"]:
            case "click":
                return self._click(request)
            case "width":
                return self._widen(live, request["width"])
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
            case "ignore" if self.no_ignore:
                raise EditError(self.no_ignore)
            case "ignore":
                drawing.set_ignore(polygon(request["path"], drawing.size))
            case "class":
                drawing.set_class(into, request["class_id"] or 0)
            case "remove":
                drawing.remove(into)
            case "undo":
                return Made(drawing.undo(), into)
            case "redo":
                return Made(drawing.redo(), into)
            case "propose":
                seen = self.seen()
                classes = classes_of(seen, self.class_names)
                found = proposals.added(drawing, seen.instances, classes)
                drawing.replace(found.labels, found.objects)
            case "accept":
                return Made(NOWHERE, into)
            case unknown:
                raise EditError(f"there is no edit named {unknown!r:.40}")
        return Made(drawing.last_box(), into)

    def _click(self, request: Request) -> Made:
        from instaseg_ros.labelling import clicks  # imports torch

        seen, drawing = self.seen(), self.drawing
        seeds = seen.seeds
        if seeds is None:
            raise EditError(seen.how)
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
                class_id = max(classes_of(seen, self.class_names)[seeds.class_at(x, y)], 0)
            into = drawing.add(region, CLICK, into, class_id)
        return Made(drawing.last_box(), into, LiveClick(request, distance))

    def _widen(self, live: LiveClick | None, width: float) -> Made:
        """Make the last click again with another width, in its place."""
        if live is None:
            raise EditError("only the last click can be widened or narrowed, right after it")
        before = self.drawing.undo()
        try:
            made = self._click({**live.request, "width": width})
        except EditError:
            self.drawing.redo()
            raise
        return made._replace(box=_union(before, made.box))


def classes_of(seen: Seen, class_names: Sequence[str]) -> list[int]:
    """The dataset's class of each of the network's, -1 for none."""
    return [class_names.index(name) if name in class_names else -1 for name in seen.class_names]


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
