"""Spatio-temporal embedding: the loss over clips, its truth, decoding, and whole trainings."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config, TrackingConfig, load, merge
from instaseg_ros.config.options.spatio_temporal import DecodeConfig, LossConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.depth import evaluate_depth
from instaseg_ros.evaluation.metrics.average_precision import average_precision
from instaseg_ros.evaluation.metrics.depth import DepthCounts, absolute_relative_error, depth_counts
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.methods import Targets, make_method
from instaseg_ros.methods.spatio_temporal import inverse_depth
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.tracking import Tracker
from instaseg_ros.training import trainer
from instaseg_ros.training.data import Batch, to_batch
from instaseg_ros.training.trainer import train

CONFIG = LossConfig(weight_depth=0.0)
ROOT = Path(__file__).parents[2]


def clip(points: list[list[float]], labels: list[list[int]]) -> tuple[torch.Tensor, Targets]:
    """Frames of one row: embeddings (T, 1, 1, W), and the truth of one class."""
    numbers = torch.tensor(labels)[:, None]
    classes = [torch.zeros(int(numbers.max()), dtype=torch.int64)] * len(labels)
    truth = Targets(numbers, classes, torch.zeros_like(numbers, dtype=torch.bool), len(labels))
    return torch.tensor(points)[:, None, None], truth


def loss(points: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
    """Of an embedding of one dimension and a semantic head that says nothing."""
    semantic = torch.zeros(len(points), 2, *points.shape[2:])
    outputs = {"embedding": points, "semantic": semantic}
    return make_method("spatio_temporal", 1, dimensions=1).loss(outputs, targets, CONFIG)


def test_means_are_over_the_whole_clip() -> None:
    """Instance 1 is at 0 in one frame, at 2 in the next: mean 1, each pixel 0.5 beyond the margin.
    Instance 2, at 3 in the second frame only, is 2 away of the 3 that it should be."""
    points, targets = clip([[0.0, 9.0], [2.0, 3.0]], [[1, 0], [1, 2]])
    terms = loss(points, targets)
    assert float(terms["pull"]) == pytest.approx(0.5**2 / 2)
    assert float(terms["push"]) == pytest.approx(1.0)
    assert float(terms["regularise"]) == pytest.approx((1 + 3) / 2)
    apart = loss(points, targets._replace(frames=1))
    assert float(apart["pull"]) == 0  # frame for frame there is nothing to pull


def test_clips_do_not_touch() -> None:
    """Two clips in a batch: the mean of their losses, whatever the other one holds."""
    one, truth_one = clip([[0.0, 9.0], [2.0, 3.0]], [[1, 0], [1, 2]])
    two, truth_two = clip([[5.0, 5.0], [5.0, 7.0]], [[1, 1], [0, 2]])
    both = Targets(
        torch.cat([truth_one.labels, truth_two.labels]),
        [*truth_one.class_ids, *truth_two.class_ids],
        torch.cat([truth_one.ignore, truth_two.ignore]),
        2,
    )
    together = loss(torch.cat([one, two]), both)
    apart = [loss(one, truth_one), loss(two, truth_two)]
    for name in ("pull", "push", "regularise"):
        assert float(together[name]) == pytest.approx(float(sum(a[name] for a in apart)) / 2)


@pytest.mark.parametrize("labels", [[[0, 0], [0, 0]], [[1, 0], [0, 0]], [[1, 2], [2, 1]]])
def test_no_nan_where_embeddings_coincide(labels: list[list[int]]) -> None:
    points, targets = clip([[1.0, 1.0], [1.0, 1.0]], labels)
    loss(points.requires_grad_(), targets)["total"].backward()
    assert points.grad is not None and torch.isfinite(points.grad).all()
    ignored = targets._replace(ignore=torch.ones_like(targets.ignore))
    assert torch.isfinite(loss(points, ignored)["total"])


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Two clips of three frames of the synthetic street."""
    street = SyntheticStreet(size=(64, 128), depth=False)
    clips = [street.training_clip(np.random.default_rng(seed), 3) for seed in (1, 2)]
    return to_batch(clips, min_object_px=20)


def ideal(batch: Batch) -> dict[str, torch.Tensor]:
    """Outputs that say the truth: the instances of a clip on a lattice of 4."""
    labels = batch.targets.labels
    embedding = torch.zeros(len(labels), 8, *labels.shape[1:])
    embedding[:, 0], embedding[:, 1] = 4.0 * (labels % 8), 4.0 * (labels // 8)
    semantic = torch.full((len(labels), 6, *labels.shape[1:]), -8.0)
    for b, classes in enumerate(batch.targets.class_ids):
        channel = torch.cat([torch.zeros(1, dtype=torch.int64), classes + 1])[labels[b]]
        semantic[b].scatter_(0, channel[None], 8.0)
    return {"embedding": embedding, "semantic": semantic, "depth": torch.zeros(6, 1, 64, 128)}


def test_a_clip_numbers_its_objects_together(batch: Batch) -> None:
    street = SyntheticStreet(size=(64, 128), depth=False)
    frames = street.training_clip(np.random.default_rng(1), 3)
    targets = batch.targets
    assert targets.frames == 3 and targets.labels.shape == (6, 64, 128)
    assert [f.frame.stamp_ns for f in frames] == [0, 100_000_000, 200_000_000]
    assert (batch.images[1] == torch.from_numpy(frames[1].frame.image).permute(2, 0, 1)).all()
    name = {}  # number in the clip -> label of the street, one to one over all frames
    for t, frame in enumerate(frames):
        for number, label in {
            *zip(targets.labels[t].ravel().tolist(), frame.labels.ravel(), strict=True)
        }:
            if number:
                assert name.setdefault(number, label) == label
                kind = frame.class_ids[list(frame.ids).index(label)]
                assert targets.class_ids[t][number - 1] == kind
    assert len(set(name.values())) == len(name) == len(targets.class_ids[0]) > 1
    small = (targets.labels == 0) & targets.ignore
    assert small.any(), "objects with fewer pixels in a frame are ignored there"
    assert targets.poses is not None and targets.intrinsics is not None
    assert torch.allclose(targets.poses[3], torch.eye(4), atol=1e-6)
    moved = frames[2].pose @ np.array([0, 0, 0, 1.0])
    back = np.linalg.inv(frames[0].pose) @ moved
    assert np.allclose(targets.poses[2, :, 3].numpy(), back, atol=1e-5)


def test_the_truth_decodes_to_the_labels_and_costs_less_than_noise(batch: Batch) -> None:
    method = make_method("spatio_temporal", 5)
    outputs = ideal(batch)
    config = dataclasses.replace(DecodeConfig(), seed_threshold=0.5, min_pixels=0)
    found = method.decode(outputs, config)
    for instances, labels in zip(found, batch.targets.labels.numpy(), strict=True):
        pairs = {*zip(labels.ravel().tolist(), instances.labels.ravel().tolist(), strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert instances.embeddings is not None
        assert instances.embeddings.shape == (len(instances), 8)
        own = {b: a for a, b in pairs}
        expected = [(4.0 * (own[int(i)] % 8), 4.0 * (own[int(i)] // 8)) for i in instances.ids]
        assert instances.embeddings[:, :2] == pytest.approx(np.array(expected))
    generator = torch.Generator().manual_seed(0)
    noise = {k: torch.randn(o.shape, generator=generator) for k, o in outputs.items()}
    true, wrong = (method.loss(o, batch.targets, CONFIG)["total"] for o in (outputs, noise))
    assert true < 0.1 < wrong


def test_images_without_objects_and_of_chance_are_decoded() -> None:
    method = make_method("spatio_temporal", 3)
    outputs = {"embedding": torch.zeros(1, 8, 16, 24), "semantic": torch.zeros(1, 4, 16, 24)}
    outputs["semantic"][:, 0] = 5
    (none,) = method.decode(outputs, DecodeConfig())
    assert len(none) == 0 and none.embeddings is not None and none.embeddings.shape == (0, 8)
    torch.manual_seed(0)
    network = ERFNet(method.heads, "fast", method.temporal).eval()
    with torch.inference_mode():
        assert len(method.decode(network(torch.rand(2, 3, 64, 96)), DecodeConfig())) == 2


def test_a_fresh_network_sees_everything_at_twenty_metres() -> None:
    method = make_method("spatio_temporal", 2)
    network = ERFNet(method.heads, "fast", method.temporal).eval()
    method.initialise(network)
    with torch.inference_mode():
        depth = 1 / inverse_depth(network(torch.rand(1, 3, 16, 16))["depth"])
    assert torch.allclose(depth, torch.tensor(20.0), rtol=1e-4)


def test_depth_needs_a_motion(batch: Batch) -> None:
    method, config = make_method("spatio_temporal", 5), LossConfig(weight_depth=1.0)
    seen = batch.targets._replace(images=batch.images.float() / 255)
    terms = method.loss(ideal(batch), seen, config)
    assert {"photometric", "depth_smooth"} <= terms.keys()
    learned = {**ideal(batch), "motion": torch.eye(4).expand(2, 2, 4, 4)}
    other = method.loss(learned, seen._replace(poses=None), config)
    assert other["photometric"] != terms["photometric"]
    with pytest.raises(ConfigError, match=r"poses for train\.ego_motion: known"):
        method.loss(ideal(batch), seen._replace(poses=None), config)
    assert "photometric" not in method.loss(ideal(batch), seen, CONFIG)


def test_absolute_relative_error_by_hand() -> None:
    true = np.array([[10.0, 20.0], [40.0, 0.0]])
    counts = depth_counts(np.array([[1.0, 4.0], [4.0, 9.0]]), true)  # medians 4 and 20: times 5
    assert counts == DepthCounts(pytest.approx(0.5 + 0 + 0.5), 3)
    assert depth_counts(true + 1, np.zeros((2, 2))) == (0.0, 0)
    assert depth_counts(true / 7 + 1e-9, true).relative_error < 1e-6
    assert depth_counts(true * 1.5, true, scaled=False) == DepthCounts(pytest.approx(1.5), 3)
    assert absolute_relative_error([counts, DepthCounts(0.5, 1)]) == pytest.approx(1.5 / 4)
    assert np.isnan(absolute_relative_error([]))


QUICK = {
    "method.name": "spatio_temporal",
    "method.profile": "fast",
    "runtime.device": "cpu",
    "train.steps": 2,
    "train.batch_size": 1,
    "train.clip_frames": 3,
    "train.crop_height": 64,
    "train.crop_width": 64,
    "train.workers": 0,
    "train.validation_frames": 2,
    "train.save_every": 1,
    "train.log_every": 1,
}


def test_a_training_leaves_weights_whose_depth_can_be_measured(tmp_path: Path) -> None:
    weights = train(merge(Config(), QUICK), tmp_path / "run")
    assert load_checkpoint(weights).method_name == "spatio_temporal"
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert "ego_motion" in state
    errors = evaluate_depth(str(weights), sequences=1, frames=2, size=(64, 128))
    assert all(0 < error < 10 for error in errors)
    with pytest.raises(ConfigError, match="spatial_embedding predicts no depth"):
        evaluate_depth("street-synthetic")


def test_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ego-motion network, which only the saved state holds."""
    config = merge(Config(), {**QUICK, "train.steps": 3})
    train(config, tmp_path / "whole")
    whole = trainer._step

    def dying(run, model, optimizer, batch, step):  # type: ignore[no-untyped-def]
        if step == 2:
            raise KeyboardInterrupt
        return whole(run, model, optimizer, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    train(config, tmp_path / "cut")
    one, two = (torch.load(tmp_path / n / "state.pt", weights_only=True) for n in ("whole", "cut"))
    for part in ("network", "ego_motion"):
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items()), part


def test_the_recipe_trains_clips() -> None:
    config = load(ROOT / "config" / "train" / "spatio_temporal.yaml")
    assert config.method.name == "spatio_temporal" and config.train.clip_frames == 3


@pytest.mark.slow
def test_two_clips_are_learned_by_heart_and_objects_known_again() -> None:
    """By the tracker, among those of their class: objects of two classes may lie together."""
    street = SyntheticStreet(size=(64, 128), depth=False)
    clips = [street.training_clip(np.random.default_rng(seed), 2) for seed in (3, 4)]
    batch = to_batch(clips, min_object_px=40)
    images, targets = batch.images.float() / 255, batch.targets
    targets = targets._replace(images=images)
    torch.manual_seed(0)
    method = make_method("spatio_temporal", 5)
    network = ERFNet(method.heads, "fast", method.temporal)
    method.initialise(network)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(200):
        terms = method.loss(network(images, None, 2), targets, LossConfig(weight_depth=0.1))
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
    config = DecodeConfig(seed_threshold=0.5, min_pixels=20)
    with torch.inference_mode():  # of the batch that BatchNorm knows
        found = method.decode(network(images, None, 2), config)
    counts, ids = [], []
    trackers = [Tracker(TrackingConfig(enabled=True)) for _ in clips]
    for t, (instances, labels) in enumerate(zip(found, targets.labels.numpy(), strict=True)):
        numbers = np.unique(labels)[1:]
        classes = targets.class_ids[t].numpy()[numbers - 1]
        truth = labels.astype(np.uint16), numbers.astype(np.uint16), classes
        counts.append(frame_counts(*truth, instances, targets.ignore[t].numpy()))
        lasting = trackers[t // 2].update(instances, clips[t // 2][t % 2].frame).labels
        sizes = {n: np.bincount(lasting[labels == n]) for n in numbers.tolist()}
        ids.append({n: s.argmax() for n, s in sizes.items() if s.sum() >= 100 and s.argmax()})
    assert average_precision(counts, SyntheticStreet.class_names)["mean"].ap50 > 0.7
    for first, second in (ids[:2], ids[2:]):
        known = first.keys() & second.keys()
        assert len(known) > 1
        assert len({first[n] for n in known}) == len(known)
        assert {n: first[n] for n in known} == {n: second[n] for n in known}
