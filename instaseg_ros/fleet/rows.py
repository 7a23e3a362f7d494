"""The rows of an evaluated recording: its frames, its objects, and what they were judged to be.

They hold every count that metrics need, so that numbers made of rows equal those of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import judge
from instaseg_ros.evaluation.metrics.tracking import TrackedFrame
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class
from instaseg_ros.fleet.pictures import Picture, Pictures, picture_of
from instaseg_ros.frames import Instances, Result
from instaseg_ros.localization import locate
from instaseg_ros.rays import sight
from instaseg_ros.samples import Sample

Array = NDArray[Any]
Table = dict[str, Array]

FRAME, TRUTH, PREDICTION, PAIR, PICTURE = KINDS = (
    *("frame", "truth", "prediction", "pair"),
    "picture",
)
OBJECTS, COUNTED = (TRUTH, PREDICTION), (TRUTH, PREDICTION, PAIR)
GOOD, BAD, EXCUSED = 1, 2, 3
# By these numbers; 0: the class is not evaluated.
VERDICTS = {TRUTH: (None, "found", "missed", "excused")}
VERDICTS[PREDICTION] = (None, "right", "wrong", "excused")
SECOND_NS, MINUTE_NS = 1_000_000_000, 60_000_000_000


class Column(NamedTuple):
    """A column: its SQL type, in rows of which kinds it may have a value, and its meaning."""

    name: str
    type: str
    kinds: tuple[str, ...]
    meaning: str


COLUMNS = (
    Column("kind", "VARCHAR", KINDS, "`frame`, `truth`, `prediction`, `pair` or `picture`"),
    Column("recording", "VARCHAR", KINDS, "name of the recording in this run"),
    Column("frame", "INTEGER", KINDS, "number of the frame in the recording, from 0"),
    Column("stamp_ns", "BIGINT", KINDS, "stamp of the image, nanoseconds"),
    Column("minute", "INTEGER", KINDS, "whole minutes since the first frame"),
    Column("received_ns", "BIGINT", (FRAME,), "when the image was received, nanoseconds"),
    Column("height", "INTEGER", (FRAME,), "of the image, pixels"),
    Column("width", "INTEGER", (FRAME,), "of the image, pixels"),
    Column("dropped", "BOOLEAN", (FRAME,), "whether the robot gave no result for it"),
    Column("latency_ms", "DOUBLE", (FRAME,), "of a live result, until its receipt"),
    Column("ms", "DOUBLE", (FRAME,), "of a result made now, all stages"),
    Column("objects", "INTEGER", (FRAME,), "true objects to be found"),
    Column("found", "INTEGER", (FRAME,), "those of them that were found"),
    Column("missed", "INTEGER", (FRAME,), "those that were not"),
    Column("wrong", "INTEGER", (FRAME,), "wrong predictions"),
    Column("min_pixels", "DOUBLE", (FRAME,), "smaller true objects need not be found"),
    Column(
        "place", "INTEGER", (TRUTH, PREDICTION, PAIR), "number in the frame; of a pair the truth's"
    ),
    Column("other", "INTEGER", (PAIR,), "of a pair: number of the prediction in the frame"),
    Column("id", "INTEGER", OBJECTS, "label value"),
    Column("class", "VARCHAR", OBJECTS, "name of the class"),
    Column("verdict", "VARCHAR", OBJECTS, "null where the class is not evaluated"),
    Column("score", "FLOAT", (PREDICTION,), "0 to 1"),
    Column("px", "BIGINT", (TRUTH, PREDICTION, PAIR), "pixels; of a pair those in common"),
    Column("ignored_px", "BIGINT", (PREDICTION,), "pixels of it on ignored ground"),
    Column("iou", "DOUBLE", OBJECTS, "largest with an object of its class on the other side"),
    Column("partner", "INTEGER", OBJECTS, "label value of its match on the other side"),
    Column("switched", "BOOLEAN", (TRUTH,), "with tracking: matched by another id than before"),
    Column("distance_m", "DOUBLE", OBJECTS, "median depth, where there is depth"),
    Column("jpeg", "BLOB", (PICTURE,), "the image, at most 640 pixels wide"),
    Column("outlines", "VARCHAR", (PICTURE,), "JSON: its objects, as paths of SVG on the picture"),
)


class Facts(NamedTuple):
    """What is known of a frame besides its counts; see COLUMNS."""

    dropped: bool = False
    latency_ms: float | None = None


class Side(NamedTuple):
    """What one side's N regions were judged to be: verdict (N,) as in VERDICTS; iou (N,); partner
    (N,) place of the match on the other side, or -1."""

    verdict: Array
    iou: Array
    partner: Array

    @classmethod
    def unknown(cls, count: int) -> Side:
        return cls(np.zeros(count, np.int64), np.zeros(count), np.full(count, -1))


def judged(counts: FrameCounts) -> tuple[Side, Side]:
    """The verdicts on truth and predictions, at IoU 0.5 within a class."""
    truth, predicted = Side.unknown(len(counts.truth_px)), Side.unknown(len(counts.predicted_px))
    truth.verdict[counts.truth_class >= 0] = EXCUSED  # those that need not be found
    for class_id in np.unique(np.concatenate([counts.truth_class, counts.predicted_class])):
        if class_id < 0:
            continue
        rows = np.flatnonzero(counts.counted & (counts.truth_class == class_id))
        columns = np.flatnonzero(counts.predicted_class == class_id)
        one = judge(of_class(counts, int(class_id)))
        truth.verdict[rows] = np.where(one.match.any(1), GOOD, BAD)
        predicted.verdict[columns] = np.where(
            one.match.any(0), GOOD, np.where(one.wrong, BAD, EXCUSED)
        )
        truth.iou[rows] = one.iou.max(1, initial=0.0)
        predicted.iou[columns] = one.iou.max(0, initial=0.0)
        r, c = np.nonzero(one.match)
        truth.partner[rows[r]], predicted.partner[columns[c]] = columns[c], rows[r]
    return truth, predicted


class Rows:
    """Collects the rows of one recording, by the name that it has in the run, with pictures of some
    frames.

    truth_names, predicted_names: class names by the class ids of samples and results. tracking:
    whether predicted ids last, so that it can be told when they switch. start, first_ns: number of
    the first frame that is added, and stamp of the recording's first frame (None: the same one).
    """

    def __init__(
        self,
        recording: str,
        truth_names: Sequence[str],
        predicted_names: Sequence[str],
        tracking: bool,
        start: int = 0,
        first_ns: int | None = None,
    ) -> None:
        self._start = start
        self._recording = recording
        self._names = {TRUTH: np.array(truth_names), PREDICTION: np.array(predicted_names)}
        self._tracking = tracking
        self._last: dict[tuple[int, int], int] = {}  # predicted id by class and true id
        self._first_ns = first_ns
        self._parts: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        self._pictures = Pictures()

    def add(
        self, sample: Sample, result: Result, counts: FrameCounts, facts: Facts | None = None
    ) -> None:
        """Append a frame. Its truth has no groups."""
        frame, found, facts = sample.frame, result.instances, facts or Facts()
        truth, predicted = judged(counts)
        true_ids, ids = sample.ids.astype(np.int64), found.ids.astype(np.int64)
        partners = _at(ids, truth.partner), _at(true_ids, predicted.partner)
        distances = _distances(sample, found)
        first_ns = frame.stamp_ns if self._first_ns is None else self._first_ns
        self._first_ns = first_ns
        where = {
            "frame": self._start + len(self._parts[FRAME]),
            "stamp_ns": frame.stamp_ns,
            "minute": (frame.stamp_ns - first_ns) // MINUTE_NS,
        }
        rows, columns = np.nonzero(counts.overlap)
        parts: dict[str, dict[str, Any]] = {
            FRAME: {
                "received_ns": _or_nothing(frame.received_ns, np.int64),
                "height": frame.image.shape[0],
                "width": frame.image.shape[1],
                "dropped": facts.dropped,
                "latency_ms": _or_nothing(facts.latency_ms, np.float64),
                "ms": _or_nothing(sum(result.stage_ms.values()) or None, np.float64),
                "objects": int((counts.counted).sum()),
                "found": int((truth.verdict == GOOD).sum()),
                "missed": int((truth.verdict == BAD).sum()),
                "wrong": int((predicted.verdict == BAD).sum()),
                "min_pixels": counts.min_pixels,
            },
            TRUTH: {
                "place": np.arange(len(true_ids)),
                "id": true_ids,
                "class": sample.class_ids,
                "verdict": truth.verdict,
                "px": counts.truth_px,
                "iou": truth.iou,
                "partner": partners[0],
                "switched": self._switched(sample, partners[0]),
                "distance_m": distances[0],
            },
            PREDICTION: {
                "place": np.arange(len(ids)),
                "id": ids,
                "class": found.class_ids,
                "verdict": predicted.verdict,
                "score": counts.scores,
                "px": counts.predicted_px,
                "ignored_px": counts.ignored_px,
                "iou": predicted.iou,
                "partner": partners[1],
                "distance_m": distances[1],
            },
            PAIR: {"place": rows, "other": columns, "px": counts.overlap[rows, columns]},
        }
        for kind, values in parts.items():
            count = 1 if kind == FRAME else len(values["place"])
            everywhere = {name: np.full(count, value) for name, value in where.items()}
            self._parts[kind].append({**everywhere, **values})
        self._pictures.offer(
            where["frame"],
            (frame.stamp_ns - first_ns) // SECOND_NS,
            int((truth.verdict == BAD).sum() + (predicted.verdict == BAD).sum()),
            lambda: self._picture(sample, found, parts),
        )

    def tables(self) -> dict[str, Table]:
        """By kind the columns (N,) that have values; masked where one has none."""
        tables = {}
        for kind, parts in self._parts.items():
            if not parts:
                continue
            table = {
                name: np.ma.concatenate([np.ma.atleast_1d(part[name]) for part in parts])
                for name in parts[0]
            }
            if kind in OBJECTS:
                table["class"] = self._names[kind][table["class"].astype(np.int64)].astype(object)
                table["verdict"] = np.array(VERDICTS[kind], object)[table["verdict"]]
            table["recording"] = np.full(len(table["frame"]), self._recording, object)
            tables[kind] = table
        if kept := self._pictures.kept():
            chosen = np.array(list(kept)) - self._start
            tables[PICTURE] = {
                name: tables[FRAME][name][chosen]
                for name in ("frame", "stamp_ns", "minute", "recording")
            } | {
                name: np.array([getattr(one, name) for one in kept.values()], object)
                for name in Picture._fields
            }
        return tables

    def _picture(
        self, sample: Sample, found: Instances, parts: Mapping[str, dict[str, Any]]
    ) -> Picture:
        """The frame with its objects as they are in the rows of both kinds."""
        said = {}
        for kind in OBJECTS:
            keys = ("id", "class", "verdict", "partner", "iou", "score")
            columns = {key: parts[kind][key] for key in keys if key in parts[kind]}
            columns["class"] = self._names[kind][columns["class"].astype(np.int64)]
            columns["verdict"] = np.array(VERDICTS[kind], object)[columns["verdict"]]
            for key in ("iou", "score"):
                if key in columns:
                    columns[key] = np.round(columns[key].astype(float), 3)
            rows = zip(*(column.tolist() for column in columns.values()), strict=True)
            said[kind] = [dict(zip(columns, row, strict=True)) for row in rows]
        sides = (sample.labels, said[TRUTH]), (found.labels, said[PREDICTION])
        return picture_of(sample.frame.image, *sides)

    def _switched(self, sample: Sample, partners: Array) -> Array:
        """(G,) bool, masked without tracking; see `clear_counts`."""
        switched = np.ma.masked_all(len(partners), bool)
        if not self._tracking:
            return switched
        objects = zip(sample.class_ids.tolist(), sample.ids.tolist(), strict=True)
        for row, (true, partner) in enumerate(zip(objects, partners.tolist(), strict=True)):
            switched[row] = partner is not None and self._last.get(true, partner) != partner
            if partner is not None:
                self._last[true] = partner
        return switched


def joined(parts: Sequence[Mapping[str, Table]]) -> dict[str, Table]:
    """The tables of a recording's consecutive parts as one, with the pictures that are kept of a
    whole recording."""
    tables = {
        kind: {
            name: np.ma.concatenate([part[kind][name] for part in parts]) for name in parts[0][kind]
        }
        for kind in parts[0]  # every part has frames, and a picture of one
    }
    pictures, chosen = tables[PICTURE], _chosen(tables[FRAME], tables[PICTURE])
    return {**tables, PICTURE: {name: column[chosen] for name, column in pictures.items()}}


def _chosen(frames: Table, pictures: Table) -> Array:
    """Which of the pictures (N,) are kept of a recording with all these frames: bool."""
    errors = frames["missed"] + frames["wrong"]
    seconds = (frames["stamp_ns"] - frames["stamp_ns"][0]) // SECOND_NS
    choice = Pictures(len(errors))
    for number, *picture in zip(*(pictures[k] for k in ("frame", *Picture._fields)), strict=True):
        draw = partial(Picture, *picture)
        choice.offer(int(number), int(seconds[number]), int(errors[number]), draw)
    return np.isin(pictures["frame"], list(choice.kept()))


def _or_nothing(value: Any, kind: type) -> Array:
    """(1,), masked for None."""
    return np.ma.masked_all(1, kind) if value is None else np.ma.array([value], kind)


def _at(ids: Array, places: Array) -> Array:
    """The ids at the places, masked where a place is -1."""
    missing = places < 0
    return np.ma.array(np.append(ids, 0)[places], mask=missing)


def _distances(sample: Sample, found: Instances) -> tuple[Array, Array]:
    """Median depth of the true objects (G,) and of the predictions (P,), masked where unknown."""
    frame = sample.frame
    both = np.ma.masked_all(len(sample.ids)), np.ma.masked_all(len(found))
    if frame.depth is None or frame.intrinsics is None:
        return both
    rays = sight(frame)
    zeros = np.zeros((len(sample.ids), 4), np.float32)
    truth = Instances(
        labels=sample.labels,
        ids=sample.ids,
        class_ids=sample.class_ids,
        scores=zeros[:, 0],
        boxes_xyxy=zeros,
        centers_xy=zeros[:, :2],
        bandwidths=zeros[:, :2],
    )
    for distances, instances in zip(both, (truth, found), strict=True):
        located = locate(instances, frame.depth, rays)
        distances[located.rows] = located.distances_m
    return both


class Stored(NamedTuple):
    """What rows say of one frame. truth_m, predicted_m: distances (G,) and (P,), NaN: unknown."""

    recording: str
    stamp_ns: int
    minute: int
    tracked: TrackedFrame
    truth_m: Array
    predicted_m: Array
    dropped: bool
    latency_ms: float | None
    ms: float | None


def frames_of(tables: Mapping[str, Table], class_names: Sequence[str]) -> Iterator[Stored]:
    """The frames of one recording's rows, as they were evaluated.

    tables: by kind, ordered by frame and place, with all columns of the kind, masked where one has
    no value. class_names: those that were evaluated; a class index is a place in it.
    """
    frames = tables[FRAME]
    numbers = frames["frame"]
    edges = (
        {
            kind: np.searchsorted(tables[kind]["frame"], np.append(numbers, numbers[-1] + 1))
            for kind in COUNTED
        }
        if len(numbers)
        else {}
    )
    index = {name: place for place, name in enumerate(class_names)}
    classes = {kind: _class_ids(tables[kind], index) for kind in OBJECTS}
    for k in range(len(numbers)):
        spans = {kind: slice(*ends[k : k + 2].tolist()) for kind, ends in edges.items()}
        truth, predicted, overlap = (
            {name: column[spans[kind]] for name, column in tables[kind].items()} for kind in COUNTED
        )
        table = np.zeros((len(truth["id"]), len(predicted["id"])), np.int64)
        table[overlap["place"], overlap["other"]] = overlap["px"]
        counts = FrameCounts(
            overlap=table,
            truth_px=np.asarray(truth["px"], np.int64),
            predicted_px=np.asarray(predicted["px"], np.int64),
            ignored_px=np.asarray(predicted["ignored_px"], np.int64),
            truth_class=classes[TRUTH][spans[TRUTH]],
            predicted_class=classes[PREDICTION][spans[PREDICTION]],
            scores=np.asarray(predicted["score"], np.float32),
            uncounted=np.zeros(len(truth["id"]), bool),
            min_pixels=float(frames["min_pixels"][k]),
        )
        ids = [np.asarray(side["id"], np.int64) for side in (truth, predicted)]
        metres = [
            np.ma.filled(side["distance_m"].astype(float), np.nan) for side in (truth, predicted)
        ]
        latency_ms, ms = (
            None if frames[name][k] is np.ma.masked else float(frames[name][k])
            for name in ("latency_ms", "ms")
        )
        yield Stored(
            str(frames["recording"][k]),
            int(frames["stamp_ns"][k]),
            int(frames["minute"][k]),
            TrackedFrame(counts, *ids),
            metres[0],
            metres[1],
            bool(frames["dropped"][k]),
            latency_ms,
            ms,
        )


def _class_ids(table: Table, index: Mapping[str, int]) -> Array:
    """(N,) int64: the class by its place, -1 where it is not evaluated."""
    places = np.array([index.get(name, -1) for name in table["class"].tolist()], np.int64)
    return np.where(np.ma.getmaskarray(table["verdict"]), -1, places)


def sequences_of(frames: Sequence[Stored]) -> list[list[TrackedFrame]]:
    """The frames by recording, for tracking metrics."""
    groups = groupby(frames, key=lambda frame: frame.recording)
    return [[frame.tracked for frame in group] for _, group in groups]
