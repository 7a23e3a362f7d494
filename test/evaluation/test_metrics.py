"""Metrics against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from metric_scenes import metric_scene, predictions

from instaseg_ros.evaluation.matching import rank, rankings
from instaseg_ros.evaluation.metrics import breakdown
from instaseg_ros.evaluation.metrics.average_precision import (
    average_precision,
    frame_losses,
    precision_recall,
)
from instaseg_ros.evaluation.metrics.leaves import leaf_score
from instaseg_ros.evaluation.metrics.nuclei import ap_dsb
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.metrics.regions import region_precision
from instaseg_ros.evaluation.overlaps import FrameCounts, frame_counts
from instaseg_ros.evaluation.summary import summarize, table

Row = list[tuple[int, int, int]]  # value, first and last column


def rows(*objects: Row) -> np.ndarray:
    """A label image (10 * rows, 100) of boxes ten pixels high, one list of them under the other."""
    labels = np.zeros((10 * len(objects), 100), np.uint16)
    for k, row in enumerate(objects):
        for value, first, last in row:
            labels[10 * k : 10 * k + 10, first:last] = value
    return labels


def counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    scores: list[float],
    classes: tuple[list[int], list[int]] | None = None,
    **regions: np.ndarray,
) -> FrameCounts:
    ids = np.unique(truth[truth > 0])
    true_classes, predicted_classes = classes or ([0] * len(ids), [0] * len(scores))
    found = predictions(predicted, np.array(predicted_classes, np.int64), np.array(scores))
    return frame_counts(truth, ids, np.array(true_classes), found, min_pixels=0, **regions)


# Objects of 40 columns: found whole; by 32 (IoU 0.8); by 16 (IoU 0.4); missed. One in the void.
TRUTH = rows([(1, 0, 40)], [(2, 0, 40)], [(3, 0, 40)], [(4, 0, 40)], [])
FOUND = rows([(1, 0, 40)], [(2, 0, 32)], [(3, 0, 16)], [], [(4, 0, 40)])
FRAME = counts(TRUTH, FOUND, [0.9, 0.8, 0.7, 0.6])
NOTHING = counts(rows([]), rows([]), [])


def test_panoptic_quality() -> None:
    quality = panoptic_quality([FRAME, NOTHING], 0)
    assert quality.sq == pytest.approx((1 + 0.8) / 2)
    assert quality.rq == pytest.approx(2 / (2 + 0.5 * 2 + 0.5 * 2))
    assert quality.pq == pytest.approx(quality.sq * quality.rq)
    assert math.isnan(panoptic_quality([FRAME], 1).pq)


def test_score_of_the_data_science_bowl() -> None:
    half = counts(rows([(1, 0, 40)]), rows([(1, 0, 40)], [])[:10], [0.5])
    score = ap_dsb(rank([FRAME, half, NOTHING], 0))
    # Two right of 4 and 4 up to IoU 0.7, then one; 0.8 is not above 0.8. And one of one.
    assert score.total == pytest.approx([3 / 7, 3 / 7, 3 / 7, 2 / 8, 2 / 8])
    assert score.by_image == pytest.approx([(2 / 6 + 1) / 2] * 3 + [(1 / 7 + 1) / 2] * 2)


def test_symmetric_best_dice_and_difference_in_count() -> None:
    score = leaf_score([FRAME], 0)
    # Dice of the objects: 1, 2 * 32 / 72, 2 * 16 / 56, 0; of the predictions likewise.
    assert score.sbd == pytest.approx((1 + 64 / 72 + 32 / 56) / 4)
    assert score.dic == 0
    merged = counts(rows([(1, 0, 40), (2, 40, 60)]), rows([(1, 0, 60)]), [0.9])
    # From the truth's side (2 * 40 / 100 + 2 * 20 / 80) / 2, from the prediction's 0.8.
    assert leaf_score([merged], 0) == pytest.approx(((0.8 + 0.5) / 2, 1))
    missed = counts(rows([(1, 0, 40)]), rows([]), [])
    assert leaf_score([missed, NOTHING, merged], 0) == pytest.approx(((0 + 0.65) / 2, 2 / 3))
    assert all(map(math.isnan, leaf_score([NOTHING], 0)))


def test_region_precision_takes_the_surest_of_several() -> None:
    # At 0.5 and 0.7: right, right, wrong, wrong of four objects.
    precision = region_precision([FRAME], 0)
    assert precision.at_50 == precision.at_70 == pytest.approx(2 / 4)
    # 0.1 to 0.4 the third is right too; 0.5 to 0.8 two, at 0.9 one.
    assert precision.volume == pytest.approx((4 * 3 / 4 + 4 * 2 / 4 + 1 / 4) / 9)
    split = counts(rows([(1, 0, 40)]), rows([(1, 0, 16), (2, 16, 32)]), [0.6, 0.9])
    # Both halves have IoU 0.4: up to there the surer one is right, the other wrong, area 1.
    assert region_precision([split], 0).volume == pytest.approx(4 / 9)
    # A wrong one before the right one: precision 1/2 at recall 1.
    late = counts(rows([(1, 0, 40)]), rows([(1, 0, 40), (2, 60, 90)]), [0.6, 0.9])
    assert region_precision([late], 0).at_50 == pytest.approx(1 / 2)


def test_void_excuses_all_classes_and_a_group_its_own() -> None:
    void, group = np.zeros((20, 100), bool), np.zeros((20, 100), np.uint8)
    void[10:, :30] = True
    group[10:, 40:70] = 2  # of class 1
    truth = rows([(1, 0, 40), (2, 50, 90)], [])
    for region, excused in ((0, True), (40, False)):
        predicted = rows([(1, 0, 40), (2, 50, 90)], [(3, region, region + 30)])
        frame = counts(
            truth, predicted, [0.5, 0.5, 0.9], ([0, 1], [0, 1, 0]), ignore=void, crowd=group
        )
        ap = average_precision([frame], ["car", "bus"])
        assert ap["bus"].ap50 == 1
        assert (ap["car"].ap50 == 1) == excused
        assert (panoptic_quality([frame], 0).pq == 1) == excused
        assert (ap_dsb(rank([frame], 0)).total[0] == 1) == excused
        assert (leaf_score([frame], 0).dic == 0) == excused
        assert (region_precision([frame], 0).at_50 == 1) == excused
        assert not breakdown.confusion([frame], 2)[-1].any()  # a group is not nothing
        assert frame.counted.tolist() == [True, True, False]


@pytest.mark.parametrize("columns", [(0, 40), (0, 20), (20, 60), (-40, 100)])
def test_ignored_ground_on_an_object_is_no_part_of_it(columns: tuple[int, int]) -> None:
    """Neither of its pixels nor of those found, so no share is above 1."""
    ignore = np.zeros((20, 100), bool)
    ignore[:10, max(columns[0], 0) : columns[1]] = True
    truth = rows([(1, 0, 40), (2, 50, 90)], [(3, 0, 10)])
    for predicted in (truth, rows([(1, 0, 40), (2, 50, 90)], [(3, 0, 4)])):
        frame = counts(truth, predicted, [0.9, 0.8, 0.7], ignore=ignore)
        assert (frame.overlap.sum(0) + frame.ignored_px <= frame.predicted_px).all()
        quality = panoptic_quality([frame], 0)
        perfect = predicted is truth
        assert quality.pq <= quality.sq <= 1 and (quality.pq == 1) == perfect
        for value in (*leaf_score([frame], 0)[:1], *region_precision([frame], 0)):
            assert 0 <= value <= 1
        expected = 1 + sum((~ignore & (truth == i)).any() for i in (1, 2))
        assert frame.counted.sum() == expected  # nothing is left of the others


def test_loss_of_a_frame_is_what_ap_would_gain_without_it() -> None:
    rng = np.random.default_rng(3)
    frames = [metric_scene(rng, 2).counts() for _ in range(5)]
    losses = frame_losses(rankings(frames, ["car", "bus"]).values())
    whole = average_precision(frames, ["car", "bus"])["mean"].ap
    for k, loss in enumerate(losses):
        rest = average_precision(frames[:k] + frames[k + 1 :], ["car", "bus"])["mean"].ap
        assert loss == pytest.approx(rest - whole)
    assert len(set(losses)) == 5


def test_precision_and_recall_by_score() -> None:
    curve = precision_recall(rank([FRAME], 0), 0.5)
    assert curve is not None
    assert curve.scores.tolist() == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert curve.precision == pytest.approx([2 / 4, 2 / 3, 1, 1, 1])
    assert curve.recall == pytest.approx([2 / 4, 2 / 4, 2 / 4, 1 / 4, 0])
    assert precision_recall(rank([NOTHING], 0), 0.5) is None


def test_touching_border() -> None:
    labels = np.zeros((6, 8), np.uint16)
    labels[2:4, 2:4] = 1  # eight sides, two of them at its neighbour
    labels[2:4, 4:6] = 2
    labels[0:2, 7] = 3  # at the image's edge: three sides of six have an outside
    shares = breakdown.touching_percent(labels, np.array([1, 2, 3], np.uint16))
    assert shares.tolist() == [25, 25, 0]
    alone = np.ones((4, 4), np.uint16)
    assert breakdown.touching_percent(alone, np.array([1], np.uint16)).tolist() == [0]


def test_ap_by_size_counts_each_object_and_each_error_once() -> None:
    truth = rows([(1, 0, 2), (2, 10, 50)], [])  # 20 and 400 pixels
    predicted = rows([(2, 10, 50)], [(3, 0, 3)])  # the large one found, a wrong one of 30 pixels
    frame = counts(truth, predicted, [0.1, 0.5, 0.9])._replace(min_pixels=10)
    bins = breakdown.ap_by_size([frame], ["car"])
    assert [(b.low, b.high) for b in bins] == [(10, 40), (40, 160), (160, 640)]
    assert [b.ap.objects for b in bins] == [1, 0, 1]
    assert bins[0].ap.ap50 == 0
    assert bins[2].ap.ap50 == 1  # undisturbed by the wrong one, which is small
    assert average_precision([frame], ["car"])["mean"].ap50 < 0.5


def test_ap_by_size_of_each_class() -> None:
    truth = rows([(1, 0, 2), (2, 10, 50)], [])  # a car of 20 pixels, a bus of 400
    predicted = rows([(2, 10, 50)], [])
    frame = counts(truth, predicted, [0.5, 0.9], ([0, 1], [0, 1]))._replace(min_pixels=10)
    first, _, last = (one.facts() for one in breakdown.ap_by_size([frame], ["car", "bus"]))
    assert first["per_class"]["car"] == {"ap": 0, "ap50": 0, "objects": 1}
    assert first["per_class"]["bus"]["objects"] == last["per_class"]["car"]["objects"] == 0
    assert last["per_class"]["bus"]["ap50"] == last["ap50"] == 1
    assert (first["low"], first["high"], last["high"]) == (10, 40, 640)


def test_confusion_of_classes() -> None:
    truth = rows([(1, 0, 40), (2, 50, 90)], [(3, 0, 40)], [])
    predicted = rows([(1, 0, 40), (2, 50, 90)], [], [(3, 0, 20)])
    frame = counts(truth, predicted, [0.5] * 3, ([0, 0, 1], [0, 1, 1]))
    assert breakdown.confusion([frame, frame], 2).tolist() == [[2, 2, 0], [0, 0, 2], [0, 2, 0]]


def test_reliability_of_scores() -> None:
    bins = breakdown.reliability([rank([FRAME], 0)], bins=2)
    assert bins.score == pytest.approx([0.65, 0.85])
    assert bins.iou == pytest.approx([0.2, 0.9])
    assert bins.predictions.tolist() == [2, 2]
    assert not len(breakdown.reliability([rank([NOTHING], 0)]).score)


def test_summary_has_every_metric_and_its_mean() -> None:
    summary = summarize([FRAME, NOTHING], rankings([FRAME, NOTHING], ["car", "bus"]))
    car, bus = summary["per_class"]["car"], summary["per_class"]["bus"]
    assert summary["objects"] == car["objects"] == 4
    assert car["ap_dsb"]["0.5"] == summary["ap_dsb"]["0.5"] == pytest.approx(2 / 6)
    for key in ("ap", "ap50", "pq", "sq", "rq", "sbd", "dic", "apr50", "apr70", "apr_volume"):
        assert summary[key] == car[key]
        assert math.isnan(bus[key])
    lines = table(summary).splitlines()
    assert [line.split()[0] for line in lines] == ["class", "car", "bus", "mean"]
    assert lines[2].split()[1:] == ["-"] * 6 + ["0"]


def test_frames_without_anything_have_no_number() -> None:
    summary = summarize([NOTHING], rankings([NOTHING], ["car"]))
    assert summary["objects"] == 0
    assert math.isnan(summary["ap"])
    assert math.isnan(summary["ap_dsb"]["0.9"])
    assert frame_losses([rank([NOTHING], 0)]).tolist() == [0]
    assert breakdown.ap_by_size([NOTHING], ["car"])[0].ap.objects == 0
