"""Metrics of tracks: cases worked by hand, TrackEval on the same random tracks, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from metric_scenes import metric_scene, predictions
from numpy.typing import NDArray

from instaseg_ros import cli
from instaseg_ros.evaluation.metrics.tracking import (
    TrackedFrame,
    class_overlaps,
    summarize_tracks,
    track_score,
)
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.run import evaluate, summary_of
from instaseg_ros.frames import Frame, Result
from instaseg_ros.synthetic_street import SyntheticStreet

PIXELS = 300
Match = tuple[int, int, float]  # true id, predicted id, IoU


def frame(truth: list[int], predicted: list[int], *matches: Match) -> TrackedFrame:
    """Masks of equal size, of one class; overlaps as the IoU of the matches asks for."""
    overlap = np.zeros((len(truth), len(predicted)), np.int64)
    for true_id, predicted_id, iou in matches:
        overlap[truth.index(true_id), predicted.index(predicted_id)] = round(
            2 * PIXELS * iou / (1 + iou)
        )
    n, m = len(truth), len(predicted)
    counts = FrameCounts(
        overlap,
        np.full(n, PIXELS),
        np.full(m, PIXELS),
        np.zeros(m, np.int64),
        np.zeros(n, np.int64),
        np.zeros(m, np.int64),
        np.ones(m, np.float32),
        np.zeros(n, bool),
        0,
    )
    return TrackedFrame(counts, np.array(truth), np.array(predicted))


def test_a_perfect_tracker() -> None:
    """Whatever its numbers are, and in the second sequence they may be others."""
    frames = [frame([1, 2], [8, 7], (1, 7, 1), (2, 8, 1))] * 3
    renumbered = [frame([1, 2], [1, 2], (1, 2, 1), (2, 1, 1))] * 2
    score = track_score([frames, renumbered], 0)
    assert score == (1, 1, 1, 1, 1, 1, 1, 0, 0, 4, 0, 4, 10)


def test_a_switch_half_way() -> None:
    """Masks are right, but for the second half the object has another number: of each of 4 matches
    TPA = 2, FNA = 2, FPA = 0."""
    frames = [frame([1], [5], (1, 5, 1))] * 2 + [frame([1], [6], (1, 6, 1))] * 2
    score = track_score([frames], 0)
    assert score.id_switches == 1
    assert score.assa == pytest.approx(0.5)
    assert score.deta == 1
    assert score.hota == pytest.approx(0.5**0.5)
    assert score.idf1 == 0.5
    assert score.motsa == score.smotsa == pytest.approx((4 - 1) / 4)


def test_missed_wrong_and_rough() -> None:
    """IoU 0.6 (225 of 375 pixels) is a match for the 12 alphas up to 0.6."""
    frames = [
        frame([1, 2], [1], (1, 1, 0.6)),
        frame([1], [1, 9], (1, 1, 0.6)),
    ]
    score = track_score([frames], 0)
    assert score.motsp == pytest.approx(0.6)
    assert score.motsa == pytest.approx((2 - 1) / 3)
    assert score.smotsa == pytest.approx((1.2 - 1) / 3)
    assert score.deta == pytest.approx(12 / 19 * 2 / 4)
    assert score.assa == pytest.approx(12 / 19)
    assert score.hota == pytest.approx(12 / 19 * 0.5**0.5)


def test_a_switch_counts_after_a_gap_and_back_again() -> None:
    gap = frame([1], [])
    frames = [frame([1], [n], (1, n, 1)) for n in (5, 6, 6, 5)]
    assert track_score([[frames[0], gap, *frames[1:]]], 0).id_switches == 2
    below = frame([1], [9], (1, 9, 0.5))  # no match: it must be above
    assert track_score([[frames[0], below, frames[3]]], 0).id_switches == 0


def test_fragments_and_how_wholly_objects_are_followed() -> None:
    """Of five masks of object 1 all but the third are matched; object 2 is never found, object 3
    once in five."""
    other = (3, 3, 1.0)
    frames = [frame([1, 2, 3], [1, 3], (1, 1, 1), other)]
    frames += [frame([1, 2, 3], [1], *([] if k == 2 else [(1, 1, 1)])) for k in range(1, 5)]
    score = track_score([frames], 0)
    assert (score.fragmentations, score.id_switches) == (1, 0)
    assert (score.tracks, score.mostly_tracked, score.mostly_lost) == (3, 0, 1)
    assert score.idf1 == pytest.approx(2 * 5 / (2 * 5 + 1 + 10))


def test_without_objects_there_is_no_value() -> None:
    wrong = [frame([], [1])]
    assert np.isnan(track_score([wrong], 0)[:7]).all()
    right = [frame([1], [1], (1, 1, 1))]
    summary = summarize_tracks([right], ["car", "bus"])
    assert summary["hota"] == summary["per_class"]["car"]["hota"] == 1
    assert np.isnan(summary["per_class"]["bus"]["motsa"])
    assert (summary["objects"], summary["id_switches"], summary["sequences"]) == (1, 0, 1)
    missed = track_score([[frame([1], [])]], 0)
    assert (missed.hota, missed.motsa, missed.smotsa) == (0, 0, 0)
    assert np.isnan(missed.motsp)


def test_excused_predictions_are_left_out() -> None:
    scene = metric_scene(np.random.default_rng(3), 1, n_objects=30)
    counts = scene.counts()
    found = scene.predicted.ids.astype(np.int64)
    ids = np.arange(len(counts.truth_px))
    overlaps = class_overlaps(TrackedFrame(counts, ids, found), 0)
    assert overlaps.truth_ids.tolist() == ids[counts.counted].tolist()
    gone = np.setdiff1d(found, overlaps.predicted_ids) - 1
    assert len(gone) > 3
    small = counts.overlap[(counts.truth_px < counts.min_pixels) | counts.uncounted].sum(0)
    assert (counts.ignored_px + small >= 0.5 * counts.predicted_px)[gone].all()


def random_tracks(rng: np.random.Generator, frames: int) -> list[TrackedFrame]:
    """Objects of one class that come and go, with ids that now and then are exchanged."""
    numbers = rng.permutation(60)
    sequence = []
    for _ in range(frames):
        scene = metric_scene(rng, 1, n_objects=12, groups=False)
        counts = frame_counts(scene.labels, scene.ids, scene.class_ids, scene.predicted)
        if rng.random() < 0.3:
            one, other = rng.integers(0, 20, 2)
            numbers[[one, other]] = numbers[[other, one]]
        predicted = numbers[scene.predicted.ids.astype(int)]
        sequence.append(TrackedFrame(counts, scene.ids.astype(np.int64), predicted))
    return sequence


def for_trackeval(frames: list[TrackedFrame]) -> dict[str, object]:
    """The sequence as TrackEval's datasets hand it to its metrics, ids from 0."""
    overlaps = [class_overlaps(one, 0) for one in frames]

    def numbered(side: list[NDArray[np.int64]]) -> tuple[list[NDArray[np.int64]], int]:
        known = np.unique(np.concatenate(side))
        return [np.searchsorted(known, ids) for ids in side], len(known)

    truth, n_truth = numbered([one.truth_ids for one in overlaps])
    predicted, n_predicted = numbered([one.predicted_ids for one in overlaps])
    return {
        "gt_ids": truth,
        "tracker_ids": predicted,
        "similarity_scores": [one.iou for one in overlaps],
        "num_gt_ids": n_truth,
        "num_tracker_ids": n_predicted,
        "num_gt_dets": sum(map(len, truth)),
        "num_tracker_dets": sum(map(len, predicted)),
        "num_timesteps": len(frames),
    }


@pytest.mark.parametrize("seed", range(3))
def test_every_number_is_trackevals(seed: int) -> None:
    metrics = pytest.importorskip("trackeval.metrics")
    rng = np.random.default_rng(seed)
    sequences = [random_tracks(rng, length) for length in (12, 1, 7)]
    hota, clear = metrics.HOTA(), metrics.CLEAR({"THRESHOLD": 0.5, "PRINT_CONFIG": False})
    data = {str(k): for_trackeval(frames) for k, frames in enumerate(sequences)}
    identity = metrics.Identity({"THRESHOLD": 0.5, "PRINT_CONFIG": False})
    theirs_hota, theirs_clear, theirs_identity = (
        metric.combine_sequences({key: metric.eval_sequence(one) for key, one in data.items()})
        for metric in (hota, clear, identity)
    )
    ours = track_score(sequences, 0)
    assert ours.hota == pytest.approx(theirs_hota["HOTA"].mean())
    assert ours.deta == pytest.approx(theirs_hota["DetA"].mean())
    assert ours.assa == pytest.approx(theirs_hota["AssA"].mean())
    assert ours.motsa == pytest.approx(theirs_clear["MOTA"])
    assert ours.smotsa == pytest.approx(theirs_clear["sMOTA"])
    assert ours.motsp == pytest.approx(theirs_clear["MOTP"])
    assert ours.id_switches == theirs_clear["IDSW"] > 5
    assert ours.idf1 == pytest.approx(theirs_identity["IDF1"])
    assert ours.fragmentations == theirs_clear["Frag"] > 0
    assert ours.mostly_tracked == theirs_clear["MT"]
    assert ours.mostly_lost == theirs_clear["ML"]
    assert ours.tracks == sum(theirs_clear[key] for key in ("MT", "PT", "ML"))
    assert 0.1 < ours.assa < ours.hota < ours.deta < 0.9


class Follows:
    """Labels with the truth, renumbered in each frame unless it should keep the ids."""

    class_names = SyntheticStreet.class_names

    def __init__(self, dataset: SyntheticStreet, keeps: bool) -> None:
        self.dataset, self.keeps = dataset, keeps
        self.seen: list[int | str] = []

    def process(self, frames: list[Frame]) -> list[Result]:
        sample = self.dataset[sum(one != "reset" for one in self.seen)]
        assert sample.frame.stamp_ns == frames[0].stamp_ns
        self.seen.append(frames[0].stamp_ns)
        order = np.arange(1, 1 << 16)
        if not self.keeps:
            order = np.random.default_rng(len(self.seen)).permutation(order)
        lookup = np.concatenate([[0], order]).astype(np.uint16)
        n = len(sample.ids)
        found = predictions(lookup[sample.labels], sample.class_ids, np.ones(n))
        object.__setattr__(found, "ids", lookup[sample.ids])
        return [Result(found, {"network": 1.0})]

    def reset(self) -> None:
        self.seen.append("reset")


@pytest.mark.parametrize("keeps", [True, False])
def test_sequences_are_evaluated_in_order_each_from_a_reset(keeps: bool) -> None:
    dataset = SyntheticStreet((64, 128), split="val", sequences=2, frames_per_sequence=3)
    tracker = Follows(dataset, keeps)
    found = evaluate(tracker, dataset, min_pixels=10, tracking=True)
    one = ["reset", 0, 100_000_000, 200_000_000]
    assert tracker.seen == one * 2
    summary = summary_of(found)["tracking"]
    assert summary["sequences"] == 2
    assert summary["deta"] == pytest.approx(1)
    assert (summary["hota"] == pytest.approx(1)) == keeps
    assert (summary["id_switches"] == 0) == keeps
    assert evaluate(tracker.__class__(dataset, keeps), dataset).tracks is None


def test_the_command_says_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "numbers.json"
    words = ["evaluate", "synthetic", "--tracking", "--size", "128x256", "--frames", "4"]
    settings = ["--set", "runtime.name=torch", "--set", "decode.min_pixels=16"]
    assert cli.main([*words, "--min-pixels", "20", "--json", str(file), *settings]) == 0
    numbers = json.loads(file.read_text())
    tracks = numbers["tracking"]
    assert f"tracking: HOTA {tracks['hota']:.3f}" in capsys.readouterr().out
    assert {"deta", "assa", "motsa", "smotsa", "motsp", "id_switches"} < tracks.keys()
    assert 0 < tracks["hota"] < 1
    assert tracks["objects"] == numbers["objects"]
    assert tracks["sequences"] == 1
    assert numbers["config"]["tracking"]["enabled"]
    assert "track" in numbers["stage_ms"]
