"""The least score of weights: what thresholds do, which one is taken, and who brings it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metric_scenes import metric_scene, predictions

from instaseg_ros import cli
from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.clustering.label_image import with_score
from instaseg_ros.configure import load_config
from instaseg_ros.evaluation.calibration import Threshold, best, thresholds
from instaseg_ros.evaluation.matching import rankings
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.evaluation.summary import summarize

NAMES = ("car", "bus")


def test_a_threshold_of_counts_is_one_of_decoding() -> None:
    rng = np.random.default_rng(3)
    scenes = [metric_scene(rng, 2) for _ in range(6)]
    tried = thresholds([scene.counts() for scene in scenes], NAMES, (0.0, 0.7, 0.9))
    for one in tried:
        left = [s._replace(predicted=with_score(s.predicted, one.min_score)) for s in scenes]
        counts = [frame_counts(*scene, 100) for scene in left]
        summary = summarize(counts, rankings(counts, NAMES))
        assert (one.pq, one.ap, one.ap50) == (summary["pq"], summary["ap"], summary["ap50"])
    false = [one.false_objects for one in tried]
    assert false == sorted(false, reverse=True) and false[0] > 1 > false[2] > 0


def test_false_objects_are_neither_found_nor_excused() -> None:
    labels = np.zeros((8, 40), np.uint16)
    labels[:, :10] = 1
    crowd = (np.arange(40) // 10 == 1).astype(np.uint8)[None].repeat(8, 0)
    number = np.repeat(np.arange(1, 5), 10).astype(np.uint16)[None].repeat(8, 0)
    found = predictions(number, np.array([0, 0, 0, 1]), np.array([0.6, 0.7, 0.8, 0.9]))
    truth = labels, np.array([1], np.uint16), np.array([0])
    counts = frame_counts(*truth, found, crowd=crowd, min_pixels=1)
    (whole, strict) = thresholds([counts, counts], NAMES, (0.0, 0.85))
    assert (whole.false_objects, strict.false_objects) == (2, 1)  # third and fourth; the fourth
    assert whole.ap > 0 == strict.ap


def test_the_largest_pq_within_both_limits() -> None:
    tried = [
        Threshold(0.0, 9.0, 0.30, 0.200, 0.4),
        Threshold(0.2, 4.0, 0.33, 0.199, 0.4),
        Threshold(0.4, 2.0, 0.35, 0.198, 0.4),
        Threshold(0.6, 1.0, 0.36, 0.150, 0.3),
    ]
    assert best(tried, most_false=3, max_loss=0.01) == tried[2]
    assert best(tried, most_false=3, max_loss=1) == tried[3]
    assert best(tried, most_false=10, max_loss=0.0015) == tried[1]
    assert best(tried, most_false=3, max_loss=0.0015) == tried[1], "AP goes before false objects"
    assert best(tried, most_false=0, max_loss=0) == tried[0]
    unknown = [one._replace(ap=float("nan"), pq=float("nan")) for one in tried]
    assert best(unknown, 10, 0.1) == unknown[0]


def test_weights_bring_the_score_that_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "sure.safetensors"
    words = ["calibrate", "synthetic", "--size", "96x192", "--frames", "2", "--min-pixels", "20"]
    words += ["--set", "runtime.name=torch", "--set", "decode.seed_threshold=0.6"]
    words += ["--most-false", "0", "--max-loss", "1", "-o", str(made)]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "min_score" in printed and str(made) in printed
    before, after = load_checkpoint("street-synthetic"), load_checkpoint(made)
    assert after.decode["min_score"] > 0 and after.decode["seed_threshold"] == 0.6
    assert "on synthetic, val, 2 frames: false objects" in after.notes["calibration"]
    assert after.notes == {**before.notes, "calibration": after.notes["calibration"]}
    assert all(torch.equal(t, after.tensors[name]) for name, t in before.tensors.items())
    config = load_config(weights=str(made))
    assert config.decode.min_score == after.decode["min_score"]
    assert cli.main(words) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--most-false", "-1"], "--most-false: expected at least 0, got -1.0"),
        (["--max-loss", "nan"], "--max-loss: expected at least 0, got nan"),
        (["-o", "w.pth"], "ends in .safetensors"),
        (["--frames", "0"], "--frames: expected at least 1"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["calibrate", "synthetic", *words]) == 2
    assert said in capsys.readouterr().err
