"""What label images cost as PNG.

    python -m instaseg_ros.benchmarks.compressed_labels

Images of 1024 x 2048: what the network found in the demo's street, enlarged, and rough-edged blobs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from instaseg_ros.configure import load_config
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.bags import BagSource
from instaseg_ros.recordings.message_types import make_header, message_classes
from instaseg_ros.recordings.result_messages import compressed_labels_message
from instaseg_ros.tables import text_table

SIZE = (1024, 2048)  # (height, width)
ROUNDS = 20


def scenes() -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Names and label images."""
    street = BagSource(Path(str(files("instaseg_ros") / "demo_data" / "street.mcap")))
    (result,) = Pipeline(load_config(weights="street-synthetic")).process([next(iter(street))])
    height, width = SIZE
    labels = cv2.resize(result.instances.labels, (width, height), interpolation=cv2.INTER_NEAREST)
    yield f"street, {len(result.instances)} objects", np.asarray(labels, np.uint16)
    for count, radius in ((30, 60.0), (300, 22.0)):
        yield f"{count} rough objects", blobs(count, radius)


def blobs(count: int, radius_px: float, seed: int = 0) -> NDArray[np.uint16]:
    """Label image of SIZE with ellipses that hide one another, whose edges noise makes rough."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    noise = cv2.GaussianBlur(rng.normal(0, 3, SIZE).astype(np.float32), (0, 0), 3)
    labels = np.zeros(SIZE, np.uint16)
    for label in range(1, count + 1):
        center_y, center_x = rng.uniform(0, SIZE)
        radius_y = radius_px * np.exp(rng.normal())
        radius_x = radius_y * rng.uniform(0.5, 2)
        distance = ((x - center_x) / radius_x) ** 2 + ((y - center_y) / radius_y) ** 2
        labels[distance + noise < 1] = label
    return labels


def ours(labels: NDArray[np.uint16]) -> Any:
    """The bytes of `~/labels/compressed`."""
    header = make_header(0, "camera")
    return compressed_labels_message(message_classes(), header, labels).data


def of_image_transport(labels: NDArray[np.uint16]) -> Any:
    """What compressed_image_transport makes with its default settings."""
    return cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]


def main() -> None:
    """Print bytes and milliseconds."""
    rows: list[tuple[object, ...]] = []
    for name, labels in scenes():
        rows.append((name, "raw", labels.nbytes / 1e3, None, None))
        for encoder in (ours, of_image_transport):
            times_ms, size = [], 0
            for _ in range(ROUNDS):
                start = time.perf_counter()
                size = len(encoder(labels))
                times_ms.append((time.perf_counter() - start) * 1e3)
            median, p99 = np.percentile(times_ms, [50, 99]).tolist()
            rows.append((name, encoder.__name__.replace("_", " "), size / 1e3, median, p99))
    headings = ("labels", "as", "kB", "ms p50", "p99")
    print(text_table(headings, rows, ("", "", ".0f", ".1f", ".1f")))


if __name__ == "__main__":
    main()
