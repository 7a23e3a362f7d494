"""What publishers offered: read from every kind of recording, and written as rosbag2 does."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import yaml
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from written_recordings import serialized_image, stamp_ns

from instaseg_ros.recordings.bags import IMAGE, BagWriter
from instaseg_ros.recordings.message_types import typestore
from instaseg_ros.recordings.offered_qos import (
    DEPTH,
    LATCHED,
    MOST_DEPTH,
    OfferedQos,
    offer_from,
    read_offer,
    to_text,
)
from instaseg_ros.recordings.storage import open_recording

FOREVER = QosTime(9223372036, 854775807)
STRICT = OfferedQos(
    "best_effort", "volatile", 3, 500_000_000, 2_500_000_000, "manual_by_topic", 1_000_000_000
)


def test_what_is_written_is_read_again() -> None:
    for offer in (OfferedQos(), LATCHED, STRICT):
        assert read_offer(to_text([offer])) == offer


def test_rosbags_reads_what_is_written(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "a.mcap")
    writer.add_serialized_topic("/image", IMAGE, "uint8 a", "RIHS01_00", [STRICT, LATCHED, LATCHED])
    writer.write_serialized("/image", serialized_image(0), stamp_ns(0))
    writer.close()
    with Reader(tmp_path / "a.mcap") as reader:
        first, second = reader.connections[0].ext.offered_qos_profiles
    assert (first.reliability, first.durability) == (
        QosReliability.BEST_EFFORT,
        QosDurability.VOLATILE,
    )
    assert (first.depth, first.deadline) == (3, QosTime(0, 500_000_000))
    assert (second.durability, second.lifespan) == (QosDurability.TRANSIENT_LOCAL, FOREVER)
    topic = open_recording(tmp_path / "a.mcap").topics["/image"]
    assert topic.type_hash == "RIHS01_00"
    combined = read_offer(topic.qos)
    assert combined is not None
    assert (combined.reliability, combined.durability) == ("reliable", "transient_local")
    assert (combined.depth, combined.deadline_ns, combined.lifespan_ns) == (3, 500_000_000, None)


# Unlike rosbag2, earlier versions of rosbags write no offers into an MCAP file.
@pytest.mark.parametrize(
    "storage", [pytest.param(StoragePlugin.MCAP, marks=pytest.mark.newest), StoragePlugin.SQLITE3]
)
@pytest.mark.parametrize("version", [8, 9])
def test_rosbag2s_recordings_say_it(tmp_path: Path, storage: StoragePlugin, version: int) -> None:
    """Version 9, of Jazzy, has words for the numbers, and a list in metadata.yaml."""
    profile = Qos(
        QosHistory.KEEP_LAST,
        5,
        QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL,
        FOREVER,
        FOREVER,
        QosLiveliness.AUTOMATIC,
        FOREVER,
        False,
    )
    folder = tmp_path / "bag"
    with Writer(folder, version=version, storage_plugin=storage) as writer:
        connection = writer.add_connection(
            "/image", IMAGE, typestore=typestore(), offered_qos_profiles=[profile]
        )
        writer.write(connection, stamp_ns(0), serialized_image(0))
    (file,) = (one for one in folder.iterdir() if one.name != "metadata.yaml")
    for path in (folder, file):
        topic = open_recording(path).topics["/image"]
        assert topic.count == 1 and topic.type_hash in ("", typestore().hash_rihs01(IMAGE))
        assert read_offer(topic.qos) == OfferedQos("best_effort", "transient_local", 5)


def test_metadata_says_it_where_an_old_file_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    with Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/image", IMAGE, typestore=typestore())
        writer.write(connection, stamp_ns(0), serialized_image(0))
    (file,) = folder.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("UPDATE topics SET offered_qos_profiles = ''")
    database.commit()
    database.close()
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    topic = metadata["rosbag2_bagfile_information"]["topics_with_message_count"][0]
    topic["topic_metadata"]["offered_qos_profiles"] = [{"reliability": "best_effort"}]
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert read_offer(open_recording(file).topics["/image"].qos) is None
    assert read_offer(open_recording(folder).topics["/image"].qos) == OfferedQos("best_effort")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "- 3",
        "reliable",
        "- {depth: many}",
        "- {deadline: {sec: [1]}}",
        "[" * 500,
        "x" * (1 << 17),
        "- &a {b: &c [1, 2]}\n- *a\n- !!python/object:os.system {}",
    ],
)
def test_what_cannot_be_used_is_none(text: str) -> None:
    assert read_offer(text) is None


def test_what_is_unknown_is_as_usual() -> None:
    assert offer_from({}) == OfferedQos()
    odd = {"reliability": 7, "durability": "best_available", "depth": -3, "lifespan": "long"}
    assert offer_from(odd) == OfferedQos()
    assert offer_from({"depth": 0}).depth == DEPTH
    assert offer_from({"depth": 10**12}).depth == MOST_DEPTH
    assert offer_from({"deadline": {"sec": 2147483647, "nsec": 4294967295}}).deadline_ns is None
