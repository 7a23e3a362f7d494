"""Recordings that other people's robots made, where they lie beside the checkout.

They are megabytes under licences of others, so the package has none of them. What is known to be
odd about them, `test_bags` makes itself, and so tests everywhere: the tables and type names of
2019, messages compressed one by one, messages that are JSON. These tests say that this was all.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from instaseg_ros.errors import InputError
from instaseg_ros.recordings.bags import BagSource

SHARED = Path(__file__).parents[3] / "shared" / "data" / "bags"
pytestmark = pytest.mark.skipif(
    not SHARED.is_dir(),
    reason=f"no recordings of others in {SHARED}; test_bags.py makes some with the same oddities",
)


@pytest.mark.parametrize(
    ("name", "topic", "count", "size"),
    [
        ("dashing.db3", "/image", 1, (480, 640)),
        ("dashing.db3", "/image/compressed", 1, (480, 640)),
        ("message_zstd.mcap", None, 2, (480, 640)),
        ("every_sensor_msg.mcap", "/image", 1, (480, 640)),
        ("every_sensor_msg.mcap", "/compressed_image", 1, (480, 640)),
    ],
)
def test_recordings_of_others(
    name: str, topic: str | None, count: int, size: tuple[int, int]
) -> None:
    frames = list(itertools.islice(BagSource(SHARED / name, topic), 9))
    assert [f.image.shape[:2] for f in frames] == [size] * count


def test_recording_of_another_system_of_others() -> None:
    with pytest.raises(InputError, match="not a ROS 2 recording"):
        BagSource(SHARED / "foxglove_json.mcap")
