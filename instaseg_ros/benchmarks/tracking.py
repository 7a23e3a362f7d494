"""How well objects keep their ids, and what that costs.

    python -m instaseg_ros.benchmarks.tracking [WEIGHTS]

Ten held-out sequences of the synthetic street, 6 s of 256 x 512 each: every image of 10 Hz, the
first 2 s of them, and every third with a third of those missing. Then the time for 30 objects in
512 x 1024.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np

from instaseg_ros.config import Config, TrackingConfig, merge
from instaseg_ros.evaluation.run import evaluate, summary_of
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.tables import text_table
from instaseg_ros.tracking import Tracker

SEQUENCES, FRAMES = 10, 60
SPEED_SIZE, OBJECTS, SHIFT_PX = (512, 1024), 30, 2


def gaps() -> dict[str, list[int]]:
    """Which of a sequence's frames are there."""
    rng = np.random.default_rng(5)
    all_of_them = range(SEQUENCES * FRAMES)
    return {
        "10 Hz, 2 s": [i for i in all_of_them if i % FRAMES < 20],
        "10 Hz": [*all_of_them],
        "3 Hz with gaps": [i for i in all_of_them if i % FRAMES % 3 == 0 and rng.random() > 1 / 3],
    }


def ids(weights: str) -> str:
    """A table of the metrics."""
    pipeline = Pipeline(merge(Config(), {"weights": weights, "tracking.enabled": True}))
    street = SyntheticStreet(
        (256, 512), split="val", sequences=SEQUENCES, frames_per_sequence=FRAMES, depth=False
    )
    rows = []
    for name, indices in gaps().items():
        summary = summary_of(evaluate(pipeline, street, indices, tracking=True))
        found = summary["tracking"]
        shares = (found[key] for key in ("hota", "assa", "smotsa", "idf1"))
        rows.append((name, *shares, found["id_switches"], found["objects"], summary["ap50"]))
    titles = ("frames", "HOTA", "AssA", "sMOTSA", "IDF1", "id switches", "masks", "AP50")
    return text_table(titles, rows, ("", *[".3f"] * 4, "", "", ".3f"))


def drive(step: int) -> tuple[Instances, Frame]:
    """Squares of 12 to 150 pixels on noise, all moving to the right."""
    height, width = SPEED_SIZE
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = np.roll(cv2.resize(noise, (width, height)), SHIFT_PX * step, axis=1).astype(np.uint8)
    labels, boxes = np.zeros(SPEED_SIZE, np.uint16), []
    for number in range(1, OBJECTS + 1):
        size = int(rng.integers(12, 150))
        left, top = (int(rng.integers(side - 200)) for side in (width, height))
        left += SHIFT_PX * step
        labels[top : top + size, left : left + size] = number
        boxes.append((left, top, left + size, top + size))
    instances = Instances(
        labels=labels,
        ids=np.arange(1, OBJECTS + 1, dtype=np.uint16),
        class_ids=np.zeros(OBJECTS, np.int64),
        scores=np.ones(OBJECTS, np.float32),
        boxes_xyxy=np.array(boxes, np.float32),
        centers_xy=np.zeros((OBJECTS, 2), np.float32),
        bandwidths=np.zeros((OBJECTS, 2), np.float32),
    )
    return instances, Frame(image, step * 100_000_000)


def milliseconds(camera_motion: bool) -> float:
    """Median for a frame."""
    tracker = Tracker(TrackingConfig(enabled=True, camera_motion=camera_motion))
    took = []
    for step in range(40):
        scene = drive(step)
        start = time.perf_counter()
        tracker.update(*scene)
        took.append((time.perf_counter() - start) * 1e3)
    return float(np.median(took[1:]))


def main() -> None:
    print(ids(sys.argv[1] if len(sys.argv) > 1 else "street-synthetic"))
    for camera_motion in (True, False):
        how = "with" if camera_motion else "without"
        print(f"{OBJECTS} objects, {how} camera_motion: {milliseconds(camera_motion):.1f} ms")


if __name__ == "__main__":
    main()
