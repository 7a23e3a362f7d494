"""Dense classes: from the files to the loss, and a training that learns them along."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from dataset_layouts import street_samples, write_cityscapes, write_image, write_label_images
from disc_images import QUICK, write_discs

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import AugmentConfig, Config, merge
from instaseg_ros.configure import load_config
from instaseg_ros.datasets import open_dataset, semantic_names
from instaseg_ros.datasets.cityscapes import SEMANTIC
from instaseg_ros.errors import ConfigError, InputError
from instaseg_ros.methods.dense_semantics import dense_loss
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.data import to_batch
from instaseg_ros.training.trainer import train

NAMES = tuple(SEMANTIC.values())


def dense_labels(labels: np.ndarray) -> np.ndarray:
    """Cars where an object is, road below, sky above, one unlabelled column."""
    ids = np.where(labels > 0, 26, np.where(np.arange(len(labels))[:, None] < 20, 23, 7))
    ids[:, 5] = 0
    return ids.astype(np.uint8)


def test_label_images_have_them_in_a_folder_of_their_own(tmp_path: Path) -> None:
    samples = street_samples(2)
    root = write_label_images(tmp_path, samples)
    assert (
        semantic_names(open_dataset(root, "all")) == ()
        and open_dataset(root, "all")[0].semantic is None
    )
    for n, sample in enumerate(samples):
        write_image(root / "semantic" / f"{n}.png", dense_labels(sample.labels))
    dataset = open_dataset(root, "all")
    assert semantic_names(dataset) == NAMES and len(NAMES) == 19
    semantic = dataset[1].semantic
    assert semantic is not None and semantic.dtype == np.uint8
    assert set(np.unique(semantic)) == {0, 1 + NAMES.index("road"), 11, 1 + NAMES.index("car")}
    assert (semantic[:, 5] == 0).all() and semantic[0, 0] == 1 + NAMES.index("sky")
    (root / "semantic" / "1.png").unlink()
    with pytest.raises(InputError, match=r"semantic/1\.png"):
        _ = dataset[1]


def test_cityscapes_has_them_among_its_instances(tmp_path: Path) -> None:
    (sample,) = street_samples(1)
    dataset = open_dataset(write_cityscapes(tmp_path, [sample]), "train")
    assert semantic_names(dataset) == NAMES
    read = dataset[0]
    assert read.semantic is not None
    assert ((read.semantic == 1 + NAMES.index("road")) == (read.labels == 0)).all()
    (car,) = read.labels[read.semantic == 1 + NAMES.index("car")][:1]
    assert dataset.class_names[read.class_ids[read.ids == car][0]] == "car"


def test_a_view_moves_them_with_the_labels(tmp_path: Path) -> None:
    samples = street_samples(1)
    root = write_label_images(tmp_path, samples)
    write_image(
        root / "semantic" / "0.png", np.where(samples[0].labels > 0, 26, 0).astype(np.uint8)
    )
    sample = open_dataset(root, "train")[0]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        view = random_view(sample, (90.0, 40.0), (48, 64), AugmentConfig(), rng)
        assert view.semantic is not None
        assert ((view.semantic > 0) == (view.labels > 0)).all()
    batch = to_batch([view, dataclasses.replace(view, semantic=None)])
    assert batch.targets.semantic is not None
    assert torch.equal(batch.targets.semantic[0], torch.from_numpy(view.semantic.astype(np.int64)))
    assert not batch.targets.semantic[1].any(), "unknown where a sample has none"


def test_the_loss_by_hand() -> None:
    """Two cells of class 0, one of class 1, one unknown; the pixel in a cell's middle counts."""
    semantic = torch.full((1, 16, 16), 9)
    semantic[0, 4, 4] = semantic[0, 4, 12] = 1
    semantic[0, 12, 4], semantic[0, 12, 12] = 2, 0
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 1, 1, 0] = math.log(2)  # class 1 half as probable as all together
    weights = [1 / math.log(1.1 + 2 / 3), 1 / math.log(1.1 + 1 / 3)]
    losses = [math.log(3), math.log(2)]
    expected = (2 * weights[0] * losses[0] + weights[1] * losses[1]) / (2 * weights[0] + weights[1])
    assert dense_loss(scores, semantic).item() == pytest.approx(expected, rel=1e-6)
    scores.requires_grad_()
    nothing = dense_loss(scores, torch.zeros(1, 16, 16, dtype=torch.int64))
    nothing.backward()
    assert nothing.item() == 0 and scores.grad is not None and not scores.grad.any()


def dense_discs(root: Path) -> Path:
    """Discs as cars under a sky of their own."""
    write_discs(root, 6)
    for file in sorted((root / "labels").glob("*.png")):
        labels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert labels is not None
        cars = np.where(labels > 0, 26000 + labels, 0)
        write_image(root / "instances" / file.name, cars.astype(np.uint16))
        write_image(root / "semantic" / file.name, np.where(labels > 0, 26, 23).astype(np.uint8))
    return root


def test_a_training_learns_them_along_and_goes_on(tmp_path: Path) -> None:
    data = dense_discs(tmp_path / "data")
    dense = {"train.dataset": str(data), "train.weight_dense": 1.0, "train.learning_rate": 1e-2}
    config = merge(Config(), {**QUICK, **dense})
    weights = train(config, tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open() as file:
        terms = [float(row["dense"]) for row in csv.DictReader(file)]
    assert len(terms) == 4 and terms[-1] < terms[0]
    with (tmp_path / "run" / "validation.csv").open() as file:
        assert all(0 <= float(row["mean_iou"]) <= 1 for row in csv.DictReader(file))
    learned = load_checkpoint(weights)
    assert learned.dense_names == NAMES
    assert learned.tensors["dense.weight"].shape == (19, 128, 1, 1)
    train(merge(config, {"train.steps": 5}), tmp_path / "run")
    apart(tmp_path / "run" / "state.pt")
    train(merge(config, {"train.steps": 6}), tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == list("123456")
    voting = {"weights": str(weights), "decode.class_vote": True, "runtime.name": "torch"}
    inferred = Pipeline(load_config(overrides=voting)).infer([open_dataset(data, "val")[0].frame])
    assert inferred.outputs["dense"].shape[1] == 19


def apart(file: Path) -> None:
    """Make of a state one of the days when the layer was trained beside the network."""
    state = torch.load(file, weights_only=True)
    for kind in ("weight", "bias"):
        state.setdefault("dense", {})[f"classify.{kind}"] = state["network"].pop(f"dense.{kind}")
        del state["average"][f"dense.{kind}"]
    torch.save(state, file)


def test_without_dense_classes_the_weight_is_refused(tmp_path: Path) -> None:
    config = merge(Config(), {"train.weight_dense": 1.0})
    with pytest.raises(ConfigError, match=r"weight_dense: synthetic has no dense classes"):
        train(config, tmp_path)
