"""Thresholds of classes: what they do, which ones are taken, and who brings them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_layouts import write_label_images
from metric_scenes import metric_scene

from instaseg_ros import cli
from instaseg_ros.checkpoint import describe, load_checkpoint
from instaseg_ros.clustering.label_image import only
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.configure import load_config
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.summary import summarize
from instaseg_ros.evaluation.tuning import (
    Aim,
    Found,
    Limits,
    candidates,
    effect,
    lowest,
    quality,
    tune,
    tuned_checkpoint,
    usual_limits,
)
from instaseg_ros.synthetic_street import held_out_street

NAMES = ("car", "bus")


def scenes_found(count: int) -> list[Found]:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(count):
        counts = metric_scene(rng, 2).counts()
        seeds = rng.random(len(counts.scores)).astype(np.float32)
        values = {
            "min_score": counts.scores,
            "seed_threshold": seeds,
            "min_pixels": counts.predicted_px,
        }
        found.append(Found(counts, values))
    return found


def frames_of(scores_tell: bool, count: int = 40) -> list[Found]:
    """Frames with ten cars of 100 pixels, of which eight are found, and eight false ones. If scores
    tell, right ones have 0.7 to 0.9 and false ones 0.3 to 0.6, otherwise they are by chance."""
    rng = np.random.default_rng(7)
    frames = []
    for _ in range(count):
        overlap = np.zeros((10, 16), np.int64)
        overlap[np.arange(8), np.arange(8)] = 90
        right, wrong = rng.uniform(0.7, 0.9, 8), rng.uniform(0.3, 0.6, 8)
        scores = np.concatenate([right, wrong]) if scores_tell else rng.uniform(0, 1, 16)
        counts = FrameCounts(
            overlap=overlap,
            truth_px=np.full(10, 100),
            predicted_px=np.full(16, 100),
            ignored_px=np.zeros(16, np.int64),
            truth_class=np.zeros(10, np.int64),
            predicted_class=np.zeros(16, np.int64),
            scores=scores.astype(np.float32),
            uncounted=np.zeros(10, bool),
            min_pixels=1,
        )
        frames.append(Found(counts, {"min_score": counts.scores}))
    return frames


def test_sums_give_the_panoptic_quality_of_the_metric() -> None:
    frames = scenes_found(6)
    for class_id in range(2):
        found = candidates(frames, class_id)
        sums = found.sums(found.passing({})).sum(0)
        counts = [frame.counts for frame in frames]
        assert Aim().value(sums) == pytest.approx(panoptic_quality(counts, class_id).pq, abs=1e-12)


def test_limits_of_counts_are_those_of_instances() -> None:
    rng = np.random.default_rng(3)
    scenes = [metric_scene(rng, 2) for _ in range(6)]
    limits = {"min_score": {"car": 0.7, "bus": 0.4}, "min_pixels": {"car": 50.0, "bus": 0.0}}
    frames, left, left_out = [], [], 0
    for scene in scenes:
        counts, predicted = scene.counts(), scene.predicted
        values = {"min_score": counts.scores, "min_pixels": counts.predicted_px}
        frames.append(Found(counts, values))
        least = np.where(predicted.class_ids == 0, np.float32(0.7), np.float32(0.4))
        px = np.where(predicted.class_ids == 0, 50, 0)
        kept = (predicted.scores >= least) & (counts.predicted_px > px)
        left_out += len(kept) - int(kept.sum())
        left.append(frame_counts(*scene._replace(predicted=only(predicted, kept)), 100))
    assert 10 < left_out < 60
    found, summary = quality(frames, NAMES, limits), summarize(left, rankings(left, NAMES))
    assert found[1:3] == (summary["ap"], summary["ap50"])
    assert found.pq == pytest.approx(summary["pq"], abs=1e-12)


def test_a_threshold_that_tells_right_from_wrong_is_found() -> None:
    frames, limits = frames_of(True), {"min_score": {"car": 0.0}}
    tuned, (step,) = tune(frames, ["car"], limits, Aim())
    assert 0.6 <= tuned["min_score"]["car"] <= 0.7 and step.taken
    assert step.gain == pytest.approx(2 * 8 * 0.9 / 1.1 / (8 + 10) - 2 * 8 * 0.9 / 1.1 / (16 + 10))
    assert (step.low, step.high) == pytest.approx((step.gain, step.gain))  # frames are alike
    before, after = (quality(frames, ["car"], one) for one in (limits, tuned))
    assert (before.false_objects, after.false_objects) == (8, 0)
    assert (before.recall, after.recall, after.precision) == (0.8, 0.8, 1)
    assert limits == {"min_score": {"car": 0.0}}, "the old ones stay"


def test_what_chance_gives_is_not_taken() -> None:
    """In a few frames some threshold is always better than none; on others it is not."""
    better = 0
    for count in (5, 6, 7, 8, 9, 40):
        frames, limits = frames_of(False, count), {"min_score": {"car": 0.0}}
        tuned, (step,) = tune(frames, ["car"], limits, Aim())
        assert tuned == limits and not step.taken and step.verdict.startswith("kept")
        better += step.best > 0
    assert better > 2


def test_equal_frames_give_equal_thresholds() -> None:
    limits: Limits = {name: dict.fromkeys(NAMES, 0.0) for name in ("min_score", "min_pixels")}
    first = tune(scenes_found(12), NAMES, limits, Aim())
    again = tune(scenes_found(12), NAMES, limits, Aim())
    assert repr(first) == repr(again)


def test_a_precision_is_reached_or_said_to_be_out_of_reach() -> None:
    frames, limits = frames_of(True), {"min_score": {"car": 0.0}}
    tuned, (step,) = tune(frames, ["car"], limits, Aim(precision=0.9))
    assert quality(frames, ["car"], tuned).precision >= 0.9 and step.taken
    assert step.gain == pytest.approx(1 - 0.5, abs=0.1)  # of precision
    tuned, (step,) = tune(frames_of(False), ["car"], limits, Aim(precision=0.99))
    assert tuned == limits and step.verdict.startswith("kept: none reaches the precision, 0.")


def test_classes_without_anything_keep_their_thresholds() -> None:
    limits = {"min_score": {"car": 0.0, "bus": 0.3}}
    tuned, steps = tune(frames_of(True), NAMES, limits, Aim())
    assert tuned["min_score"]["bus"] == 0.3 and steps[1].verdict == "kept: the best already"
    assert "PQ" in effect(frames_of(True), NAMES, limits, tuned, "x")
    empty = [f._replace(counts=f.counts._replace(min_pixels=1000)) for f in frames_of(True)]
    assert "no true object" in effect(empty, NAMES, limits, tuned, "x")


def test_options_come_back_as_the_limits_that_were_found() -> None:
    decode = DecodeConfig(min_pixels=12, class_min_scores=("car=0.5",), class_vote=True)
    limits = usual_limits(decode, NAMES)
    assert limits["min_score"] == {"car": 0.5, "bus": 0.0}
    assert limits["seed_threshold"] == {"car": 0.8, "bus": 0.8}
    low = replace(decode, **lowest(decode))
    assert (low.min_score, low.seed_threshold, low.min_pixels) == (0, 0.5, 12)
    assert low.class_min_scores == ("",) and low.class_vote
    limits["min_pixels"]["bus"], limits["min_score"]["bus"] = 64, 0.6
    header = tuned_checkpoint(describe("street-synthetic"), decode, limits, "said").decode
    assert header["min_score"] == 0.5 and header["class_min_scores"] == ["bus=0.6"]
    assert header["min_pixels"] == 12 and header["class_min_pixels"] == ["bus=64"]
    assert "class_seed_thresholds" not in header and header["class_vote"]
    assert isinstance(header["min_pixels"], int)
    assert usual_limits(DecodeConfig(**header), NAMES) == limits


def test_weights_bring_what_was_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "sure.safetensors"
    words = ["tune", "synthetic", "--size", "96x192", "--frames", "8", "--min-pixels", "20"]
    words += ["--set", "runtime.name=torch", "--set", "decode.seed_threshold=0.6"]
    words += ["--set", "decode.min_score=0", "-o", str(made)]
    words += ["--weights", "street-synthetic-lite"]  # finds false objects that scores tell
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "taken" in printed and "chosen on synthetic, val, 8 frames: PQ" in printed
    before, after = load_checkpoint("street-synthetic-lite"), load_checkpoint(made)
    assert after.decode["class_min_scores"] and after.decode["seed_threshold"] == 0.6
    assert "synthetic, val, 8 frames: PQ" in after.notes["tuning"]
    assert "calibration" not in after.notes
    assert all(torch.equal(t, after.tensors[name]) for name, t in before.tensors.items())
    config = load_config(weights=str(made))
    assert config.decode.class_min_scores == tuple(after.decode["class_min_scores"])
    assert cli.main(words) == 2
    assert "exists" in capsys.readouterr().err
    content = made.read_bytes()
    assert cli.main([*words, "--weights", str(made), "--overwrite"]) == 2
    assert "these are the weights themselves" in capsys.readouterr().err
    assert made.read_bytes() == content


def test_another_split_is_reported_on_without_choosing_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    street = held_out_street(12, (96, 192), 2)
    samples = [street[index] for index in range(12)]
    for split, part in (("train", samples[:1]), ("val", samples[:6]), ("test", samples[6:])):
        write_label_images(tmp_path, part, split)
    words = ["tune", str(tmp_path), "--weights", "street-synthetic-lite"]
    words += ["--set", "runtime.name=torch", "--set", "decode.min_score=0"]
    assert cli.main(words) == 0
    table, other = capsys.readouterr().out.split("not chosen on ")
    assert other.startswith(f"{tmp_path.name}, test, 6 frames: PQ ")
    assert cli.main([*words, "--split", "test", "--report", "val"]) == 0
    swapped, other = capsys.readouterr().out.split("not chosen on ")
    assert other.startswith(f"{tmp_path.name}, val, 6 frames: PQ ") and swapped != table
    assert cli.main([*words, "--report", "train"]) == 2
    assert "train: expected at least 5 frames, got 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--precision", "0"], "--precision: expected above 0, to 1, got 0.0"),
        (["--precision", "nan"], "--precision: expected above 0, to 1, got nan"),
        (["--report", "val"], "expected another split than --split"),
        (["-o", "w.pth"], "ends in .safetensors"),
        (["--frames", "0"], "--frames: expected at least 1"),
        (["--frames", "3"], "expected at least 5 frames"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["tune", "synthetic", *words]) == 2
    assert said in capsys.readouterr().err
