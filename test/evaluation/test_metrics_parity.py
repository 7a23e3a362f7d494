"""The metrics beside the packages of their communities, on the same random frames."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from metric_scenes import MetricScene, metric_scene, predictions

from instaseg_ros.datasets.cityscapes import CITYSCAPES, VOID, from_cityscapes_ids
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.coco import CocoFrames
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.overlaps import frame_counts

NAMES = tuple(CITYSCAPES.values())
LABEL_IDS = tuple(CITYSCAPES)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """cityscapesscripts' evaluation of instances, quiet, with its cache out of the package."""
    pytest.importorskip("cityscapesscripts")
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone in NumPy 2.4
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    module = importlib.import_module(name)
    monkeypatch.setattr(module.args, "gtInstancesFile", str(tmp_path / "gtInstances.json"))
    monkeypatch.setattr(module.args, "predictionPath", str(tmp_path))
    monkeypatch.setattr(module.args, "quiet", True)
    module.setInstanceLabels(module.args)
    assert module.args.instLabels == [*NAMES[:5], "train", "motorcycle", "bicycle"]
    return module


def write(scene: MetricScene, folder: Path, number: int, ignored: int) -> tuple[str, str]:
    """The frame as Cityscapes' files: the prediction's text file and the truth's label image, which
    has the value `ignored` where the scene ignores."""
    encoded = np.full(scene.labels.shape, 7, np.uint16)  # road
    for label, class_id in zip(scene.ids, scene.class_ids, strict=True):
        encoded[scene.labels == label] = LABEL_IDS[class_id] * 1000 + int(label)
    for value in np.unique(scene.crowd[scene.crowd > 0]):
        encoded[scene.crowd == value] = LABEL_IDS[value - 1]
    encoded[scene.ignore] = ignored
    truth = folder / f"city_{number:06d}_000000_gtFine_instanceIds.png"
    cv2.imwrite(str(truth), encoded)
    lines = []
    predicted = scene.predicted
    for label, class_id, score in zip(
        predicted.ids, predicted.class_ids, predicted.scores, strict=True
    ):
        mask = f"{number}_{label}.png"
        cv2.imwrite(str(folder / mask), (predicted.labels == label).astype(np.uint8))
        lines.append(f"{mask} {LABEL_IDS[class_id]} {float(score)!r}")
    text = folder / f"{number}.txt"
    text.write_text("\n".join(lines) + "\n")
    return str(text), str(truth)


# Unlabelled, a group of caravans, and an instance of caravan and of trailer, which are no void.
@pytest.mark.parametrize(("seed", "ignored"), [*enumerate((0, 29, 29001, 30002))])
def test_cityscapes_ap_is_the_scripts(
    script: ModuleType, tmp_path: Path, seed: int, ignored: int
) -> None:
    rng = np.random.default_rng(seed)
    scenes = [metric_scene(rng, len(NAMES), n_objects=30) for _ in range(6)]
    files = [write(scene, tmp_path, k, ignored) for k, scene in enumerate(scenes)]
    predicted, truth = zip(*files, strict=True)
    instances_of = script.getGtInstances(list(truth), script.args)
    matches = script.matchGtWithPreds(list(predicted), list(truth), instances_of, script.args)
    expected = script.computeAverages(script.evaluateMatches(matches, script.args), script.args)

    counts = []
    for scene, file in zip(scenes, truth, strict=True):
        image = np.zeros((*scene.labels.shape, 3), np.uint8)
        read = from_cityscapes_ids(image, cv2.imread(file, cv2.IMREAD_UNCHANGED), VOID)
        sides = read.labels, read.ids, read.class_ids, scene.predicted, read.ignore, read.crowd
        counts.append(frame_counts(*sides))
    table = average_precision(counts, NAMES)
    assert table["mean"].ap == pytest.approx(expected["allAp"], abs=1e-6)
    assert table["mean"].ap50 == pytest.approx(expected["allAp50%"], abs=1e-6)
    assert 0.05 < table["mean"].ap < table["mean"].ap50 < 0.95
    for name in NAMES:
        theirs = expected["classes"][name]
        assert table[name][:2] == pytest.approx(
            (theirs["ap"], theirs["ap50%"]), abs=1e-6, nan_ok=True
        )


@pytest.mark.parametrize(("seed", "overlap"), [(0, False), (1, False), (2, True), (3, True)])
def test_panoptic_quality_is_torchmetrics(seed: int, overlap: bool) -> None:
    """overlap: objects may have ignored pixels, too."""
    detection = pytest.importorskip("torchmetrics.detection")
    n_classes, background, void = 3, 50, 99
    rng = np.random.default_rng(seed)
    scenes = [metric_scene(rng, n_classes, groups=False) for _ in range(3)]
    if overlap:
        scenes = [s._replace(ignore=np.roll(s.ignore, (20, 30), (0, 1))) for s in scenes]
        assert any(scene.labels[scene.ignore].any() for scene in scenes)
    reference = detection.PanopticQuality(
        things=set(range(n_classes)),
        stuffs={background},
        allow_unknown_preds_category=True,
        return_sq_and_rq=True,
        return_per_class=True,
    )

    def panoptic(labels: np.ndarray, ids: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
        class_of = np.full(1 << 16, background)
        class_of[ids] = class_ids
        return np.stack([class_of[labels], labels.astype(int)], -1)

    for scene in scenes:
        truth = panoptic(scene.labels, scene.ids, scene.class_ids)
        truth[scene.ignore] = void, 0
        found = scene.predicted
        predicted = panoptic(found.labels, found.ids, found.class_ids)
        reference.update(torch.from_numpy(predicted)[None], torch.from_numpy(truth)[None])
    expected = reference.compute()[:n_classes]

    counts = [scene.counts(min_pixels=0) for scene in scenes]
    for class_id in range(n_classes):
        ours = panoptic_quality(counts, class_id)
        assert ours == pytest.approx(expected[class_id].tolist(), abs=1e-6)
        assert 0.2 < ours.pq < ours.sq < 0.95


def test_coco_ap_of_masks() -> None:
    pytest.importorskip("pycocotools")
    labels = np.zeros((120, 120), np.uint16)
    labels[0:20, 0:20] = 5  # small, 400 px
    labels[40:80, 40:80] = 6  # medium, 1600 px
    crowd = np.zeros(labels.shape, np.uint8)
    crowd[90:120, 0:60] = 1
    part = np.zeros_like(labels)
    part[0:20, 0:13] = 1  # IoU 0.65: right at 0.5, 0.55, 0.6, 0.65
    part[40:80, 40:80] = 2
    part[90:100, 5:50] = 3  # on the crowd: neither right nor wrong
    found = predictions(part, np.zeros(3, np.int64), np.array([0.9, 0.8, 0.95]))
    coco = CocoFrames(["car", "bus"])
    ids, class_ids = np.array([5, 6], np.uint16), np.zeros(2, np.int64)
    coco.add(labels, ids, class_ids, found, None, crowd)
    result = coco.average_precision()
    # Above 0.65 the surer one is wrong: precision 1/2 up to recall 1/2, of 101 points 51.
    half = 0.5 * 51 / 101
    assert result["ap50"] == pytest.approx(1)
    assert result["ap75"] == pytest.approx(half)
    assert result["ap"] == pytest.approx((4 + 6 * half) / 10)
    assert result["ap_small"] == pytest.approx(4 / 10)
    assert result["ap_medium"] == pytest.approx(1)
    assert np.isnan(result["ap_large"])


def test_coco_ap_where_ignored_ground_lies_on_objects() -> None:
    pytest.importorskip("pycocotools")
    labels = np.zeros((60, 60), np.uint16)
    labels[0:20, 0:20], labels[30:50, 0:20] = 1, 2
    ignore = np.zeros(labels.shape, bool)
    ignore[0:10], ignore[30:60] = True, True  # half of the first, all of the second
    found = np.where(ignore, 0, labels).astype(np.uint16)
    coco = CocoFrames(["car"])
    seen = predictions(found, np.zeros(1, np.int64), np.array([0.9]))
    coco.add(labels, np.array([1, 2], np.uint16), np.zeros(2, np.int64), seen, ignore)
    assert coco.average_precision()["ap"] == pytest.approx(1)
