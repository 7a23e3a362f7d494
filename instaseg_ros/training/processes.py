"""Trains in several processes started by `torchrun`. Only the first of them writes."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from instaseg_ros.errors import ConfigError
from instaseg_ros.model.erfnet import Encoder
from instaseg_ros.runtimes.torch_runtime import pick_device


@dataclass(frozen=True, slots=True)
class Group:
    """rank: of this process, 0 <= rank < size. device: the one it trains on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def wrap(self, model: nn.Module, fixed_batchnorm: bool) -> nn.Module:
        """Wrap `model` so that every backward pass averages the gradients of all processes.

        On CUDA, BatchNorm sees the images of all processes. On a CPU each process normalises with
        its own share of the batch, and the statistics of the first process are kept.
        """
        if self.size == 1:
            return model
        for module in model.modules():
            if isinstance(module, Encoder):
                module.output_conv.requires_grad_(False)  # no head uses it
        cuda = self.device.type == "cuda"
        if cuda and not fixed_batchnorm:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        devices = [self.device.index] if cuda else None
        return nn.parallel.DistributedDataParallel(model, devices)

    def mean(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Average scalars over the processes."""
        together = torch.stack([value.detach().float() for value in values.values()])
        if self.size > 1:
            distributed.all_reduce(together)
        return dict(zip(values, (together / self.size).tolist(), strict=True))

    def of_first(self, value: float) -> float:
        """The first process's value."""
        if self.size == 1:
            return value
        together = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(together, 0)
        return float(together)

    def any(self, value: bool) -> bool:
        """Whether the value is true in any of the processes."""
        if self.size == 1:
            return value
        together = torch.tensor(float(value), device=self.device)
        distributed.all_reduce(together)
        return bool(together > 0)

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in order of rank."""
        if self.size == 1:
            return items
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process runs the block before all others do."""
        if self.rank:
            distributed.barrier()
        yield
        if self.size > 1 and not self.rank:
            distributed.barrier()


@contextlib.contextmanager
def process_group(device: str, batch_size: int) -> Iterator[Group]:
    """The processes that torchrun started, or this one alone: NCCL between GPUs, else Gloo.

    Raises ConfigError if `batch_size` images cannot be shared evenly.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if batch_size % size:
        raise ConfigError(
            f"train.batch_size: expected a multiple of the {size} processes, got {batch_size}"
        )
    picked = pick_device(device)
    if size == 1:
        yield Group(picked)
        return
    if picked.type == "cuda":
        picked = pick_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        torch.cuda.set_device(picked)
    if rank:
        logging.getLogger("instaseg_ros").setLevel(logging.WARNING)
    distributed.init_process_group("nccl" if picked.type == "cuda" else "gloo")
    try:
        yield Group(picked, rank, size)
    finally:
        distributed.destroy_process_group()
