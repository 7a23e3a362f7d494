"""Weights: their headers, with and without torch, and torch's own files."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from driver import mutated
from safetensors.torch import save
from small_networks import SMALL, untrained_checkpoint

from instaseg_ros.checkpoint import FORMAT, HEADER_KEY, describe, description, load_checkpoint
from instaseg_ros.model.erfnet import PROFILES


def seeds() -> list[bytes]:
    PROFILES.update(SMALL)
    checkpoint = untrained_checkpoint("small")
    header = {
        "format": FORMAT,
        **description(checkpoint),
        "decode": {"min_pixels": 7, "seed_threshold": 0.5},
        "input": {"height": 480},
        "notes": {"licence": "Apache-2.0", "train": {"steps": 3}},
    }
    torchs = io.BytesIO()
    torch.save({"model_state_dict": {"module.a": torch.zeros(2, 3)}, "epoch": 3}, torchs)
    metadata = {HEADER_KEY: json.dumps(header)}
    tensors = dict(checkpoint.tensors)
    return [save(tensors, metadata), torchs.getvalue()]


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Mostly what the header says, in a file whose lengths fit."""
    whole, torchs = seeds
    if rng.random() < 0.2:
        return mutated(rng, [torchs])
    (length,) = struct.unpack("<Q", whole[:8])
    header, tensors = whole[8 : 8 + length], whole[8 + length :]
    if rng.random() < 0.5:
        said = json.loads(header)
        text = said["__metadata__"][HEADER_KEY].encode()
        said["__metadata__"][HEADER_KEY] = mutated(rng, [text]).decode(errors="surrogateescape")
        header = json.dumps(said).encode()
    elif rng.random() < 0.7:
        header = mutated(rng, [header])
    else:
        at = rng.randrange(len(tensors) - 4)
        value = struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38, 0.0)))
        tensors = tensors[:at] + value + tensors[at + 4 :]
    return struct.pack("<Q", len(header)) + header + tensors


def feed(data: bytes, folder: Path) -> None:
    of_torch = data.startswith(b"PK")
    path = folder / ("w.pth" if of_torch else "w.safetensors")
    path.write_bytes(data)
    describe(path)
    if of_torch and b"module.a" in data:
        from instaseg_ros.errors import WeightsError

        try:
            load_checkpoint(path)
        except WeightsError:
            return  # always: it is no network
        raise AssertionError("taken for a network")
    load_checkpoint(path).network()
