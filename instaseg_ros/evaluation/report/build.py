"""Builds the report of an evaluation: draws its frames, and writes everything as one page."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import dump
from instaseg_ros.datasets import Dataset, Sample, Sequences
from instaseg_ros.evaluation.matching import Ranked, judge
from instaseg_ros.evaluation.metrics import breakdown
from instaseg_ros.evaluation.metrics.average_precision import frame_losses
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class
from instaseg_ros.evaluation.report import plots
from instaseg_ros.evaluation.run import Evaluation, Seen
from instaseg_ros.evaluation.summary import COLUMNS, table_cells
from instaseg_ros.files import OutputFile
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.visualization import packed, paint
from instaseg_ros.visualization.names import boxes_of, write_names

PAGE = "report.html"
INLINED, BEST = 8, 4  # frames on the page
FOUND, LOST, EXCUSED = (43, 123, 186), (228, 87, 46), (150, 156, 163)  # RGB
WIDTH = 1600  # most pixels of a picture


class Picture(NamedTuple):
    """A frame as JPEG bytes, and a line about it."""

    jpeg: bytes
    caption: str

    @property
    def base64(self) -> str:
        """The JPEG as text for a page."""
        return base64.b64encode(self.jpeg).decode()


class Card(NamedTuple):
    """A figure and its explanation."""

    title: str
    svg: str
    caption: str


class Verdicts(NamedTuple):
    """The colour (3,) of each true region and prediction of a frame, and how many of each kind."""

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    found: int
    missed: int
    wrong: int


def write_report(
    found: Evaluation,
    summary: dict[str, Any],
    pipeline: Pipeline,
    title: str,
    output: OutputFile,
    worst: int = 0,
) -> None:
    """Write the folder `output`: report.html, and the `worst` frames as worst/RANK_NAME.jpg."""
    if found.seen is None:
        raise ValueError("expected an evaluation made with keep=True")
    losses = frame_losses(found.ranked.values())
    errors = [v.missed + v.wrong for v in map(verdicts, found.counts)]
    order = np.lexsort((np.negative(errors), -losses))
    shown = {
        int(k): _picture(found, int(k), losses[k], found.seen[k], pipeline.class_names)
        for k in dict.fromkeys([*order[: max(worst, INLINED)], *order[::-1][:BEST]])
    }
    try:
        output.part.mkdir(parents=True)
        if worst:
            (output.part / "worst").mkdir()
        for place, k in enumerate(order[:worst], 1):
            name = f"{place:02d}_{_name(found.dataset, found.indices[k])}.jpg"
            (output.part / "worst" / name).write_bytes(shown[int(k)].jpeg)
        text = _page(found, summary, pipeline, title, [int(k) for k in order], shown, worst)
        page = text.encode("utf-8", "replace")  # file names may be arbitrary bytes
        (output.part / PAGE).write_bytes(page)
        output.commit()
    finally:
        output.discard()


def verdicts(frame: FrameCounts) -> Verdicts:
    """The verdict on each region, at IoU 0.5 within a class."""
    hit = np.zeros(len(frame.truth_px), bool)
    right, wrong = np.zeros((2, len(frame.predicted_px)), bool)
    for class_id in np.unique(frame.predicted_class[frame.predicted_class >= 0]):
        found = judge(of_class(frame, int(class_id)))
        rows = frame.counted & (frame.truth_class == class_id)
        columns = frame.predicted_class == class_id
        hit[rows] = found.match.any(1)
        right[columns], wrong[columns] = found.match.any(0), found.wrong
    kinds = np.array([EXCUSED, FOUND, LOST], np.uint8)
    return Verdicts(
        kinds[np.where(frame.counted, np.where(hit, 1, 2), 0)],
        kinds[np.where(right, 1, np.where(wrong, 2, 0))],
        int(right.sum()),
        int((frame.counted & ~hit).sum()),
        int(wrong.sum()),
    )


def _picture(
    found: Evaluation, k: int, loss: float, seen: Seen, class_names: Sequence[str]
) -> Picture:
    """Truth beside prediction, coloured by the verdict on each object. class_names: for `seen`."""
    dataset, index = found.dataset, found.indices[k]
    sample = dataset[index]
    verdict = verdicts(found.counts[k])
    image = sample.frame.image
    one_class = len(found.classes.names) == 1  # which goes without saying
    names = ["" if one_class else dataset.class_names[c] for c in sample.class_ids]
    left = _panel(image, _with_ignored(sample), sample.ids, verdict.truth, names)
    named = zip(seen.class_ids, seen.scores, strict=True)
    names = [f"{'' if one_class else class_names[c]} {s:.2f}" for c, s in named]
    right = _panel(image, seen.labels, seen.ids, verdict.predicted, names)
    gap = np.full((image.shape[0], 8, 3), 255, np.uint8)
    both = np.hstack([left, gap, right])
    if both.shape[1] > WIDTH:
        size = WIDTH, round(both.shape[0] * WIDTH / both.shape[1])
        both = cv2.resize(both, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", both[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    caption = (
        f"{_name(dataset, index)}: {verdict.found} found, {verdict.missed} missed, "
        f"{verdict.wrong} wrong; costs {loss:+.4f} AP"
    )
    return Picture(jpeg, caption)


def _panel(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    ids: NDArray[np.uint16],
    colors: NDArray[np.uint8],
    names: list[str],
) -> NDArray[np.uint8]:
    """Draw one side. colors: of `ids`, then of groups; names: of `ids`, written on lost ones."""
    palette = np.full((1 << 16, 3), EXCUSED, np.uint8)
    palette[ids] = colors[: len(ids)]
    picture = paint(image, labels, 0.45, packed(palette))
    lost = np.array([bool(name) for name in names], bool) & (colors[: len(ids)] == LOST).all(1)
    texts = [name.strip() for name, is_lost in zip(names, lost, strict=True) if is_lost]
    boxes = boxes_of(labels, ids[lost])
    write_names(picture, labels, ids[lost], boxes, texts, palette[ids[lost]])
    return picture


def _with_ignored(sample: Sample) -> NDArray[np.uint16]:
    """The label image, with an unused label on ignored pixels and groups."""
    labels = sample.labels.copy()
    for region in (sample.ignore, sample.crowd):
        if region is not None:
            labels[(region > 0) & (labels == 0)] = np.setdiff1d(np.arange(1, 1 << 16), sample.ids)[
                -1
            ]
    return labels


def _name(dataset: Dataset, index: int) -> str:
    """The name of the frame's file, or else of its sequence and index in the dataset."""
    files = dataset.files(index) if hasattr(dataset, "files") else ()
    if len(files) > 1:
        return files[0].stem
    sequence = f"{dataset.sequence(index)}_" if isinstance(dataset, Sequences) else ""
    return f"{sequence}frame_{index:05d}"


def _page(
    found: Evaluation,
    summary: dict[str, Any],
    pipeline: Pipeline,
    title: str,
    order: list[int],
    shown: dict[int, Picture],
    worst: int,
) -> str:
    from jinja2 import Environment, PackageLoader

    first = order[: max(worst, INLINED)]
    last = [k for k in order[::-1][:BEST] if k not in first]
    limits = [math.ceil(frame.min_pixels) for frame in found.counts]
    least = "-".join(map(str, sorted({min(limits), max(limits)})))
    runtime = f"{pipeline.runtime.name} {pipeline.runtime.precision}"
    objects = f"true objects of at least {least} pixels" if max(limits) > 1 else "every true object"
    rows = {**summary["per_class"], "mean": summary}
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True)
    return environment.get_template("page.html").render(
        title=title,
        subtitle=f"weights {pipeline.config.weights}, {runtime}; {objects}",
        remarks=found.classes.remarks,
        tiles=_tiles(found, summary),
        columns=["class", *COLUMNS.values()],
        classes=[[name, *table_cells(row)] for name, row in rows.items()],
        cards=_cards(found),
        stages=_timing_rows(found),
        galleries={
            "Worst frames": [shown[k] for k in first],
            "Best frames": [shown[k] for k in last],
        },
        key={"found, right": FOUND, "missed, wrong": LOST, "does not count": EXCUSED},
        config=dump(pipeline.config),
    )


def _tiles(found: Evaluation, summary: dict[str, Any]) -> dict[str, str]:
    total = np.sum([list(one.values()) for one in found.stage_ms], axis=1)
    return {
        **{name: f"{summary[k]:.3f}" for k, name in (("ap", "AP"), ("ap50", "AP50"), ("pq", "PQ"))},
        **({"COCO AP": f"{summary['coco']['ap']:.3f}"} if "coco" in summary else {}),
        "frames": f"{len(found.counts)}",
        "objects": f"{summary['objects']}",
        "ms per frame": f"{np.median(total):.0f}",
    }


def _cards(found: Evaluation) -> list[Card]:
    names, edges = found.classes.names, breakdown.TOUCHING_EDGES
    by_touching = breakdown.ap_by(found.counts, *_touching(found), edges, names)
    stages = {s: np.array([one[s] for one in found.stage_ms]) for s in found.stage_ms[0]}
    return [
        *accuracy_cards(found.counts, names, found.ranked),
        Card(
            "AP over occlusion",
            plots.bins_plot(by_touching, "percent of the border shared"),
            "Occlusion is measured by how much of an object's border touches other objects, "
            "in front or behind.",
        ),
        Card(
            "Time of each frame",
            plots.timing_plot(stages),
            "In the order of evaluation. The first frame of a size takes longer.",
        ),
    ]


def accuracy_cards(
    counts: Sequence[FrameCounts], names: Sequence[str], ranked: Mapping[str, Ranked]
) -> list[Card]:
    """What can be drawn of counts alone. ranked: `rankings` of them."""
    return [
        Card(
            "Precision over recall",
            plots.precision_recall_plot(ranked),
            "At IoU 0.5. A curve ends at the recall that the lowest score reaches.",
        ),
        Card(
            "AP over IoU",
            plots.overlap_plot(ranked),
            "How well masks fit: a steep fall means that objects are found with rough outlines.",
        ),
        Card(
            "AP over object size",
            plots.bins_plot(breakdown.ap_by_size(counts, names), "pixels of the object"),
            "Mean over the classes that have objects of that size.",
        ),
        Card(
            "Confusion between classes",
            plots.confusion_plot(breakdown.confusion(counts, len(names)), names),
            "Objects at IoU 0.5 with a prediction of any class; shade: share of the row.",
        ),
        Card(
            "Reliability of scores",
            plots.reliability_plot(breakdown.reliability(list(ranked.values()))),
            "Mean IoU of predictions with their best object, in tenths by score; below the line "
            "the network is overconfident.",
        ),
    ]


def _touching(found: Evaluation) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """The percentage of touching border for each row (groups: 0) and column of the counts."""
    sides = [seen.touching for seen in found.seen or ()]
    rows = [len(counts.truth_px) for counts in found.counts]
    truth = [np.pad(own, (0, n - len(own))) for (own, _), n in zip(sides, rows, strict=True)]
    return truth, [predicted for _, predicted in sides]


def _timing_rows(found: Evaluation) -> list[list[str]]:
    rows = []
    columns = {s: [one[s] for one in found.stage_ms] for s in found.stage_ms[0]}
    columns["total"] = [sum(one.values()) for one in found.stage_ms]
    for stage, values in columns.items():
        rows.append([stage, *(f"{value:.1f}" for value in np.percentile(values, [50, 99]))])
    return rows
