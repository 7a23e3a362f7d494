"""What a page shows of each recording: a thinned timeline, id switches, and which pictures."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from instaseg_ros.errors import InputError
from instaseg_ros.fleet.parquet import picture_sizes, read_pictures
from instaseg_ros.fleet.rows import BAD, SECOND_NS, Stored, judged

RECORDINGS = 1000  # most on a page
# Most of a recording, least, and of all recordings together (more only to give each the least).
MARKS = 600, 20, 20_000  # of a timeline
STRIPS = 24, 2, 2_000  # objects whose ids are shown
RUNS = 80  # most stretches of one of these
PICTURES_BYTES = 6 << 20  # of all pictures of a page, before they become text


class Seen(NamedTuple):
    """A frame as a page knows it. number: in its recording, from 0. time_s: since the first frame.
    ms: latency, or of a result made now; None: unknown. ids: of each true object that is to be
    found, (class, id), the predicted id, 0 where it is missed."""

    recording: str
    number: int
    stamp_ns: int
    time_s: float
    objects: int
    missed: int
    wrong: int
    dropped: bool
    ms: float | None
    ids: dict[tuple[int, int], int]

    @property
    def errors(self) -> int:
        return self.missed + self.wrong


Drives = dict[str, list[Seen]]  # by recording, in order


def seen_of(frames: Iterable[Stored]) -> Drives:
    """The frames of each recording."""
    drives: Drives = {}
    for name, group in groupby(frames, key=lambda one: one.recording):
        own = list(group)
        drives[name] = [_seen(number, one, own[0].stamp_ns) for number, one in enumerate(own)]
    return drives


def _seen(number: int, frame: Stored, first_ns: int) -> Seen:
    counts, (truth, predicted) = frame.tracked.counts, judged(frame.tracked.counts)
    partners = np.append(frame.tracked.predicted_ids, 0)[truth.partner]
    keys = zip(counts.truth_class.tolist(), frame.tracked.truth_ids.tolist(), strict=True)
    ids = {k: p for k, p, c in zip(keys, partners.tolist(), counts.counted, strict=True) if c}
    return Seen(
        frame.recording,
        number,
        frame.stamp_ns,
        (frame.stamp_ns - first_ns) / SECOND_NS,
        int(counts.counted.sum()),
        int((truth.verdict == BAD).sum()),
        int((predicted.verdict == BAD).sum()),
        frame.dropped,
        frame.ms if frame.latency_ms is None else frame.latency_ms,
        ids,
    )


def moments(drives: Drives, count: int) -> list[Seen]:
    """The worst frame of each second, the most errors first."""
    best: dict[tuple[str, int], Seen] = {}
    for frame in (one for frames in drives.values() for one in frames):
        key = frame.recording, int(frame.time_s)
        if frame.errors > (best[key].errors if key in best else 0):
            best[key] = frame
    return sorted(best.values(), key=lambda one: (-one.errors, one.recording, one.number))[:count]


def timeline(frames: Sequence[Seen], switched: Mapping[int, int], most: int) -> dict[str, Any]:
    """Columns of at most `most` marks: of so many (`each`) consecutive frames each, the worst
    (`frame`) with its counts, the frames dropped, the id switches, and the largest latency."""
    each = math.ceil(len(frames) / most)
    groups = [frames[k : k + each] for k in range(0, len(frames), each)]
    worst = [max(group, key=lambda one: one.errors) for group in groups]
    known = [[one.ms for one in group if one.ms is not None] for group in groups]
    return {
        "each": each,
        "frames": len(frames),
        "frame": [one.number for one in worst],
        "time_s": [round(one.time_s, 2) for one in worst],
        "objects": [one.objects for one in worst],
        "missed": [one.missed for one in worst],
        "wrong": [one.wrong for one in worst],
        "dropped": [sum(one.dropped for one in group) for group in groups],
        "switches": [sum(switched.get(one.number, 0) for one in group) for group in groups],
        "ms": [round(max(ms), 1) if ms else None for ms in known],
    }


class Stretch(NamedTuple):
    """Frames `first` to `last` in which an object was there and had one predicted id; 0: missed."""

    first: int
    last: int
    id: int


def stretches_of(frames: Sequence[Seen]) -> dict[tuple[int, int], list[Stretch]]:
    """By true object, (class, id)."""
    found: dict[tuple[int, int], list[Stretch]] = {}
    for frame in frames:
        for key, partner in frame.ids.items():
            own = found.setdefault(key, [])
            if own and own[-1].id == partner and own[-1].last == frame.number - 1:
                own[-1] = own[-1]._replace(last=frame.number)
            else:
                own.append(Stretch(frame.number, frame.number, partner))
    return found


def switches_in(stretches: Sequence[Stretch]) -> list[int]:
    """The frames in which an object that was followed has another id than before."""
    matched = [one for one in stretches if one.id]
    return [b.first for a, b in pairwise(matched) if a.id != b.id]


def drive(
    frames: Sequence[Seen], class_names: Sequence[str], tracking: bool, recordings: int = 1
) -> dict[str, Any]:
    """All that a page of so many recordings shows of one but its pictures."""
    strips: list[dict[str, Any]] = []
    switched: dict[int, int] = {}
    stretches = stretches_of(frames) if tracking else {}
    for (class_id, true_id), own in stretches.items():
        switches = switches_in(own)
        for number in switches:
            switched[number] = switched.get(number, 0) + 1
        if switches:
            name = f"{class_names[class_id]} {true_id}"
            strips.append({"name": name, "switches": len(switches), "runs": own})
    strips.sort(key=lambda one: -one["switches"])
    kept = strips[: share(STRIPS, recordings)]
    return {
        **timeline(frames, switched, share(MARKS, recordings)),
        "strips": [{**one, "runs": one["runs"][:RUNS]} for one in kept],
        "objects_with_switches": len(strips),
        "runs_left_out": sum(max(0, len(one["runs"]) - RUNS) for one in kept),
    }


def share(bounds: tuple[int, int, int], recordings: int) -> int:
    """The part of each of so many recordings, within bounds as of MARKS."""
    most, least, together = bounds
    return max(least, min(most, together // recordings))


class Chosen(NamedTuple):
    """Pictures for JSON by recording and frame, and how many more were kept."""

    by_recording: dict[str, dict[int, dict[str, Any]]]
    left_out: int


def chosen_pictures(
    files: Mapping[str, Path], first: Sequence[Seen], most_bytes: int = PICTURES_BYTES
) -> Chosen:
    """Of the pictures in the files of rows, those of the frames `first`, in this order, then of
    all recordings in turn, spread over each, as many as fit."""
    sizes = {name: picture_sizes(file) for name, file in files.items()}
    wanted = [(one.recording, one.number) for one in first]
    rest = [[(name, number) for number in _spread(list(own))] for name, own in sizes.items()]
    for turn in range(max(map(len, rest), default=0)):
        wanted += [one[turn] for one in rest if turn < len(one)]
    numbers: dict[str, list[int]] = {name: [] for name in files}
    left_out, used = 0, 0
    for name, number in dict.fromkeys(wanted):
        size = sizes[name].get(number, 0) if name in sizes else 0
        if used + size > most_bytes:
            left_out += 1
        elif size:
            used += size
            numbers[name].append(number)
    return Chosen({name: shown(files[name], own) for name, own in numbers.items()}, left_out)


def shown(file: Path, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Pictures for JSON, by number of the frame. Raises InputError for a damaged one."""
    found = {}
    for number, one in read_pictures(file, numbers).items():
        try:
            outlines = json.loads(one.outlines)
            objects = {key: outlines[key] for key in ("size", "truth", "predicted")}
        except (ValueError, RecursionError, TypeError, KeyError) as error:
            raise InputError(
                f"rows {file}: the picture of frame {number} cannot be read: {error}"
            ) from error
        found[number] = {"jpeg": base64.b64encode(one.jpeg).decode(), **objects}
    return found


def _spread(numbers: list[int]) -> list[int]:
    """Reordered, so that those at the beginning are spread over all."""
    bits = max(1, (len(numbers) - 1).bit_length())
    order = sorted(range(len(numbers)), key=lambda k: f"{k:0{bits}b}"[::-1])
    return [numbers[k] for k in order]
