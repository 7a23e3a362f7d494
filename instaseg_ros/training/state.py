"""The state of a training: initial weights, results, and what a killed run needs to resume."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instaseg_ros import __version__
from instaseg_ros.checkpoint import (
    INPUT_SIZE,
    Checkpoint,
    describe,
    load_checkpoint,
    save_checkpoint,
)
from instaseg_ros.config import Config
from instaseg_ros.config.options.shared import shape_of
from instaseg_ros.contract import format_of, written
from instaseg_ros.errors import ConfigError
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision
from instaseg_ros.files import written_whole
from instaseg_ros.methods import BACKGROUND, Method
from instaseg_ros.methods.depth import EgoMotion
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.model.heads import DENSE
from instaseg_ros.training.data import Batch

TRAINING = format_of("training state")

log = logging.getLogger(__name__)


class Learners(nn.Module):
    """The network and what is trained with it: a further output is `motion`, the camera's."""

    def __init__(self, network: ERFNet, ego_motion: EgoMotion | None = None) -> None:
        super().__init__()
        self.network, self.ego_motion = network, ego_motion

    def forward(
        self,
        images: Tensor,
        state: Tensor | None = None,
        frames: int = 1,
        intrinsics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """images, state, frames: see `ERFNet.forward`. intrinsics: (B, 3, 3) of the images; None:
        motion is not needed."""
        features = self.network.encoder(images)
        decoded = self.network.decode_features(features, state, frames)
        outputs = self.network.split_heads(decoded)
        if self.network.dense is not None and not self.training:
            with torch.autocast(images.device.type, enabled=False):
                # bf16 cannot resolve the scores of many classes
                outputs[DENSE] = self.network.dense(features.deep.float())
        if self.ego_motion is not None and intrinsics is not None:
            with torch.autocast(images.device.type, enabled=False):
                clips = (x.unflatten(0, (-1, frames)) for x in (images, intrinsics))
                outputs["motion"] = self.ego_motion(*clips)
        return outputs


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """Everything that a step changes.

    ego_motion: trained too if depth is learned and the camera's motion is unknown.
    """

    network: ERFNet
    average: ERFNet
    optimizer: torch.optim.Optimizer
    ego_motion: EgoMotion | None = None

    def _parts(self) -> dict[str, Any]:
        fields = (field.name for field in dataclasses.fields(self))
        parts = {name: getattr(self, name) for name in fields}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path, step: int) -> None:
        """Write the state after `step` steps, whole or not at all."""
        contents = {name: part.state_dict() for name, part in self._parts().items()}
        _save({**written("training state"), "step": step, **contents}, path)

    def resume(self, path: Path) -> int:
        """Load the state that a run saved, if any; returns the number of steps done."""
        if not path.is_file():
            return 0
        device = next(self.network.parameters()).device
        way_out = "choose another directory with --output, or remove it"
        try:
            # A run's own file in its own directory: read with any torch, unlike foreign .pth files.
            state = torch.load(path, map_location=device, weights_only=True)
            if state.get("format", TRAINING) != TRAINING:  # earlier ones had none
                raise ValueError(f"its format is not '{TRAINING}'")
            step = state["step"]
            if type(step) is not int or step < 0:
                raise ValueError(f"'step' is {step!r}")
        except Exception as error:  # torch raises many kinds for a bad file
            raise ConfigError(
                f"{path} is not what a run saves, or was cut off ({_first_line(error)}); {way_out}"
            ) from error
        try:
            # This device, not the one that saved, decides how steps are computed.
            saved = state["optimizer"]["param_groups"]
            for group, own in zip(saved, self.optimizer.param_groups, strict=True):
                group.update({name: own[name] for name in ("fused", "foreach", "capturable")})
            if "dense" in state and self.ego_motion is None:  # once trained beside the network
                for name in ("network", "average"):
                    for kind, tensor in state["dense"].items():
                        state[name][kind.replace("classify", "dense")] = tensor
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
        except Exception as error:
            raise ConfigError(
                f"{path} belongs to a run with another network or other classes; {way_out} "
                f"({_first_line(error)})"
            ) from error
        log.info("resuming %s after step %d", path, step)
        return step


@torch.no_grad()
def start_from(
    network: ERFNet,
    method: Method,
    class_names: Sequence[str],
    weights: str,
    new_heads: bool = False,
    dense_names: Sequence[str] = (),
) -> None:
    """Copy every block and head of `weights` that fits, and from heads with a channel per class the
    channels of classes with the same name; other channels stay unchanged.

    new_heads: copy no head. dense_names: the classes of the network's `dense`.
    """
    checkpoint = load_checkpoint(weights)
    other, theirs = checkpoint.network(), checkpoint.method()
    parts = [(network.head_parameters(h.name), h.name) for h in network.heads]
    fresh = {name: [tensor.clone() for tensor in views] for views, name in parts}
    network.start_from(other)
    for views, name in parts:  # heads share a layer, which may have been copied whole
        _copy(views, fresh[name])
    if new_heads:
        log.info("from %s: no head, as train.new_heads says", weights)
        return
    for head in network.heads:
        if head in other.heads and head.name not in method.class_channels:
            _copy(network.head_parameters(head.name), other.head_parameters(head.name))
    for name in method.class_channels.keys() & theirs.class_channels.keys():
        sources = _channels_by_class(theirs, name, checkpoint.class_names)
        for key, channel in _channels_by_class(method, name, class_names).items():
            if key in sources:
                _copy(
                    network.head_parameters(name, channel),
                    other.head_parameters(name, sources[key]),
                )
    _copy_dense(network, dense_names, other, checkpoint.dense_names)
    known = [name for name in class_names if name in checkpoint.class_names]
    new = [name for name in class_names if name not in known]
    log.info("from %s: %s; new: %s", weights, ", ".join(known) or "none", ", ".join(new) or "none")


def _copy_dense(
    network: ERFNet, names: Sequence[str], other: ERFNet, other_names: Sequence[str]
) -> None:
    """Copy the channels of `dense` whose names both have."""
    if network.dense is None or other.dense is None:
        return
    for new, old in zip(network.dense.parameters(), other.dense.parameters(), strict=True):
        for channel, name in enumerate(names):
            if name in other_names:
                new[channel] = old[other_names.index(name)]


def _channels_by_class(
    method: Method, head: str, class_names: Sequence[str]
) -> dict[tuple[str, int], int]:
    """A head's channels by class name and index among that class's channels."""
    found: dict[tuple[str, int], int] = {}
    for channel, class_id in enumerate(method.class_channels[head]):
        name = "" if class_id == BACKGROUND else class_names[class_id]
        found[name, sum(known == name for known, _ in found)] = channel
    return found


def _copy(own: Sequence[torch.Tensor], source: Sequence[torch.Tensor]) -> None:
    if [t.shape for t in own] == [t.shape for t in source]:
        for new, old in zip(own, source, strict=True):
            new.copy_(old)


def save_weights(
    path: Path,
    average: ERFNet,
    config: Config,
    class_names: tuple[str, ...],
    dense_names: tuple[str, ...],
    step: int,
    table: Mapping[str, AveragePrecision],
) -> None:
    """Write the checkpoint with its training configuration, and its AP on held-out samples."""
    notes = {
        "step": step,
        "version": __version__,
        "train": {
            **dataclasses.asdict(config.train),
            "dataset": Path(config.train.dataset).resolve().name,
            "backgrounds": Path(config.train.backgrounds).name,
            "teacher": Path(config.train.teacher).name,
        },
        "validation": {name: row._asdict() for name, row in table.items()},
    }
    checkpoint = checkpoint_of(average, config, class_names, dense_names)
    save_checkpoint(dataclasses.replace(checkpoint, notes=notes), path, torch.float16)


def checkpoint_of(
    network: ERFNet,
    config: Config,
    class_names: tuple[str, ...],
    dense_names: tuple[str, ...] = (),
) -> Checkpoint:
    """The checkpoint of a network that is trained as configured."""
    return Checkpoint(
        network.state_dict(),
        class_names,
        config.method.name,
        config.method.profile,
        decode=dataclasses.asdict(config.decode),
        input={
            name: value
            for name, value in dataclasses.asdict(config.input).items()
            if f"input.{name}" in INPUT_SIZE
        },
        shape=shape_of(config.method),
        dense_names=dense_names,
    )


def mean_ap(path: Path) -> float:
    """The mean AP saved with a run's weights; -1 if there are none.

    Raises ConfigError for weights that are not a run's.
    """
    if not path.is_file():
        return -1.0
    try:
        return float(describe(path).notes["validation"]["mean"]["ap"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected weights of this run, with their AP on validation; move it away"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save_batch(path: Path, batch: Batch) -> None:
    """Write the input of a step, for `torch.load(path, weights_only=True)`."""
    _save({**batch.targets._asdict(), "images": batch.images}, path)


def _save(content: dict[str, Any], path: Path) -> None:
    with written_whole(path) as part:
        torch.save(content, part)
