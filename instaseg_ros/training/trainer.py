"""A flat training loop: it goes on where a killed run stopped, and leaves a checkpoint."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from instaseg_ros import __version__
from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, TrainConfig
from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.evaluation.average_precision import AveragePrecision, average_precision
from instaseg_ros.evaluation.counts import frame_counts, scaled_min_pixels
from instaseg_ros.methods import Method, Targets, make_method
from instaseg_ros.network import STRIDE, ERFNet
from instaseg_ros.preprocess import preprocess, restore
from instaseg_ros.runtimes.torch_runtime import pick_device, pick_precision
from instaseg_ros.training.data import Batch, class_names, training_batches, validation_set

log = logging.getLogger(__name__)


class DivergedError(InstasegError):
    """The loss is not a number any more."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(config: Config, run_dir: Path, init: str | None = None) -> Path:
    """Train `config.method` on `config.train.dataset`; resume what `run_dir` holds.

    init: weights to start from instead of random ones. Returns the checkpoint's path,
    `run_dir/weights.safetensors`: the averaged weights after the last step.
    """
    options = config.train
    for name in ("crop_height", "crop_width", "horizon_rows"):
        if getattr(options, name) % STRIDE:
            raise ConfigError(
                f"train.{name}: expected a multiple of {STRIDE}, got {getattr(options, name)}"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    device = pick_device(config.runtime.device)
    torch.manual_seed(options.seed)
    names = class_names(options)
    method = make_method(config.method.name, len(names), config.method.n_sigma)
    network = ERFNet(method.heads, config.method.profile)
    method.initialise(network)
    if init:
        _start_from(network, names, load_checkpoint(init))
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p *= options.dropout
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.Adam(
        network.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    first_step = _resume(run_dir / "state.pt", network, average, optimizer)
    batches = training_batches(options, first_step)
    started = time.monotonic()
    with tqdm(total=options.steps, initial=first_step, unit="step", smoothing=0.05) as progress:
        for step, batch in enumerate(batches, first_step):
            _training_mode(network, options)
            terms = _step(network, method, optimizer, batch, options, step, device)
            _update_average(average, network, min(options.ema_decay, (1 + step) / (10 + step)))
            progress.update()
            done = step + 1
            if done % 20 == 0:
                shown = {name: f"{float(value):.3f}" for name, value in terms.items()}
                progress.set_postfix(shown, refresh=False)
                _append_csv(run_dir / "log.csv", done, time.monotonic() - started, terms)
            if done % options.save_every == 0 or done == options.steps:
                _save_state(run_dir / "state.pt", network, average, optimizer, done)
            if done % options.validate_every == 0 or done == options.steps:
                table = validate(average, method, config, names)
                row = ", ".join(f"{name} {r.ap50:.3f}" for name, r in table.items())
                progress.write(f"step {done}: AP {table['mean'].ap:.3f}, AP50 {row}")
                _save_weights(run_dir, average, config, names, done, table)
    return run_dir / "weights.safetensors"


def _start_from(network: ERFNet, names: tuple[str, ...], checkpoint: Checkpoint) -> None:
    """Take the checkpoint's weights, and its seed map of every class that has the same name."""
    other = checkpoint.network()
    network.start_from(other)
    common = [name for name in names if name in checkpoint.class_names]
    own, theirs = ([n.index(c) for c in common] for n in (names, checkpoint.class_names))
    with torch.no_grad():
        for new, old in zip(
            network.head_parameters("seed"), other.head_parameters("seed"), strict=True
        ):
            dim = new.dim() > 1  # (in, classes, 2, 2) and (classes,)
            new.index_copy_(
                int(dim), torch.tensor(own), old.index_select(int(dim), torch.tensor(theirs))
            )


def _training_mode(network: nn.Module, options: TrainConfig) -> None:
    network.train()
    if options.fixed_batchnorm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def _step(
    network: nn.Module,
    method: Method,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    options: TrainConfig,
    step: int,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    torch.manual_seed(hash((options.seed, step)))  # dropout is the same in a resumed run
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, step)
    images = batch.images.to(device, non_blocking=True).float() / 255
    targets = Targets(
        batch.targets.labels.to(device),
        [c.to(device) for c in batch.targets.class_ids],
        batch.targets.ignore.to(device),
    )
    with _autocast(device):
        outputs = network(images.contiguous(memory_format=torch.channels_last))
    terms = method.loss(outputs, targets, options)
    optimizer.zero_grad(set_to_none=True)
    terms["total"].backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm or math.inf)
    if not torch.isfinite(norm):
        raise DivergedError(
            f"step {step}: the gradient is {float(norm)}, loss terms "
            f"{ {k: v.item() for k, v in terms.items()} }; lower train.learning_rate"
        )
    optimizer.step()
    return {name: value.detach() for name, value in terms.items()}


def _autocast(device: torch.device) -> torch.autocast:
    """bf16 where the device multiplies it in hardware. It has the range of fp32, so no gradient
    scaling is needed."""
    fast = device.type == "cuda" or pick_precision("auto", device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


@torch.no_grad()
def _update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Exponential moving average of weights and BatchNorm statistics."""
    new = network.state_dict()
    for name, old in average.state_dict().items():
        if old.is_floating_point():
            old.lerp_(new[name], 1 - decay)
        else:
            old.copy_(new[name])


@torch.inference_mode()
def validate(
    network: ERFNet, method: Method, config: Config, names: tuple[str, ...]
) -> dict[str, AveragePrecision]:
    """AP on held-out samples, spread over the set. True objects count from 100 pixels on; on
    recorded images, from as many as 100 pixels of a 2048 x 1024 frame are at their size."""
    device = next(network.parameters()).device
    data = validation_set(config.train)
    counts = []
    for index in np.linspace(0, len(data), min(config.train.validation_frames, len(data)), False):
        sample = data[int(index)]
        pixels, geometry = preprocess([sample.frame.image], config.input)
        image = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        with _autocast(device):
            outputs = network(image.float() / 255)
        height, width = geometry.scaled
        outputs = {name: output[..., :height, :width].float() for name, output in outputs.items()}
        found = restore(method.decode(outputs, config.decode)[0], geometry)
        least = (
            100 if config.train.dataset == "synthetic" else scaled_min_pixels(*found.labels.shape)
        )
        truth = sample.labels, sample.ids, sample.class_ids, found, sample.ignore, sample.crowd
        counts.append(frame_counts(*truth, least))
    return average_precision(counts, names)


def _save_state(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    part = path.with_suffix(".part")
    parts: dict[str, Any] = {"network": network, "average": average, "optimizer": optimizer}
    torch.save({"step": step, **{k: v.state_dict() for k, v in parts.items()}}, part)
    os.replace(part, path)


def _resume(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    if not path.is_file():
        return 0
    device = next(network.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    average.load_state_dict(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("resuming %s after step %d", path, state["step"])
    return int(state["step"])


def _save_weights(
    run_dir: Path,
    average: ERFNet,
    config: Config,
    names: tuple[str, ...],
    step: int,
    table: dict[str, AveragePrecision],
) -> None:
    notes = {
        "step": step,
        "version": __version__,
        "train": dataclasses.asdict(config.train),
        "validation": {name: row._asdict() for name, row in table.items()},
    }
    shape = config.method
    checkpoint = Checkpoint(
        average.state_dict(),
        names,
        shape.name,
        shape.n_sigma,
        shape.profile,
        notes,
        dataclasses.asdict(config.decode),
    )
    save_checkpoint(checkpoint, run_dir / "weights.safetensors", torch.float16)


def _append_csv(path: Path, step: int, seconds: float, terms: dict[str, torch.Tensor]) -> None:
    new = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        if new:
            file.write("step,seconds," + ",".join(terms) + "\n")
        file.write(f"{step},{seconds:.1f}," + ",".join(f"{float(v):.6f}" for v in terms.values()))
        file.write("\n")
