"""Weights that describe themselves: the only place where weights are read or written.

A checkpoint is one `.safetensors` file: the network's tensors, and in its header the method, heads,
class names, the thresholds it was validated with, and the training configuration. Weights of the
published layout (`model_state_dict` with `module.` prefixes, torch files) are imported with
`torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from instaseg_ros.config import Config, InputConfig, merge
from instaseg_ros.errors import ConfigError, WeightsError
from instaseg_ros.files import write_whole
from instaseg_ros.methods import Method, make_method
from instaseg_ros.network import PROFILES, ERFNet

FORMAT = "instaseg_ros/1"
HEADER_KEY = "instaseg_ros"
PUBLISHED_DECODE = {
    "seed_threshold": 0.9,
    "foreground_threshold": 0.5,
    "min_pixels": 128,
    "min_new_fraction": 0.5,
    "first_come": False,
    "agreement": False,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's weights and what they mean.

    tensors: state dict of `ERFNet`. n_sigma, dimensions: see `make_method`.
    profile: of the network.
    notes: free facts for people (training configuration, data, licence, metrics).
    decode, input: fields of `DecodeConfig` and `InputConfig` that suit the weights better than
        their defaults.
    """

    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    method_name: str = "spatial_embedding"
    n_sigma: int = 2
    dimensions: int = 0
    profile: str = "published"
    notes: dict[str, Any] = field(default_factory=dict)
    decode: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        """What height and width of the network's input are multiples of."""
        return PROFILES[self.profile].stride

    def method(self) -> Method:
        """The method these weights were trained for."""
        return make_method(self.method_name, len(self.class_names), self.n_sigma, self.dimensions)

    def network(self) -> ERFNet:
        """An ERFNet with these weights, float32. Raises WeightsError if they do not fit."""
        method = self.method()
        network = ERFNet(method.heads, self.profile, method.temporal)
        _check_fit(network.state_dict(), self.tensors)
        network.load_state_dict({k: v.float() for k, v in self.tensors.items()})
        return network


def shipped_weights() -> dict[str, Path]:
    """Names and files of the weights that come with the package."""
    folder = Path(str(files("instaseg_ros") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def config_with_weights(build: Callable[[Config], Config]) -> Config:
    """`build`, which lays what its user sets over a Config, on the defaults and what suits the
    weights that it asks for: their thresholds, and their input size where none is set.

    Raises WeightsError where those cannot be read.
    """
    asked = build(Config())
    path = _file(asked.weights)
    header = _header(path) if path.suffix == ".safetensors" else {"decode": PUBLISHED_DECODE}
    suits = {"decode": header.get("decode", {})}
    size = attrgetter("height", "width", "scale")
    if size(asked.input) == size(InputConfig()):
        suits["input"] = header.get("input", {})
    try:
        return build(merge(Config(), suits))
    except ConfigError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def load_checkpoint(weights: str | Path) -> Checkpoint:
    """The checkpoint with this shipped name, or in this file.

    Raises WeightsError when there is none, it is damaged, or it is not made for this package.
    """
    path = _file(weights)
    return _read(path) if path.suffix == ".safetensors" else import_published(path)


def _file(weights: str | Path) -> Path:
    shipped = shipped_weights()
    path = shipped.get(str(weights), Path(weights).expanduser())
    if not path.is_file():
        raise WeightsError(
            f"weights '{weights}': neither a shipped name ({', '.join(shipped) or 'none'}) "
            "nor a file"
        )
    return path


def save_checkpoint(
    checkpoint: Checkpoint, path: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write the checkpoint, complete or not at all; floating tensors as `dtype` if given."""
    header = {
        "format": FORMAT,
        **description(checkpoint),
        "decode": dict(checkpoint.decode),
        "input": dict(checkpoint.input),
        "notes": checkpoint.notes,
    }
    tensors = {
        name: (t.to(dtype) if dtype and t.is_floating_point() else t).contiguous().cpu()
        for name, t in checkpoint.tensors.items()
    }
    # Not save_file: its files are readable by their owner alone.
    write_whole(Path(path), save(tensors, {HEADER_KEY: json.dumps(header)}))


def _header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"weights {path}: not a readable safetensors file: {error}") from error
    if header.get("format") != FORMAT:
        raise WeightsError(
            f"weights {path}: expected a header of format '{FORMAT}', got "
            f"'{header.get('format')}'; make such a file with `instaseg train`"
        )
    return header


def _read(path: Path) -> Checkpoint:
    header = _header(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    profile = header.get("profile", "published")  # files of before there was another
    if profile not in PROFILES:
        raise WeightsError(
            f"weights {path}: expected a network profile of {', '.join(PROFILES)}, got '{profile}'"
        )
    checkpoint = Checkpoint(
        tensors,
        tuple(header["class_names"]),
        header["method"],
        header["n_sigma"],
        header.get("dimensions", 0),
        profile,
        header["notes"],
        header.get("decode", {}),
        header.get("input", {}),
    )
    try:
        method = checkpoint.method()
    except ConfigError as error:
        raise WeightsError(f"weights {path}: {error}") from error
    heads = [list(head) for head in method.heads]
    if heads != header["heads"]:
        raise WeightsError(f"weights {path}: expected heads {heads}, got {header['heads']}")
    expected = ERFNet(method.heads, profile, method.temporal).state_dict()
    _check_fit(expected, tensors, str(path))
    return checkpoint


def import_published(path: Path, class_names: tuple[str, ...] | None = None) -> Checkpoint:
    """Weights in the layout published with the paper, of any number of classes and n_sigma.

    Both numbers are read off the tensors. Classes are named `class_0`, ... unless given.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad or an unsafe file
        raise WeightsError(
            f"weights {path}: torch cannot read it as plain tensors ({error}); "
            "save it again with only tensors in `model_state_dict`"
        ) from error
    state = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights {path}: expected tensors by name under 'model_state_dict'")
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    sizes = [tensors.get(f"decoders.{i}.output_conv.bias") for i in (0, 1)]
    n_sigma = 1 if sizes[0] is None else len(sizes[0]) - 2
    n_classes = 1 if sizes[1] is None else len(sizes[1])
    names = class_names or tuple(f"class_{i}" for i in range(n_classes))
    expected = ERFNet(make_method("spatial_embedding", n_classes, n_sigma).heads).state_dict()
    _check_fit(expected, tensors, str(path))
    notes = {"imported_from": path.name}
    return Checkpoint(tensors, names, n_sigma=n_sigma, notes=notes, decode=PUBLISHED_DECODE)


def _check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str = "given"
) -> None:
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, got {tuple(found[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", shapes))
        if names
    ]
    if problems:
        raise WeightsError(f"weights {where} do not fit the network; " + "; ".join(problems))


def description(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the tensors mean: method, network and class names."""
    return {
        "method": checkpoint.method_name,
        "n_sigma": checkpoint.n_sigma,
        "dimensions": checkpoint.dimensions,
        "profile": checkpoint.profile,
        "heads": [list(head) for head in checkpoint.method().heads],
        "class_names": list(checkpoint.class_names),
    }


def weights_hash(checkpoint: Checkpoint) -> str:
    """Sixteen hexadecimal digits that change with any weight, head or class name."""
    digest = hashlib.sha256(json.dumps(description(checkpoint)).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
