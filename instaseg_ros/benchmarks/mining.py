"""Whether frames that a network disagrees about are those in which it is wrong.

    python -m instaseg_ros.benchmarks.mining [WEIGHTS [OTHER_WEIGHTS]]

Held-out sequences of the synthetic street, ten of 3 s at 10 Hz, 256 x 512. For each way to compare:
the rank correlation (Spearman) of a frame's disagreement with its panoptic quality, measured by the
truth; and PQ and AP of all frames, of the tenth that `instaseg mine` picks, and of the tenth that
disagrees the most wherever it is. A tenth by chance: the mean of 20 draws, and the lowest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from instaseg_ros.configure import load_config
from instaseg_ros.evaluation.disagreement import MIRROR, TIME, WEIGHTS, Doubts, pick
from instaseg_ros.evaluation.matching import iou, judge, rankings
from instaseg_ros.evaluation.metrics.average_precision import ap_table
from instaseg_ros.evaluation.metrics.panoptic import panoptic_quality
from instaseg_ros.evaluation.overlaps import FrameCounts, of_class
from instaseg_ros.evaluation.run import begin, extend, match_classes
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.tables import text_table

SEQUENCES, FRAMES = 10, 30
DRAWS = 20


class Watched(Doubts):
    """Doubts about the frames of a dataset, in which each sequence starts anew."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.pipeline.class_names

    def reset(self) -> None:
        self.pipeline.reset()
        self._before = self._pair = None


def quality_of(frame: FrameCounts) -> float:
    """Panoptic quality of a frame, all classes together; 1 if there is nothing."""
    overlap, number = 0.0, 0
    for class_id in set(frame.truth_class.tolist()) | set(frame.predicted_class.tolist()):
        counts = of_class(frame, class_id)
        judged = judge(counts, iou(counts))
        overlap += float(judged.iou[judged.match].sum())
        number += len(counts.truth_px) + int(judged.counted.sum())
    return 2 * overlap / number if number else 1.0


def measured(frames: Sequence[FrameCounts], names: Sequence[str]) -> tuple[float, float]:
    """Mean PQ and AP."""
    pq = [panoptic_quality(frames, c).pq for c in range(len(names))]
    return float(np.nanmean(pq)), ap_table(rankings(frames, names))["mean"].ap


def main() -> None:
    weights = sys.argv[1] if len(sys.argv) > 1 else "street-synthetic-lite"
    against = Pipeline(load_config(weights=sys.argv[2])) if len(sys.argv) > 2 else None
    street = SyntheticStreet(
        (256, 512), split="val", sequences=SEQUENCES, frames_per_sequence=FRAMES, depth=False
    )
    ways = [MIRROR, TIME, *([WEIGHTS] if against else [])]
    doubts = Watched(Pipeline(load_config(weights=weights)), ways, against)
    classes = match_classes(street.class_names, doubts.class_names)
    counts = extend(begin(street, classes), doubts).counts
    true = [quality_of(frame) for frame in counts]
    tenth = len(counts) // 10
    rows: list[tuple[object, ...]] = [("all frames", None, *measured(counts, classes.names))]
    rng = np.random.default_rng(0)
    by_chance = [
        measured([counts[i] for i in rng.choice(len(counts), tenth, replace=False)], classes.names)
        for _ in range(DRAWS)
    ]
    rows.append(("a tenth by chance", None, *np.mean(by_chance, 0)))
    rows.append(("the lowest of these", None, *np.min(by_chance, 0)))
    for way in [*ways, "together"]:
        hidden: dict[str, Any] = dict.fromkeys({*ways} - {way} if way in ways else ())
        own = [row._replace(**hidden) for row in doubts.rows]
        rank = float(spearmanr([row.disagreement for row in own], true)[0])
        for name, apart in (("spread", None), ("wherever", 1)):
            picked = [counts[row.number] for row in pick(own, tenth, apart)]
            rows.append((f"{way}, {name}", rank, *measured(picked, classes.names)))
    print(text_table(("frames", "rank correlation", "PQ", "AP"), rows, ("", "+.2f", ".3f", ".3f")))


if __name__ == "__main__":
    main()
