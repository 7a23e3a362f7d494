"""AP of a network in training, and mean IoU of its semantic head, on held-out samples."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from instaseg_ros.cameras import Cameras, keep_states, take_states
from instaseg_ros.config import Config
from instaseg_ros.datasets import least_pixels
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision, average_precision
from instaseg_ros.evaluation.metrics.semantics import confusion, frame_confusion, mean_iou
from instaseg_ros.evaluation.overlaps import frame_counts
from instaseg_ros.methods import Method
from instaseg_ros.methods.dense_semantics import DenseSemantics
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.model.heads import STRIDE
from instaseg_ros.model.temporal import NEXT_STATE
from instaseg_ros.preprocess import Geometry, preprocess, restore
from instaseg_ros.runtimes.torch_runtime import pick_precision
from instaseg_ros.samples import SYNTHETIC_MIN_PIXELS
from instaseg_ros.training.processes import Group
from instaseg_ros.training.source import Source


class Validation(NamedTuple):
    """table: AP by class name and under `mean`. mean_iou: of the classes of pixels, the dense ones
    where they are learned along, else those of a head `semantic`; None without either."""

    table: dict[str, AveragePrecision]
    mean_iou: float | None


def autocast(device: torch.device) -> torch.autocast:
    """bf16 where the device multiplies it in hardware. It has the range of fp32, so no gradient
    scaling is needed."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = pick_precision("auto", device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


@torch.inference_mode()
def validate(
    network: ERFNet,
    method: Method,
    config: Config,
    source: Source,
    group: Group,
    dense: DenseSemantics | None = None,
) -> Validation:
    """AP and mean IoU on held-out samples, spread over the set and shared out among the processes.

    A method with a memory sees clips, and goes on where `take_states` lets it. True objects count
    from 100 pixels on; on recorded images, as `least_pixels` of the dataset says.
    """
    data, counts, confusions = source.held_out, [], []
    recorded = config.train.dataset != "synthetic"
    wanted = spread(len(data), config.train.validation_frames, config.train.clip_frames)
    cameras = Cameras() if method.temporal else None
    for index in np.array_split(wanted, group.size)[group.rank]:
        sample = data[int(index)]
        pixels, geometry = preprocess([sample.frame.image], config.input, network.stride)
        image = torch.from_numpy(pixels).to(group.device).permute(0, 3, 1, 2)
        seen = cameras.of([sample.frame]) if cameras is not None else []
        with autocast(group.device):
            past = take_states(seen, pixels.shape[1:3])
            features = network.encoder(image.float() / 255)
            outputs = network.split_heads(network.decode_features(features, past))
        if seen:
            keep_states(seen, outputs.pop(NEXT_STATE))
        height, width = geometry.scaled
        outputs = {name: output[..., :height, :width].float() for name, output in outputs.items()}
        found = restore(method.decode(outputs, config.decode)[0], geometry)
        least = least_pixels(data, *sample.labels.shape) if recorded else SYNTHETIC_MIN_PIXELS
        truth = sample.labels, sample.ids, sample.class_ids
        counts.append(frame_counts(*truth, found, sample.ignore, sample.crowd, least))
        if dense is not None:
            if sample.semantic is not None:
                scores = dense(features.deep.float())
                confusions.append(_dense_confusion(scores, geometry, sample.semantic))
        elif "semantic" in outputs:
            classes = outputs["semantic"][0].argmax(0).cpu().numpy()
            known = len(source.class_names) + 1
            confusions.append(frame_confusion(*truth, classes, known, sample.ignore, sample.crowd))
    table = average_precision(group.gather(counts), source.class_names)
    matrices = group.gather(confusions)
    return Validation(table, mean_iou(np.sum(matrices, axis=0)) if matrices else None)


def spread(count: int, frames: int, clip: int) -> NDArray[np.int64]:
    """About `frames` of `count` indices, in clips of `clip`, ascending; all if there are fewer."""
    if frames >= count:
        return np.arange(count)
    starts = np.linspace(0, max(1, count - clip + 1), max(1, frames // clip), endpoint=False)
    return np.unique(starts.astype(int)[:, None] + np.arange(min(clip, count)))


def _dense_confusion(
    scores: Tensor, geometry: Geometry, semantic: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Pixels of one image by true and seen class, 0 being those of no known class.

    scores: of `DenseSemantics`.
    """
    scores = interpolate(scores.float(), scale_factor=STRIDE, mode="bilinear")
    height, width = geometry.scaled
    seen = scores[0, :, :height, :width].argmax(0).cpu().numpy().astype(np.uint8) + 1
    size = semantic.shape[::-1]
    there = cv2.resize(seen, size, interpolation=cv2.INTER_NEAREST)
    return confusion(semantic, there, scores.shape[1] + 1, semantic == 0)
