"""Evaluates where objects are found in space, on held-out sequences of the synthetic street:

python -m instaseg_ros.evaluation.location WEIGHTS

The masks are those that the weights find, matched with the true ones; depth is exact, or as noisy
as a stereo camera's. The truth is the centroid of what is visible of the object: the mean of its
true points. How far that is from the middle of the whole object stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate
from tqdm import tqdm

from instaseg_ros.configure import load_config
from instaseg_ros.datasets import Sample
from instaseg_ros.evaluation.matching import judge
from instaseg_ros.evaluation.overlaps import frame_counts, of_class
from instaseg_ros.evaluation.run import labelled
from instaseg_ros.frames import Instances
from instaseg_ros.localization import locate
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.rays import sight
from instaseg_ros.synthetic_street import held_out_street

BINS_M = (0, 5, 10, 15, 20, 30, 60)
WHOLE_M = (0, 30)  # the goal: a median error of at most 2 %
BASELINE_M = 0.12
DISPARITY_NOISE_PX = 0.2
SMEAR_PX = 5  # window of a stereo matcher, over which edges of depth are smeared
BLOB_PX = 6  # size of places without depth
BLIND = 0.1  # share of the pixels without depth

Depth = NDArray[np.float32]


class Found(NamedTuple):
    """One object that was found, in metres.

    distance: from the camera to the true centroid of what is visible. error: from there to the
    centroid that was found. along: the part of it along the line of sight. box: mean error of the
    three sides of the box around what is visible. behind: from the true centroid to the middle of
    the whole object.
    """

    distance: float
    error: float
    along: float
    box: float
    behind: float


def stereo_depth(depth: Depth, focal_px: float, rng: np.random.Generator) -> Depth:
    """(H, W) float32 metres, as a stereo camera measures it, 0 where it sees nothing: disparity
    noise that neighbours share, edges smeared over the matcher's window, and places without depth.
    """
    disparity = np.divide(focal_px * BASELINE_M, depth, out=np.zeros_like(depth), where=depth > 0)
    disparity = cv2.blur(disparity, (SMEAR_PX, SMEAR_PX))
    noise = cv2.GaussianBlur(rng.standard_normal(depth.shape, np.float32), (0, 0), 2)
    disparity += DISPARITY_NOISE_PX * noise / noise.std()
    blobs = cv2.GaussianBlur(rng.standard_normal(depth.shape, np.float32), (0, 0), BLOB_PX)
    seen = (blobs > np.quantile(blobs, BLIND)) & (depth > 0) & (disparity > 0.25)
    measured = np.zeros_like(depth)
    return np.divide(focal_px * BASELINE_M, disparity, out=measured, where=seen)


def visible(
    labels: NDArray[np.uint16], label: int, depth: Depth, rays: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(N, 3) points of one true object, metres."""
    mask = (labels == label) & (depth > 0)
    z = depth[mask].astype(np.float64)
    return np.column_stack([rays[mask].astype(np.float64) * z[:, None], z])


def compare(
    sample: Sample,
    instances: Instances,
    depth: Depth,
    middles: Mapping[int, NDArray[np.float64]],
) -> Iterator[Found]:
    """The true objects of a frame whose mask was found (IoU over 0.5, of any class) and that have
    enough depth. middles: by label, the middle of the whole object."""
    frame = sample.frame
    assert frame.depth is not None and frame.intrinsics is not None
    rays = sight(frame)
    located = locate(instances, depth, rays)
    counts = frame_counts(
        sample.labels, sample.ids, sample.class_ids, instances, sample.ignore, min_pixels=0
    )
    match = judge(of_class(counts, None)).match
    row_of = {int(row): place for place, row in enumerate(located.rows)}
    for true, row in zip(*np.nonzero(match), strict=True):
        if int(row) not in row_of:
            continue
        place, label = row_of[int(row)], int(sample.ids[true])
        points = visible(sample.labels, label, frame.depth, rays)
        centroid = points.mean(0)
        distance = float(np.linalg.norm(centroid))
        error = located.centroids[place] - centroid
        sides = np.ptp(points, axis=0) - located.box_sizes[place]
        yield Found(
            distance,
            error=float(np.linalg.norm(error)),
            along=float(abs(error @ centroid) / distance),
            box=float(np.abs(sides).mean()),
            behind=float(np.linalg.norm(middles[label] - centroid)),
        )


def table(found: Sequence[Found]) -> str:
    """By distance: objects, median and 90th percentile of the error in metres and percent, and the
    medians of the rest."""
    heads = (
        *("distance (m)", "objects", "error (m)", "p90 (m)", "error (%)", "p90 (%)"),
        *("along (m)", "box side (m)", "middle behind (m)"),
    )
    values = np.array(found).reshape(-1, len(Found._fields))
    lines: list[list[Any]] = []
    for near, far in (*pairwise(BINS_M), WHOLE_M):
        own = values[(values[:, 0] >= near) & (values[:, 0] < far)]
        if not len(own):
            continue
        distance, error, *rest = own.T
        numbers = [np.quantile(e, q) for e in (error, 100 * error / distance) for q in (0.5, 0.9)]
        lines.append([f"{near} to {far}", len(own), *numbers, *map(np.median, rest)])
    return tabulate(lines, heads, floatfmt=("", "", *[".3f"] * 2, *[".2f"] * 2, *[".2f"] * 3))


def evaluate_location(
    weights: str, frames: int = 200, size: tuple[int, int] = (512, 1024)
) -> dict[str, list[Found]]:
    """The objects found in `frames` held-out frames of `size` (H, W), by kind of depth."""
    pipeline = Pipeline(load_config(overrides={"weights": weights}))
    street = held_out_street(frames, size, depth=True)
    rng = np.random.default_rng(0)
    found: dict[str, list[Found]] = {"exact": [], "stereo": []}
    indices = tqdm(range(frames), unit="frame", disable=None)
    for index, sample, (result,) in labelled([pipeline], street, indices):
        frame, middles = sample.frame, street.middles(index)
        assert frame.depth is not None and frame.intrinsics is not None
        stereo = stereo_depth(frame.depth, float(frame.intrinsics[0, 0]), rng)
        for name, depth in (("exact", frame.depth), ("stereo", stereo)):
            found[name] += compare(sample, result.instances, depth, middles)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    for kind, objects in evaluate_location(options.weights, options.frames).items():
        print(f"{kind} depth\n{table(objects)}\n")
