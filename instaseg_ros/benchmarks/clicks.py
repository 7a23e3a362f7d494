"""Counts the clicks that an object needs: `python -m instaseg_ros.benchmarks.clicks DATA`.

A simulated annotator who knows the truth clicks in the middle of the object, then again and again
in the middle of the largest error, at most MOST_CLICKS times: the number of clicks (NoC) to an IoU
of 0.85 and 0.90, as Sofiiuk et al. (2021, arXiv 2102.06583) count it. Beside it, the corners of the
coarsest polygon of the same IoU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.config import Config, parse_assignments
from instaseg_ros.configure import load_config
from instaseg_ros.datasets import Sample, open_dataset, spread
from instaseg_ros.labelling.clicks import Seeds, less, seeds_of
from instaseg_ros.labelling.regions import Region, component_at, stroke
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.tables import text_table

MOST_CLICKS = 20
TARGETS = (0.85, 0.90)
WHEEL = (0.125, 0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # widths that are tried for each click
BRUSHES = (1, 2, 4, 8, 16, 32, 64)  # radii, pixels
LARGE_PX = 2500
LEAST_PX = 100
Mask = NDArray[np.bool_]


class Start(NamedTuple):
    """How an annotator works. proposals: from the network's mask of the object, if there is one.
    widths: of each click, the best one is taken. brushes: a dab with one of them counts as a click,
    and is made where it is better."""

    name: str
    proposals: bool
    widths: Sequence[float] = WHEEL
    brushes: Sequence[float] = ()


STARTS = (
    Start("clicks alone", False, (1.0,)),
    Start("clicks, wheel", False),
    Start("clicks, wheel, brush", False, WHEEL, BRUSHES),
    Start("from proposals: clicks, wheel, brush", True, WHEEL, BRUSHES),
)


@dataclass
class Counted:
    """One object. pixels: of its mask. clicks: by start and target. corners: by target."""

    pixels: int
    clicks: dict[tuple[str, float], int]
    corners: dict[float, int]


def iou(one: Mask, other: Mask) -> float:
    """Of two masks (H, W) of which one has pixels."""
    return float(np.count_nonzero(one & other) / np.count_nonzero(one | other))


def middle(mask: Mask) -> tuple[float, float, float]:
    """x and y of the pixel farthest from a mask's border, and its distance; 0 without pixels."""
    inside = np.pad(mask.view(np.uint8), 1)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return float(x), float(y), float(distance[y, x])


def clicked(seeds: Seeds, truth: Mask, own: Mask, start: Start) -> Mask:
    """The mask after one more click, on the largest error; the same if none is better."""
    missing, wrong = middle(truth & ~own), middle(own & ~truth)
    adds = missing[2] >= wrong[2]
    x, y, _ = missing if adds else wrong
    regions: list[Region | None] = []
    if adds:
        distance = seeds.distance(x, y)
        whole = (seeds.mask(distance, width) for width in start.widths)
        around = own.any()
        regions += [component_at(m, x, y) if around else Region.of(m) for m in whole]
    else:
        regions += [less(seeds, own, x, y, width) for width in start.widths]
    place, size = (x + 0.5, y + 0.5), (own.shape[0], own.shape[1])
    regions += [stroke([place], radius, size) for radius in start.brushes]
    best, found = iou(own, truth), own
    for region in filter(None, regions):
        made = own.copy()
        made[region.box][region.mask] = adds
        if (value := iou(made, truth)) > best:
            best, found = value, made
    return found


def clicks_to(seeds: Seeds, truth: Mask, own: Mask, start: Start) -> dict[float, int]:
    """Clicks to each of TARGETS; MOST_CLICKS if they do not reach it."""
    return {target: clicks for target, (clicks, _) in masks_to(seeds, truth, own, start).items()}


def masks_to(seeds: Seeds, truth: Mask, own: Mask, start: Start) -> dict[float, tuple[int, Mask]]:
    """As `clicks_to`, with the mask that they make."""
    found: dict[float, tuple[int, Mask]] = {}
    for clicks in range(MOST_CLICKS + 1):
        reached = iou(own, truth)
        found |= {t: (clicks, own) for t in TARGETS if reached >= t and t not in found}
        if len(found) == len(TARGETS):
            break
        made = clicked(seeds, truth, own, start)
        if made is own:  # no click helps any more
            break
        own = made
    return {target: found.get(target, (MOST_CLICKS, own)) for target in TARGETS}


def corners_to(truth: Mask) -> dict[float, int]:
    """Corners of the coarsest polygons (one for each part) that reach each of TARGETS."""
    outlines, _ = cv2.findContours(truth.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    found: dict[float, int] = {}
    for epsilon in np.geomspace(max(truth.shape) / 4, 0.3, 40):
        polygons = [cv2.approxPolyDP(outline, float(epsilon), True) for outline in outlines]
        polygons = [one for one in polygons if len(one) > 2]
        canvas = np.zeros(truth.shape, np.uint8)
        cv2.fillPoly(canvas, polygons, 1)
        reached, corners = iou(canvas.view(bool), truth), sum(map(len, polygons))
        found |= {t: corners for t in TARGETS if reached >= t and t not in found}
    exact = sum(map(len, outlines))
    return {target: found.get(target, exact) for target in TARGETS}


def looked_at(pipeline: Pipeline, sample: Sample) -> tuple[Seeds, NDArray[np.uint16]]:
    """The seeds of a frame, and the labels that the network proposes."""
    inferred = pipeline.infer([sample.frame])
    seeds = seeds_of(pipeline.method.name, inferred.outputs, pipeline.config, inferred.geometry)
    assert seeds is not None
    return seeds, pipeline.finish(inferred)[0].instances.labels


def proposal_for(truth: Mask, labels: NDArray[np.uint16]) -> Mask:
    """The proposed mask that has most of an object; empty without any."""
    under = np.bincount(labels[truth])
    under[0] = 0
    return np.asarray(labels == under.argmax()) if under.any() else np.zeros_like(truth)


def count(
    pipeline: Pipeline, data: str, split: str, limit: int, starts: Sequence[Start] = STARTS
) -> Iterator[Counted]:
    """The objects of at least LEAST_PX pixels of some frames of a dataset."""
    dataset = open_dataset(data, split)
    for index in spread(len(dataset), limit):
        sample = dataset[index]
        seeds, labels = looked_at(pipeline, sample)
        for number in sample.ids.tolist():
            truth = np.asarray(sample.labels == number)
            pixels = int(np.count_nonzero(truth))
            if pixels < LEAST_PX:
                continue
            proposed = proposal_for(truth, labels)
            clicks: dict[tuple[str, float], int] = {}
            for start in starts:
                own = proposed if start.proposals else np.zeros_like(truth)
                reached = clicks_to(seeds, truth, own, start)
                clicks |= {(start.name, target): n for target, n in reached.items()}
            yield Counted(pixels, clicks, corners_to(truth))


def table(objects: Sequence[Counted], starts: Sequence[Start] = STARTS) -> str:
    """What objects need: mean, median, the share that MOST_CLICKS do not reach, and the mean over
    objects of more than LARGE_PX."""
    counts = {
        (start.name, target): [one.clicks[start.name, target] for one in objects]
        for start in starts
        for target in TARGETS
    }
    counts |= {("polygon's corners", t): [one.corners[t] for one in objects] for t in TARGETS}
    is_large = np.array([one.pixels > LARGE_PX for one in objects])
    rows = []
    for (name, target), given in counts.items():
        numbers = np.array(given)
        of_large = float(numbers[is_large].mean()) if is_large.any() else None
        failed = None if name.startswith("polygon") else float((numbers == MOST_CLICKS).mean())
        mean, median = float(numbers.mean()), float(np.median(numbers))
        rows.append((name, target, mean, median, failed, of_large))
    large = f"{is_large.sum()} > {LARGE_PX} px"
    titles = ("", "to IoU", "mean", "median", f"not in {MOST_CLICKS}", large)
    return text_table(titles, rows, ("", ".2f", ".1f", ".0f", ".0%", ".1f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="`synthetic`, or a dataset")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=20, help="frames, evenly spread")
    parser.add_argument("--weights", default=Config().weights)
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[])
    args = parser.parse_args()
    overrides = {**parse_assignments(args.set), "weights": args.weights}
    pipeline = Pipeline(load_config(overrides=overrides))
    objects = [*count(pipeline, args.data, args.split, args.limit)]
    print(f"{args.data} {args.split}, {pipeline.config.weights}: {len(objects)} objects")
    print(table(objects) if objects else "no objects")


if __name__ == "__main__":
    main()
