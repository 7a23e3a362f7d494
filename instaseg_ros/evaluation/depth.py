"""Evaluates the depth that a method learns, on held-out sequences of the synthetic street:

python -m instaseg_ros.evaluation.depth WEIGHTS
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from instaseg_ros.checkpoint import load_checkpoint
from instaseg_ros.config import Config
from instaseg_ros.datasets import Sample
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.metrics.depth import DepthCounts, absolute_relative_error, depth_counts
from instaseg_ros.evaluation.run import labelled
from instaseg_ros.methods.spatio_temporal import inverse_depth
from instaseg_ros.pipeline import Inferred, Pipeline
from instaseg_ros.runtimes.torch_runtime import LiveRuntime
from instaseg_ros.synthetic_street import SyntheticStreet


class DepthErrors(NamedTuple):
    """Absolute relative errors.

    scaled: of the prediction scaled to each frame's median depth.
    metric: of the unscaled prediction, in metres if the camera's motion was known in training.
    flat: of a trivial prediction, everything at the median depth.
    """

    scaled: float
    metric: float
    flat: float


def evaluate_depth(
    weights: str, sequences: int = 20, frames: int = 5, size: tuple[int, int] = (256, 512)
) -> DepthErrors:
    """Errors on `sequences` held-out sequences of `frames` frames each, of `size` (H, W), multiples
    of 8, processed one after another like a camera's.


    Raises ConfigError for weights of a method without depth.
    """
    checkpoint = load_checkpoint(weights)
    if not any(head.name == "depth" for head in checkpoint.method().heads):
        raise ConfigError(
            f"weights {weights}: method {checkpoint.method_name} predicts no depth; expected "
            "spatio_temporal"
        )
    runtime = LiveRuntime(checkpoint.network().eval())
    pipeline = Pipeline(Config(), checkpoint, runtime)
    street = SyntheticStreet(
        size, split="val", sequences=sequences, frames_per_sequence=frames, depth=True
    )
    scaled: list[DepthCounts] = []
    metric: list[DepthCounts] = []
    flat: list[DepthCounts] = []

    def look(sample: Sample, inferred: Inferred) -> None:
        depth = (1 / inverse_depth(inferred.outputs["depth"]))[0, 0].numpy()
        truth = sample.frame.depth
        assert truth is not None
        scaled.append(depth_counts(depth, truth))
        metric.append(depth_counts(depth, truth, scaled=False))
        flat.append(depth_counts(np.ones(size), truth))

    indices = tqdm(range(len(street)), unit="frame", disable=None)
    for _ in labelled([pipeline], street, indices, look):
        pass  # the objects are not needed
    return DepthErrors(*map(absolute_relative_error, (scaled, metric, flat)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights")
    parser.add_argument("--sequences", type=int, default=20)
    parser.add_argument("--frames", type=int, default=5, help="frames per sequence")
    options = parser.parse_args()
    errors = evaluate_depth(options.weights, options.sequences, options.frames)
    print(
        f"absolute relative error: {errors.scaled:.4f} scaled to the median depth, "
        f"{errors.metric:.4f} unscaled in metres (everything equally far: {errors.flat:.4f})"
    )
