"""Files of parameters, and `--set`."""

from __future__ import annotations

from pathlib import Path

from instaseg_ros.config import Config, dump, load, merge, parse_assignments
from instaseg_ros.ros.parameter_file import parameter_file

MEMORY_MB = 500
NODES = """
/**/front:
  instaseg_node:
    ros__parameters: {use_sim_time: true, decode.min_pixels: 3}
/*:
  ros__parameters:
    decode: &d {seed_threshold: 1e-1, first_come: false}
    tracking: {min_match: .5}
"""
TRAINING = """
decode: {min_pixels: 5, seed_threshold: 0.5}
input: {height: 8}
train: {class_weights: {a: 2, b: 0.5}, steps: 4, learning_rate: 1e-3, seed: 0x1F}
weights: 2020-10-10
"""


def seeds() -> list[bytes]:
    return [text.encode() for text in (parameter_file(), dump(Config()), NODES, TRAINING[:-20])]


def feed(data: bytes, folder: Path) -> None:
    path = folder / "c.yaml"
    path.write_bytes(data)
    config = load(path)
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    words = data.decode(errors="replace").split("\n")[-3:]
    merge(Config(), parse_assignments([word for word in words if "=" in word]))
