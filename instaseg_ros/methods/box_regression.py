"""Per-pixel boxes (Wu, Shen, van den Hengel 2016, arXiv 1605.06885).

Every pixel predicts its class and the box of its instance. Objects are found where many pixels
vote for one box centre, and consist of those pixels (`clustering.box_votes`). The paper trains two
networks; here both heads share an encoder. Its thresholds are not known: those here are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from instaseg_ros.clustering.box_votes import cpu
from instaseg_ros.clustering.ellipses.gpu import on_host
from instaseg_ros.frames import Instances
from instaseg_ros.methods.base import Targets
from instaseg_ros.methods.bootstrapping import hard_pixels
from instaseg_ros.methods.semantic import channel_classes, semantic_loss, semantic_truth
from instaseg_ros.model.heads import Head

if TYPE_CHECKING:
    from instaseg_ros.config.options.box_regression import DecodeConfig, LossConfig
    from instaseg_ros.model.erfnet import ERFNet

# Raw outputs are the offset in units of UNIT_PX and the logarithm of the sides in that unit, so
# that errors of small and large objects have the same magnitude (ours).
UNIT_PX = 32.0
MAX_LOG_SIDE = 6.0  # sides up to 13000 pixels
INITIAL_LOGIT = -3.0  # of every class; the background has 0
BETA = 1 / 16  # smooth L1 is linear beyond an offset of 2 pixels, or 6 % of a side (ours)


def embed(raw: Tensor, position: Tensor) -> Tensor:
    """Boxes (4, ...): centre x, y, height, width in pixels, from raw outputs (4, ...).

    position: (2, ...) x and y of the pixels; pixel centres lie at .5.
    """
    sides = torch.exp(raw[2:].clamp(-MAX_LOG_SIDE, MAX_LOG_SIDE))
    return torch.cat([position + UNIT_PX * raw[:2], UNIT_PX * sides])


def raw_outputs(boxes: Tensor, position: Tensor) -> Tensor:
    """The raw outputs (4, ...) that `embed` turns into these boxes (4, ...)."""
    return torch.cat([(boxes[:2] - position) / UNIT_PX, torch.log(boxes[2:] / UNIT_PX)])


def box_iou(one: Tensor, two: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (4, ...), as `embed` gives them, pair by pair."""
    reach = (one[2:] + two[2:]) / 2 - (one[:2] - two[:2]).flip(0).abs()  # down, across
    down, across = torch.minimum(reach, torch.minimum(one[2:], two[2:])).clamp(min=0)
    common = down * across
    return common / (one[2] * one[3] + two[2] * two[3] - common)


def points(box: Tensor, semantic: Tensor, foreground_threshold: float) -> cpu.Points:
    """The pixels of one image that may have a class more probable than the threshold, with their
    raw outputs from (4, H, W) and (C + 1, H, W)."""
    # Ignoring the other classes can only raise the best one's probability; 1e-3 is for rounding.
    least = float(torch.logit(torch.tensor(foreground_threshold))) - 1e-3
    possible = semantic[1:].amax(0) - semantic[0] > least
    pixels = torch.nonzero(possible.flatten()).squeeze(1)
    height, width = possible.shape
    position = torch.stack([pixels % width, pixels // width]) + 0.5
    boxes = embed(box.flatten(1).index_select(1, pixels), position)
    scores = torch.softmax(semantic.flatten(1).index_select(1, pixels), 0)
    return cpu.Points(pixels, scores, boxes, (height, width))


class BoxRegression:
    """Heads, loss and decoding of the method for `n_classes` classes."""

    name = "box_regression"
    temporal = False

    def __init__(self, n_classes: int) -> None:
        self.heads: tuple[Head, ...] = (
            Head("box", 4, decoder=0),
            Head("semantic", n_classes + 1, decoder=1),
        )
        self.class_channels: Mapping[str, Sequence[int]] = {"semantic": channel_classes(n_classes)}
        self.mirror_turns: Mapping[str, Sequence[int]] = {"box": (0,)}
        self.through_tanh: Sequence[str] = ()

    def initialise(self, network: ERFNet) -> None:
        """Start from boxes of UNIT_PX around every pixel, mostly background."""
        with torch.no_grad():
            for parameters in network.head_parameters("box"):
                parameters.zero_()
            for channel in range(1, self.heads[1].channels):
                network.head_parameters("semantic", channel)[1].fill_(INITIAL_LOGIT)
            network.head_parameters("semantic", 0)[1].zero_()

    def decode(self, outputs: dict[str, Tensor], config: DecodeConfig) -> list[Instances]:
        """Instances of each image: votes are collected on the outputs' device, counted on the CPU.

        outputs: raw `box` (B, 4, H, W), `semantic` (B, C + 1, H, W). See `cpu.group`.
        """
        box, semantic = (outputs[head.name].detach().float() for head in self.heads)
        found = []
        for raw in zip(box, semantic, strict=True):
            *votes, size = points(*raw, config.foreground_threshold)
            pixels, scores, boxes = on_host(*votes)
            found.append(cpu.group(cpu.Points(pixels, scores, boxes, size), config))
        return found

    def loss(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        config: LossConfig,
        class_weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Weighted sum of the box and pixel class terms, as `total`."""
        truth = semantic_truth(targets)
        semantic = semantic_loss(outputs["semantic"], truth, class_weights, config.bootstrap_px)
        box = box_loss(outputs["box"], targets, config.bootstrap_px)
        total = config.weight_instance * box + config.weight_semantic * semantic
        return {"total": total, "box": box, "semantic": semantic}


def box_loss(raw: Tensor, targets: Targets, bootstrap_px: int = 0) -> Tensor:
    """Smooth L1 between raw outputs (B, 4, H, W) and those of the true boxes, summed over the
    four; all instances of the batch have equal weight, as have all pixels of an instance.

    An instance's box encloses its pixels in the image that are not ignored.
    bootstrap_px: see `options`; an object pixel is as correct as the IoU of its box with the true
    one. Returns 0 without objects.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    counts = [len(classes) for classes in targets.class_ids]
    firsts = torch.tensor([sum(counts[:b]) for b in range(len(counts))], device=raw.device)
    own = targets.labels - 1 + firsts[:, None, None]  # number of the instance in the batch
    counted = (targets.labels > 0) & ~targets.ignore
    image, y, x = torch.nonzero(counted, as_tuple=True)
    owner = own[image, y, x]
    sizes = torch.bincount(owner, minlength=sum(counts))
    position = torch.stack([x, y]).to(raw.dtype) + 0.5
    truth = _true_boxes(position, owner, sum(counts))[:, owner]
    predicted = raw[image, :, y, x].T  # (4, N)
    wanted = raw_outputs(truth, position)
    losses = smooth_l1_loss(predicted, wanted, beta=BETA, reduction="none").sum(0)
    weight = 1 / sizes[owner].to(raw.dtype)
    if bootstrap_px:
        right = torch.ones_like(targets.labels, dtype=raw.dtype)
        right[image, y, x] = box_iou(embed(predicted.detach(), position), truth)
        hard = hard_pixels(right.flatten(1), counted.flatten(1), bootstrap_px)
        weight = weight * hard.view_as(counted)[image, y, x]
    return (weight * losses).sum() / weight.sum().clamp(min=torch.finfo(raw.dtype).tiny)


def _true_boxes(position: Tensor, owner: Tensor, n_instances: int) -> Tensor:
    """Boxes (4, K), as `embed` gives them, of each instance's pixels (2, N); NaN without pixels."""
    far = position.new_full((4, n_instances), -torch.inf)
    corners = torch.cat([-position, position]) + 0.5  # negative left and top, right and bottom
    corners = far.scatter_reduce(1, owner.expand(4, -1), corners, "amax")
    center, sides = (corners[2:] - corners[:2]) / 2, corners[2:] + corners[:2]
    return torch.cat([center, sides.flip(0)])
