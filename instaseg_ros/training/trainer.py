"""Trains in a flat loop, which resumes where a killed run stopped and leaves a checkpoint."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from instaseg_ros.checkpoint import describe
from instaseg_ros.config import Config, TrainConfig
from instaseg_ros.config.options import spatial_embedding, spatio_temporal
from instaseg_ros.config.options.shared import shape_of
from instaseg_ros.errors import ConfigError, InstasegError, require
from instaseg_ros.evaluation.metrics.average_precision import AveragePrecision
from instaseg_ros.methods import Method, make_method
from instaseg_ros.methods.dense_semantics import dense_loss
from instaseg_ros.methods.depth import EgoMotion
from instaseg_ros.model.erfnet import PROFILES, ERFNet, LiteEncoder
from instaseg_ros.model.heads import DENSE
from instaseg_ros.model.lite import imagenet_trunk
from instaseg_ros.runtimes.torch_runtime import autocast, training_precision
from instaseg_ros.training.data import Batch, shown, to_batch, training_batches
from instaseg_ros.training.device_views import device_batches
from instaseg_ros.training.divergence import GradientNorms, Noted
from instaseg_ros.training.interrupt import finishing_the_step
from instaseg_ros.training.logs import Progress, TrainingLog
from instaseg_ros.training.objects import class_weights
from instaseg_ros.training.processes import Group, process_group
from instaseg_ros.training.schedule import is_last, learning_rate
from instaseg_ros.training.source import Source, open_source
from instaseg_ros.training.state import (
    Learners,
    State,
    mean_ap,
    save_batch,
    save_weights,
    start_from,
)
from instaseg_ros.training.teacher import Teacher, imitation_loss
from instaseg_ros.training.validation import live_pipeline, validate
from instaseg_ros.training.views import ObjectViews

WEIGHTS, BEST, STATE = "weights.safetensors", "best.safetensors", "state.pt"

log = logging.getLogger(__name__)


class DivergedError(InstasegError):
    """The loss is no longer a number."""


class Run(NamedTuple):
    """What does not change between steps. class_weights: (classes,) float32."""

    config: Config
    directory: Path
    group: Group
    source: Source
    method: Method
    class_weights: torch.Tensor
    norms: GradientNorms
    teacher: Teacher | None = None

    @property
    def dense_names(self) -> tuple[str, ...]:
        """The dense classes to learn."""
        return self.source.semantic_names if self.config.train.weight_dense else ()

    @property
    def learns_motion(self) -> bool:
        """Whether an `EgoMotion` is trained too."""
        options = self.config.train
        if not isinstance(options, spatio_temporal.LossConfig):
            return False
        depth = options.weight_depth > 0 and options.clip_frames > 1
        return depth and options.ego_motion == "learned"


def train(config: Config, run_dir: Path, init: str | None = None) -> Path:
    """Train `config.method` on `config.train.dataset`; resume the run in `run_dir`, if any.

    init: weights to start from instead of random ones. Returns the checkpoint's path,
    `run_dir/weights.safetensors`: the averaged weights after the last step; beside it are those
    with the best mean AP, `best.safetensors`. Processes started by torchrun share each batch. On
    Ctrl-C the current step is finished and the state saved; then KeyboardInterrupt is raised.
    """
    options = config.train
    stride = PROFILES[config.method.profile].stride
    for name in ("crop_height", "crop_width", "horizon_rows"):
        if getattr(options, name) % stride:
            raise ConfigError(
                f"train.{name}: expected a multiple of {stride}, got {getattr(options, name)}"
            )
    if options.encoder == "imagenet" and not PROFILES[config.method.profile].lite:
        raise ConfigError(
            f"train.encoder: imagenet is for method.profile lite, got {config.method.profile}"
        )
    if options.encoder_held and not PROFILES[config.method.profile].lite:
        raise ConfigError(
            f"train.encoder_held: it is for method.profile lite, got {config.method.profile}; set "
            "it to 0"
        )
    clip = options.clip_frames
    if clip > 1 and not make_method(config.method.name, 1).temporal:
        raise ConfigError(
            f"train.clip_frames: expected 1 for method {config.method.name}, got {clip}"
        )
    bins = isinstance(options, spatial_embedding.LossConfig) and options.lovasz != "exact"
    if options.cache == "device" and (clip > 1 or not bins):
        raise ConfigError(
            "train.cache: device is for method spatial_embedding, whose loss runs on such views "
            "(train.lovasz: binned), and train.clip_frames 1; set it to memory"
        )
    for weights in filter(None, (init, options.teacher)):
        describe(weights)
    if options.tensorboard:
        require("tensorboard", "train", "train.tensorboard")
    with process_group(config.runtime.device, options.batch_size) as group:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK):
            raise ConfigError(f"output {run_dir}: expected a folder that can be written to")
        with group.first_alone():
            source = open_source(options, run_dir)
        names = source.class_names
        by_class = class_weights(options.class_weights, names, source.objects)
        torch.manual_seed(options.seed)
        method = make_method(config.method.name, len(names), **shape_of(config.method))
        taught_by = options.teacher
        teacher = Teacher(taught_by, method, names).to(group.device) if taught_by else None
        norms = GradientNorms(deferred=group.device.type == "cuda")
        run = Run(config, run_dir, group, source, method, by_class.to(group.device), norms, teacher)
        state = _fresh_state(run, init)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # sizes never change
            _loop(run, state, state.resume(run_dir / STATE))
    return run_dir / WEIGHTS


def _fresh_state(run: Run, init: str | None) -> State:
    options = run.config.train
    profile, n_dense = run.config.method.profile, len(run.dense_names)
    network = ERFNet(run.method.heads, profile, run.method.temporal, n_dense)
    run.method.initialise(network)
    theirs = describe(init).profile if init else ""
    if isinstance(network.encoder, LiteEncoder) and theirs != profile:
        if options.encoder == "imagenet":
            network.encoder.trunk.load_state_dict(imagenet_trunk())
        else:
            log.warning("the encoder's trunk is random; train.encoder=imagenet is pretrained")
    if init:
        names = run.source.class_names
        start_from(network, run.method, names, init, options.new_heads, run.dense_names)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p *= options.dropout
    network.to(run.group.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ego_motion = EgoMotion().to(run.group.device) if run.learns_motion else None
    learners = Learners(network, ego_motion)
    parameters = {id(p): p for p in learners.parameters()}
    groups: list[dict[str, Any]] = []
    if isinstance(network.encoder, LiteEncoder):
        for module in network.encoder.trunk.first(options.encoder_held):
            for parameter in module.requires_grad_(False).parameters():
                parameters.pop(id(parameter))
        learning = (p for p in network.encoder.trunk.parameters() if p.requires_grad)
        trunk = [parameters.pop(id(p)) for p in learning]
        groups.append({"params": trunk, "rate": options.encoder_rate})
    groups.insert(0, {"params": list(parameters.values())})
    optimizer = torch.optim.Adam(
        groups,
        options.learning_rate,
        weight_decay=options.weight_decay,
        fused=run.norms.deferred or None,
    )
    return State(network, copy.deepcopy(network).eval(), optimizer, ego_motion)


def _loop(run: Run, state: State, first_step: int) -> None:
    options, group, source = run.config.train, run.group, run.source
    learners = Learners(state.network, state.ego_motion)
    model = group.wrap(learners, options.fixed_batchnorm)
    pipeline = live_pipeline(state.average, run.config, source.class_names, run.dense_names)
    writes = group.rank == 0
    numbers = TrainingLog(run.directory, first_step, options.tensorboard) if writes else None
    if writes and first_step:
        mean_ap(run.directory / BEST)  # refuses foreign weights before they matter
    elif writes:
        (run.directory / BEST).unlink(missing_ok=True)
    average = Average(state)
    cuda = group.device.type == "cuda"
    place = first_step, group.rank, group.size
    batches: Iterable[Batch]
    if options.cache == "device" and isinstance(source.views, ObjectViews):
        batches = device_batches(source.views, options, *place, group.device)
    else:
        batches = training_batches(source.views, options, *place, cuda)
    stopping, elapsed = False, 0.0
    steps = None if options.seconds else options.steps
    progress = Progress(batches, first_step, steps, hidden=not writes)
    written = time.monotonic()
    _training_mode(model, options)
    with finishing_the_step(alone=group.size == 1) as interrupted:
        for step, batch in enumerate(progress, first_step):
            if options.seconds:
                elapsed = group.of_first(numbers.seconds if numbers else 0.0)
            for settings in state.optimizer.param_groups:
                rate = learning_rate(options, step, elapsed)
                settings["lr"] = rate * settings.get("rate", 1.0)
            terms = _step(run, model, state.optimizer, batch, step)
            average.update(min(options.ema_decay, (1 + step) / (10 + step)))
            done = step + 1
            last = is_last(options, done, elapsed)
            logged = done % options.log_every == 0
            if logged or last:
                _check_gradients(run)
                values = group.mean(terms)
                progress.loss(done, values)
                if numbers and logged:
                    numbers.loss(done, values)
            if done % options.validate_every == 0 or last:
                _check_gradients(run)
                found = validate(pipeline, source, options, group)
                if numbers:
                    progress.validation(done, *found)
                    numbers.validation(done, *found)
                    _save_weights(run, state.average, done, found.table)
                    written = time.monotonic()
            if writes and 0 < options.save_every_s <= time.monotonic() - written:
                _check_gradients(run)
                _write_weights(run, WEIGHTS, state.average, done)
                written = time.monotonic()
            stopping = group.any(bool(interrupted)) and not last
            if writes and (done % options.save_every == 0 or last or stopping):
                _check_gradients(run)
                state.save(run.directory / STATE, done)  # last: all before it is done
            if stopping:
                log.info("stopped after step %d: the same command continues from there", done)
            if stopping or last:
                break  # batches are endless if time ends the training
    if numbers:
        numbers.close()
    if stopping:
        raise KeyboardInterrupt


def _step(
    run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int
) -> dict[str, torch.Tensor]:
    options, group = run.config.train, run.group
    # Dropout is the same in a resumed run, but differs between processes. `hash` of integers is the
    # same everywhere; another mix would break the exact resumption of runs under way.
    torch.manual_seed(hash((options.seed, step)) + group.rank)
    with _naming_the_size(options):
        images = batch.images.to(group.device, non_blocking=True).float() / 255
        targets = batch.targets.to(group.device)._replace(images=images)
        with autocast(group.device, training_precision(group.device)):
            given = images.contiguous(memory_format=torch.channels_last)
            outputs = model(given, frames=targets.frames, intrinsics=targets.intrinsics)
            taught = run.teacher(given, targets.frames) if run.teacher else None
        terms = run.method.loss(outputs, targets, options, run.class_weights)
        if DENSE in outputs and targets.semantic is not None:
            terms["dense"] = dense_loss(outputs[DENSE], targets.semantic)
            terms["total"] = terms["total"] + options.weight_dense * terms["dense"]
        if taught is not None:
            terms["teacher"] = imitation_loss(outputs, taught, run.method, targets, options)
            terms["total"] = terms["total"] + options.weight_teacher * terms["teacher"]
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm or math.inf)
    terms = {name: value.detach() for name, value in terms.items()}
    run.norms.note(Noted(step, norm, terms), optimizer)
    if not run.norms.deferred:
        _check_gradients(run)
    optimizer.step()
    return terms


def _check_gradients(run: Run) -> None:
    """Raises DivergedError if a step since the last call had a gradient that is not finite."""
    bad = run.norms.first_bad()
    if bad is None:
        return
    group, options = run.group, run.config.train
    path = run.directory / f"diverged{group.rank or ''}.pt"
    seen = [run.source.views[index] for index in shown(options, bad.step, group.rank, group.size)]
    save_batch(path, to_batch(seen, options.min_object_px))
    raise DivergedError(
        f"step {bad.step}: the gradient is {float(bad.norm)}, loss terms "
        f"{ {k: v.item() for k, v in bad.terms.items()} }; lower train.learning_rate. "
        f"The batch is in {path}, the state before it in state.pt if one was saved"
    )


def _training_mode(model: nn.Module, options: TrainConfig) -> None:
    model.train()
    for module in list(model.modules()):
        if isinstance(module, LiteEncoder):
            for held in module.trunk.first(options.encoder_held):
                held.eval()
    if options.fixed_batchnorm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


@contextlib.contextmanager
def _naming_the_size(options: TrainConfig) -> Iterator[None]:
    """Turn running out of memory into a ConfigError that names the crop and batch size."""
    try:
        yield
    except RuntimeError as error:
        on_cpu = "can't allocate memory" in str(error)  # torch has no error type for it
        if not (on_cpu or isinstance(error, torch.cuda.OutOfMemoryError)):
            raise
        raise ConfigError(
            f"train.batch_size: {options.batch_size} crops of {options.crop_height} x "
            f"{options.crop_width} need more memory than there is; lower it or the crops ({error})"
        ) from error


class Average:
    """The exponential moving average of weights and BatchNorm statistics."""

    def __init__(self, state: State) -> None:
        new = state.network.state_dict()
        pairs = [(old, new[name]) for name, old in state.average.state_dict().items()]
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move a share 1 - decay of the way towards the network."""
        old, new = (list(side) for side in zip(*self._moving, strict=True))
        torch._foreach_lerp_(old, new, 1 - decay)
        old, new = (list(side) for side in zip(*self._counts, strict=True))
        torch._foreach_copy_(old, new)


def _save_weights(run: Run, average: ERFNet, done: int, table: dict[str, AveragePrecision]) -> None:
    """Write the last weights, and the best by mean AP (the last if no class has held-out
    objects)."""
    files = [WEIGHTS]
    if not table["mean"].ap <= mean_ap(run.directory / BEST):
        files.append(BEST)
    for name in files:
        _write_weights(run, name, average, done, table)


def _write_weights(
    run: Run, name: str, average: ERFNet, done: int, table: Mapping[str, AveragePrecision] = {}
) -> None:
    """Write averaged weights. table: AP on held-out samples; empty if not measured."""
    path, names = run.directory / name, run.source.class_names
    save_weights(path, average, run.config, names, run.dense_names, done, table)
