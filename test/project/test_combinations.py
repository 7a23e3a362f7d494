"""What happens where features meet: every kind of input with and without tracking, with and without
a memory, into every output; every kind of dataset with a report of what a network with a memory
found in it. Small networks, whose weights are chance, and a few pictures."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import dataset_layouts
import numpy as np
import pytest
import torch
from rosbags.rosbag2 import StoragePlugin, Writer
from small_networks import checkpoint_with_memory, untrained_checkpoint
from written_recordings import write_street_bag

from instaseg_ros import cli
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.config import Config, merge
from instaseg_ros.evaluation.report import build
from instaseg_ros.fleet import rows
from instaseg_ros.fleet.pictures import Picture, picture_of
from instaseg_ros.frames import Frame, Instances, Result
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.recordings.bags import COMPRESSED, DETECTIONS, IMAGE, BagWriter, deserialize
from instaseg_ros.recordings.image_files import images_in
from instaseg_ros.recordings.image_messages import image_to_labels
from instaseg_ros.recordings.message_types import make_header, message_classes, stamp_ns, typestore
from instaseg_ros.recordings.result_messages import overlay_message
from instaseg_ros.recordings.sources import open_source
from instaseg_ros.recordings.storage import open_recording
from instaseg_ros.visualization import paint

FRAMES, HEIGHT, WIDTH = 5, 64, 96
FIRST_NS, PERIOD_NS = 12_000_000_000, 100_000_000
CLASS_NAMES = ("car", "person", "leaf")
METHODS = ("spatial_embedding", "spatio_temporal")
SETTINGS: dict[str, Any] = {
    "runtime.name": "torch",
    "decode.seed_threshold": 0.5,
    "decode.foreground_threshold": 0.5,
    "decode.min_pixels": 12,
}
# Mean and deviation that a head is given, so that there are objects of some size.
HEADS = {
    "offset": (0.0, 0.15),
    "bandwidth": (0.5, 0.3),
    "seed": (0.0, 2.0),
    "embedding": (0.0, 1.0),
    "depth": (0.0, 1.0),
    "semantic": (0.0, 3.0),
}


def picture(index: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8: discs that move before a ground that does not."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (8, 12, 3), np.uint8)
    image = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for direction in (1, -1, 1, -1):
        x, y = rng.integers((10, 10), (80, 50)).tolist()
        color = rng.integers(0, 256, 3).tolist()
        cv2.circle(image, (x + 3 * index * direction, y), 9, color, -1)
    return image


PICTURES = [picture(index) for index in range(FRAMES)]


def contrasted(checkpoint: Checkpoint) -> Checkpoint:
    """The network with last layers that find something in the pictures."""
    network = checkpoint.network().eval()
    pixels = torch.from_numpy(np.stack(PICTURES)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        memory = (None, FRAMES) if network.temporal is not None else ()
        outputs = network(pixels, *memory)
    with torch.no_grad():
        for head in checkpoint.method().heads:
            weight, bias = network.head_parameters(head.name)
            mean, deviation = HEADS[head.name]
            gain = deviation / outputs[head.name].std((0, 2, 3))
            weight.mul_(gain[:, None, None])
            bias.sub_(outputs[head.name].mean((0, 2, 3))).mul_(gain).add_(mean)
    return dataclasses.replace(checkpoint, tensors=network.state_dict())


@pytest.fixture(scope="module")
def weights(small_profiles: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of weights of each method."""
    made = {
        "spatial_embedding": untrained_checkpoint("small", CLASS_NAMES),
        "spatio_temporal": checkpoint_with_memory(CLASS_NAMES),
    }
    folder = tmp_path_factory.mktemp("weights")
    for method, checkpoint in made.items():
        save_checkpoint(contrasted(checkpoint), folder / f"{method}.safetensors")
    return {method: folder / f"{method}.safetensors" for method in made}


def pipeline(weights: Path, tracking: bool = False) -> Pipeline:
    settings = {**SETTINGS, "weights": str(weights), "tracking.enabled": tracking}
    return Pipeline(merge(Config(), settings))


def labelled(one: Pipeline, images: Sequence[np.ndarray]) -> list[Instances]:
    """What a camera's images are labelled as, one after the other."""
    frames = [Frame(image, k * PERIOD_NS, "camera") for k, image in enumerate(images)]
    return [one.process([frame])[0].instances for frame in frames]


def options(weights: Path, tracking: bool = False) -> list[str]:
    settings = {**SETTINGS, "tracking.enabled": str(tracking).lower()}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return ["--weights", str(weights), *words]


@pytest.fixture(scope="module")
def expected(weights: dict[str, Path]) -> dict[tuple[str, bool], list[Instances]]:
    """By method and tracking: what the pictures of one camera are to be labelled as."""
    return {
        (method, tracking): labelled(pipeline(file, tracking), PICTURES)
        for method, file in weights.items()
        for tracking in (False, True)
    }


def silhouettes(found: Sequence[Instances]) -> np.ndarray:
    return np.stack([one.labels > 0 for one in found])


def test_the_pictures_tell_tracking_and_memory_from_their_absence(
    weights: dict[str, Path], expected: dict[tuple[str, bool], list[Instances]]
) -> None:
    for method in METHODS:
        plain, tracked = expected[method, False], expected[method, True]
        assert all(one.ids.tolist() == [*range(1, len(one) + 1)] for one in plain)
        assert any(one.ids.tolist() != [*range(1, len(one) + 1)] for one in tracked)
        assert set(tracked[0].ids.tolist()) & set(tracked[-1].ids.tolist())
        alone = [labelled(pipeline(weights[method]), [image])[0] for image in PICTURES]
        differ = (silhouettes(alone) != silhouettes(plain)).any((1, 2)).tolist()
        assert differ == [False] + [method == "spatio_temporal"] * (FRAMES - 1)


def serialized(image: np.ndarray, stamp: int, msgtype: str, camera: str = "camera") -> bytes:
    header = make_header(stamp, camera)
    if msgtype == IMAGE:
        message = overlay_message(message_classes(), header, image)
    else:
        data = cv2.imencode(".png", image[..., ::-1])[1]
        form = "rgb8; png compressed bgr8"
        message = message_classes().CompressedImage(header=header, format=form, data=data)
    return bytes(typestore().serialize_cdr(message, msgtype))


def image_folder(path: Path) -> Path:
    for index, image in enumerate(PICTURES, 8):  # 8.png to 12.png
        dataset_layouts.write_image(path / f"{index}.png", image)
    return path


def video(path: Path) -> Path:
    """Without losses."""
    path = path.with_suffix(".avi")
    fps = 1_000_000_000 / PERIOD_NS
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), fps, (WIDTH, HEIGHT))
    for image in PICTURES:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


def mcap(path: Path, msgtype: str) -> Path:
    writer = BagWriter(path.with_suffix(".mcap"))
    writer.add_topic("/image", msgtype)
    for index, image in enumerate(PICTURES):
        stamp = FIRST_NS + index * PERIOD_NS
        writer.write_serialized("/image", serialized(image, stamp, msgtype), stamp)
    writer.close()
    return path.with_suffix(".mcap")


def bag_folder(path: Path, msgtype: str) -> Path:
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connection = writer.add_connection("/image", msgtype, typestore=typestore())
        for index, image in enumerate(PICTURES):
            stamp = FIRST_NS + index * PERIOD_NS
            writer.write(connection, stamp, serialized(image, stamp, msgtype))
    return path


SOURCES = {
    "folder": image_folder,
    "video": video,
    "mcap raw": lambda path: mcap(path, IMAGE),
    "mcap compressed": lambda path: mcap(path, COMPRESSED),
    "bag raw": lambda path: bag_folder(path, IMAGE),
    "bag compressed": lambda path: bag_folder(path, COMPRESSED),
}


def label_images(folder: Path) -> list[np.ndarray]:
    files = images_in(folder / "labels")
    return [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]


def assert_labels(given: Sequence[np.ndarray], wanted: Sequence[Instances]) -> None:
    np.testing.assert_array_equal(np.stack(given), np.stack([one.labels for one in wanted]))


# Not all of the product, but every pair: each bit of the source's number turns a choice around.
REPLAYS = [
    (source, method, (k ^ m) & 1 == 0, (".webm", ".mp4")[(k >> 1 ^ m) & 1])
    for k, source in enumerate(SOURCES)
    for m, method in enumerate(METHODS)
]


@pytest.mark.parametrize(("source", "method", "tracking", "suffix"), REPLAYS)
def test_every_source_is_labelled_alike_into_every_sink(
    tmp_path: Path,
    weights: dict[str, Path],
    expected: dict[tuple[str, bool], list[Instances]],
    source: str,
    method: str,
    tracking: bool,
    suffix: str,
) -> None:
    path, wanted = SOURCES[source](tmp_path / "in"), expected[method, tracking]
    folder, recording, film = outs = [tmp_path / f"out{end}" for end in ("", ".mcap", suffix)]
    words = [word for out in outs for word in ("-o", str(out))]
    assert cli.main(["replay", str(path), *words, *options(weights[method], tracking)]) == 0

    assert_labels(label_images(folder), wanted)
    lines = (folder / "detections.jsonl").read_text().splitlines()
    ids = [[one["id"] for one in json.loads(line)["instances"]] for line in lines]
    assert ids == [one.ids.tolist() for one in wanted]
    stamps = [json.loads(line)["stamp_ns"] for line in lines]
    assert np.diff(stamps).tolist() == [PERIOD_NS] * (FRAMES - 1)

    read = open_recording(recording)
    given = [deserialize(raw, IMAGE) for raw in read.messages(["/instaseg_node/labels"])]
    assert_labels([image_to_labels(message) for message in given], wanted)
    assert [stamp_ns(message.header) for message in given] == stamps
    raws = read.messages(["/instaseg_node/detections"])
    found = [deserialize(raw, DETECTIONS).detections for raw in raws]
    told = [sorted(int(one.id) for one in detections) for detections in found]
    assert told == [sorted(one) for one in ids]

    pictures = np.stack([cv2.imread(str(file)) for file in images_in(folder / "overlay")])
    shown = np.stack([frame.image for frame in open_source(film)])[..., ::-1]
    apart = np.abs(shown[:, None].astype(int) - pictures).mean((2, 3, 4))
    assert apart.argmin(1).tolist() == [*range(FRAMES)], "a frame nearer to another's overlay"


@pytest.mark.parametrize("method", METHODS)
def test_cameras_that_share_a_recording_have_ids_and_a_memory_of_their_own(
    tmp_path: Path,
    weights: dict[str, Path],
    expected: dict[tuple[str, bool], list[Instances]],
    method: str,
) -> None:
    """The right one's clock is 5 ms behind."""
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in PICTURES]
    writer = BagWriter(tmp_path / "two.mcap")
    writer.add_topic("/image", IMAGE)
    for index, images in enumerate(zip(PICTURES, mirrored, strict=True)):
        now = FIRST_NS + index * PERIOD_NS
        for camera, image, stamp in zip(
            ("left", "right"), images, (now, now - 5_000_000), strict=True
        ):
            writer.write_serialized("/image", serialized(image, stamp, IMAGE, camera), now)
    writer.close()
    words = ["replay", str(tmp_path / "two.mcap"), "-o", str(tmp_path / "out")]
    assert cli.main([*words, *options(weights[method], tracking=True)]) == 0
    given = label_images(tmp_path / "out")
    assert_labels(given[0::2], expected[method, True])
    assert_labels(given[1::2], labelled(pipeline(weights[method], True), mirrored))


street = functools.cache(dataset_layouts.street_samples)
DATASETS = {
    "Cityscapes": lambda root: dataset_layouts.write_cityscapes(root, street(), "val"),
    "KITTI MOTS": lambda root: dataset_layouts.write_kitti_mots(
        root, street(), "0002", "instances"
    ),
    "COCO": lambda root: dataset_layouts.write_coco(root, street(), "val2017").parents[1],
    "label images": lambda root: dataset_layouts.write_label_images(root, street(), "val"),
    "CVPPP": lambda root: dataset_layouts.write_cvppp(root, street(5)),
    "recording": lambda root: write_street_bag(root.with_suffix(".mcap"), 3),
    "synthetic": lambda root: "synthetic",
}
SEQUENCES = {"KITTI MOTS": ["val"], "recording": ["all"], "synthetic": ["val", "--size", "64x128"]}
CASES = [(name, tracking) for name in DATASETS for tracking in {False, name in SEQUENCES}]


@pytest.mark.parametrize(("dataset", "tracking"), CASES)
def test_a_report_shows_what_was_scored_and_a_memory_lasts_through_sequences_alone(
    tmp_path: Path,
    weights: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    tracking: bool,
) -> None:
    scored: list[tuple[Frame, Instances]] = []
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    process = Pipeline.process

    def counted(self: Pipeline, frames: list[Frame]) -> list[Result]:
        results = process(self, frames)
        scored.extend(zip(frames, (one.instances for one in results), strict=True))
        return results

    def painted(image: np.ndarray, labels: np.ndarray, *rest: Any) -> np.ndarray:
        shown.append((image, labels))
        return paint(image, labels, *rest)

    def drawn(image: np.ndarray, truth: Any, predicted: Any) -> Picture:
        shown.extend([(image, truth[0]), (image, predicted[0])])
        return picture_of(image, truth, predicted)

    if dataset == "recording":
        pytest.importorskip("duckdb")
    data, file = DATASETS[dataset](tmp_path / "data"), weights["spatio_temporal"]
    words = ["evaluate", str(data), "--split", *SEQUENCES.get(dataset, ["val"]), "--frames", "3"]
    words += ["--report", str(tmp_path / "report"), "--worst", "2", "--json", str(tmp_path / "n")]
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "process", counted)
        patch.setattr(build, "paint", painted)
        patch.setattr(rows, "picture_of", drawn)  # of recordings
        words += ["--tracking"] * tracking
        assert cli.main([*words, *options(file)]) == 0
    numbers = json.loads((tmp_path / "n").read_text())
    assert numbers["images"] == len(scored) and ("tracking" in numbers) == tracking
    assert (tmp_path / "report" / "report.html").exists()
    if dataset != "recording":
        assert len(list((tmp_path / "report" / "worst").iterdir())) == min(2, len(scored))

    predictions = shown[1::2]  # beside the truth
    assert len(predictions) == len(scored), "a frame that is shown twice or never"
    for image, labels in predictions:
        (of_image,) = (one for frame, one in scored if (frame.image == image).all())
        np.testing.assert_array_equal(labels, of_image.labels)

    fresh = pipeline(file)
    alone = []
    for frame, _ in scored:
        fresh.reset()
        alone.append(fresh.process([frame])[0].instances)
    remembered = silhouettes(alone) != silhouettes([one for _, one in scored])
    assert remembered.any() == (dataset in SEQUENCES)
