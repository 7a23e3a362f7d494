"""The discriminative loss by hand, its gradients, and decoding of ideal and of odd outputs."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from disc_images import QUICK, write_discs

from instaseg_ros.clustering.mean_shift import reference
from instaseg_ros.config import load, merge
from instaseg_ros.config.options.discriminative import DecodeConfig, LossConfig
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.frames import Instances
from instaseg_ros.methods import BACKGROUND, Targets, make_method
from instaseg_ros.methods import discriminative as method
from instaseg_ros.methods.discriminative import Discriminative, discriminative_loss
from instaseg_ros.model.erfnet import PROFILES, ERFNet
from instaseg_ros.samples import present_ids
from instaseg_ros.training.trainer import train

DECODE = DecodeConfig(seed_threshold=0.5, min_pixels=4)
A, B = [[0.0, 0.0], [2.0, 0.0]], [[1.0, 2.0]]  # means 2 apart


def terms(points: list[list[float]], owner: list[int], group: list[int]) -> list[float]:
    tensors = torch.tensor(points).reshape(-1, 2), torch.tensor(owner, dtype=torch.int64)
    return [float(t) for t in discriminative_loss(*tensors, torch.tensor(group, dtype=torch.int64))]


def test_terms_by_hand() -> None:
    pull, push, regularise = terms(A + B, [0, 0, 1], [0, 0])
    assert pull == pytest.approx((0.25 + 0) / 2), "a mean over instances, not over pixels"
    assert push == pytest.approx(1.0), "both directions, over C (C - 1)"
    assert regularise == pytest.approx((1 + math.sqrt(5)) / 2)


def test_three_push_each_other_and_far_ones_do_not() -> None:
    far = [[1.0, 9.0]]
    _, push, _ = terms(A + B + far, [0, 0, 1, 2], [0, 0, 0])
    assert push == pytest.approx(2 * 1.0 / 6)


def test_classes_do_not_push_each_other_and_count_alike() -> None:
    pull, push, regularise = terms(A + B + [[0.0, 0.0]], [0, 0, 1, 2], [0, 0, 7])
    assert [pull, push] == pytest.approx([0.125 / 2, 1.0 / 2])
    assert regularise == pytest.approx((1 + math.sqrt(5)) / 2 / 2)
    assert terms(A + B, [0, 0, 1], [3, 4])[1] == 0


def test_gradients() -> None:
    rng = torch.Generator().manual_seed(1)
    points = torch.randn(12, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    owner = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    group = torch.tensor([0, 0, 0, 1])
    values = discriminative_loss(points, owner, group)
    assert min(values) > 0
    assert torch.autograd.gradcheck(lambda x: discriminative_loss(x, owner, group), (points,))


def targets_of(labels: torch.Tensor, class_ids: list[int], ignore: bool = False) -> Targets:
    ids = [torch.tensor(class_ids, dtype=torch.int64)] * len(labels)
    return Targets(labels, ids, torch.full_like(labels, ignore, dtype=torch.bool))


@pytest.mark.parametrize("case", ["coincide", "one", "none", "ignored", "cropped"])
def test_no_nan(case: str) -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    if case != "none":
        labels[:, 2:4], labels[0, 6:] = 1, 0 if case in ("one", "cropped") else 2
    classes = {"none": [], "one": [1]}.get(case, [1, 1])
    outputs = {
        h.name: torch.zeros(2, h.channels, 8, 8, requires_grad=True)
        for h in Discriminative(2).heads
    }
    found = Discriminative(2).loss(
        outputs, targets_of(labels, classes, case == "ignored"), LossConfig()
    )
    found["total"].backward()
    for output in outputs.values():
        assert output.grad is not None and output.grad.isfinite().all()
    # image 0 has two instances in the same place, image 1 has one
    assert found["push"].item() == (9 / 2 if case == "coincide" else 0)
    assert found["pull"].item() == found["regularise"].item() == 0
    expected = 0 if case == "ignored" else math.log(3)
    assert found["semantic"].item() == pytest.approx(expected)


def scene(
    n_classes: int = 3, size: tuple[int, int] = (60, 90), dimensions: int = 8
) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[int]]:
    """Ideal raw outputs for a grid of touching objects, which are of all classes in turn."""
    y, x = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    labels = 1 + y // 20 * (size[1] // 15) + x // 15
    labels[:, :3] = 0
    count = int(labels.max())
    rng = torch.Generator().manual_seed(0)
    digits = torch.arange(count + 1)[:, None] // 3 ** torch.arange(dimensions) % 3
    means = 1.1 * 2 * method.PUSH_MARGIN * (digits - 1.0)
    noise = torch.randn(dimensions, *size, generator=rng)
    noise = 0.4 * noise / noise.norm(dim=0)
    class_ids = [k % n_classes for k in range(count)]
    channel = torch.tensor([0, *(c + 1 for c in class_ids)])[labels]
    semantic = 8 * torch.nn.functional.one_hot(channel, n_classes + 1).movedim(2, 0).float()
    embedding = means[labels].movedim(2, 0) + noise
    return {"embedding": embedding[None], "semantic": semantic[None]}, labels, class_ids


def test_ideal_outputs_cost_little_and_give_the_labels() -> None:
    outputs, labels, class_ids = scene()
    (found,) = Discriminative(3).decode(outputs, DECODE)
    assert len(found) == len(class_ids) and found.labels.max() == len(class_ids)
    for k, class_id in enumerate(class_ids, 1):
        mine = found.labels[labels.numpy() == k]
        assert (mine == mine[0]).all() and found.class_ids[mine[0] - 1] == class_id
        assert (found.labels == mine[0]).sum() == len(mine)
    assert (found.labels[labels.numpy() == 0] == 0).all()
    assert found.scores == pytest.approx(1 / (1 + 3 * math.exp(-8)))

    targets = targets_of(labels[None], class_ids)
    ideal = Discriminative(3).loss(outputs, targets, LossConfig())
    noise = {name: torch.randn_like(output) for name, output in outputs.items()}
    random = Discriminative(3).loss(noise, targets, LossConfig())
    assert ideal["pull"] < 1e-3 and ideal["push"] == 0
    assert ideal["total"] < 0.02 < 1 < random["total"]


def found_in_plain_torch(
    embedding: torch.Tensor, semantic: torch.Tensor, config: DecodeConfig
) -> Instances:
    """The instances of one image: embedding (D, H, W), raw semantic (C + 1, H, W)."""
    classes = semantic.argmax(0).flatten()
    flat = semantic.flatten(1).double()  # rounded once: equal outputs tie
    score = (1 / (flat - flat.amax(0)).exp().sum(0)).float()
    points = embedding.flatten(1)
    pixels, owners = [], []
    for c in range(1, len(semantic)):
        own = torch.nonzero((classes == c) & (score > config.foreground_threshold)).squeeze(1)
        found = reference.cluster(
            points[:, own], score[own], method.BANDWIDTH, method.REACH, config
        )
        pixels.append(own)
        owners.append(found.owner.numpy())
    chosen = torch.cat(pixels)
    size = tuple(embedding.shape[1:])
    return method._merged(chosen.numpy(), score[chosen].numpy(), owners, size, config.min_score)


@pytest.mark.parametrize("seed", range(6))
def test_decoding_in_plain_torch_is_the_same(seed: int) -> None:
    """Odd outputs, crops and other layouts in memory included."""
    outputs, *_ = scene(1 + seed % 3, (40, 75))
    rng = np.random.default_rng(seed)
    for output in outputs.values():
        output += torch.from_numpy(rng.normal(0, 0.1 * (seed % 3), output.shape)).float()
        if seed > 2:
            odd = torch.from_numpy(rng.random(output.shape) < 0.02)
            output[odd] = torch.tensor([math.nan, math.inf, -math.inf])[seed - 3]
    config = DecodeConfig(seed_threshold=0.3, min_pixels=seed, foreground_threshold=0.4)
    padded = torch.nn.functional.pad(outputs["semantic"], (0, 5, 0, 3))
    outputs["semantic"] = padded[..., :40, :75]
    outputs["embedding"] = outputs["embedding"].to(memory_format=torch.channels_last)
    (found,) = Discriminative(1 + seed % 3).decode(outputs, config)
    maps = outputs["embedding"][0], outputs["semantic"][0]
    expected = found_in_plain_torch(*maps, config)
    for name in ("labels", "class_ids", "scores", "boxes_xyxy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert len(found) > 3


def test_batches_many_instances_and_none() -> None:
    outputs, _labels, class_ids = scene(1, (200, 450))
    empty = {name: torch.zeros_like(output) for name, output in outputs.items()}
    empty["semantic"][:, 0] = 1
    both = {name: torch.cat([outputs[name], empty[name]]) for name in outputs}
    found, nothing = Discriminative(1).decode(both, DECODE)
    assert len(found) == len(class_ids) == 300 and found.labels.shape == (200, 450)
    assert len(nothing) == 0 and not nothing.labels.any()


def test_a_fresh_network_says_a_tenth_is_objects_and_decodes_to_nothing() -> None:
    for profile in PROFILES:
        torch.manual_seed(0)
        fresh = make_method("discriminative", 4, dimensions=16)
        network = ERFNet(fresh.heads, profile).eval()
        fresh.initialise(network)
        with torch.inference_mode():
            outputs = network(torch.rand(1, 3, 32, 64))
        assert outputs["embedding"].shape == (1, 16, 32, 64) and outputs["embedding"].std() > 0
        share = outputs["semantic"].softmax(1)[0].mean((1, 2))
        assert share.tolist() == pytest.approx([0.9, *[0.025] * 4])
        assert len(fresh.decode(outputs, DECODE)[0]) == 0
    assert fresh.class_channels == {"semantic": (BACKGROUND, 0, 1, 2, 3)}
    assert Discriminative(4).heads[0].channels == 8


@pytest.mark.slow
def test_it_learns_four_frames_by_heart(tmp_path: Path) -> None:
    root = write_discs(tmp_path, 4)
    read = [sorted((root / part).rglob("*.png")) for part in ("images", "labels")]
    images, labels = (np.stack([cv2.imread(str(f), -1) for f in files]) for files in read)
    class_ids = [torch.zeros(int(label.max()), dtype=torch.int64) for label in labels]
    truth = torch.from_numpy(labels.astype(np.int64))
    torch.manual_seed(0)
    one = Discriminative(1)
    network = ERFNet(one.heads, "fast").train()
    one.initialise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    for _ in range(120):
        outputs = network(pixels)
        optimizer.zero_grad()
        targets = Targets(truth, class_ids, torch.zeros_like(truth) > 0)
        one.loss(outputs, targets, LossConfig())["total"].backward()
        optimizer.step()
    counts = [
        frame_counts(label, ids, np.zeros_like(ids, np.int64), found, min_pixels=20)
        for label, found in zip(labels, one.decode(outputs, DECODE), strict=True)
        for ids in [present_ids(label)]
    ]
    assert average_precision(counts, ("disc",))["mean"].ap50 > 0.7


@pytest.mark.slow
def test_training_tells_the_mean_iou(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**QUICK, "train.dataset": str(write_discs(tmp_path / "data", 4)), "train.steps": 2}
    recipe = load(Path(__file__).parents[2] / "config/train/discriminative.yaml")
    train(merge(recipe, {**options, "train.horizon_rows": 0}), tmp_path / "run")
    assert "mean IoU 0." in "".join(capsys.readouterr())
