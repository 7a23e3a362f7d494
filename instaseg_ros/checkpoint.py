"""Reads and writes self-describing weights; nothing else does.

A checkpoint is one `.safetensors` file: the network's tensors, and in its header the method, heads,
class names, the thresholds it was validated with, and the training configuration. Weights of the
published layout (`model_state_dict` with `module.` prefixes, torch files) are imported with
`torch.load(weights_only=True)`.

`describe` reads headers without torch, which takes seconds to import; the functions that need
torch import it themselves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from instaseg_ros.config import Config, assigned, configs_with, merge
from instaseg_ros.config.options import options_of
from instaseg_ros.config.options.schema import shown
from instaseg_ros.config.options.shared import shape_of
from instaseg_ros.errors import ConfigError, WeightsError, nearest
from instaseg_ros.files import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from instaseg_ros.methods import Method
    from instaseg_ros.model.erfnet import ERFNet

log = logging.getLogger(__name__)

FORMAT = "instaseg_ros/1"
HEADER_KEY = "instaseg_ros"
OUR_LICENCE = "Apache-2.0"
MAX_CLASSES, MAX_NAME = 1000, 100  # the second in letters
INPUT_SIZE = {f"input.{name}" for name in ("height", "width", "scale", "min_height", "max_height")}
SAFE_TORCH = (2, 10)  # with older versions a file can make `weights_only` run code
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

    tensors: state dict of `ERFNet`.
    profile: the network profile.
    notes: free-form facts for people (training configuration, data, licence, metrics).
    decode, input: fields of the method's `DecodeConfig` and of `InputConfig` that suit the weights
        better than the defaults.
    shape: fields of the method's `ShapeConfig` that differ from their defaults.
    dense_names: the classes of the network's `dense`, in the order of its channels; empty if it has
        none.
    """

    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...]
    method_name: str = "spatial_embedding"
    profile: str = "published"
    notes: dict[str, Any] = field(default_factory=dict)
    decode: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    dense_names: tuple[str, ...] = ()

    @property
    def stride(self) -> int:
        """Height and width of the network's input are multiples of this."""
        from instaseg_ros.model.erfnet import PROFILES

        return PROFILES[self.profile].stride

    @property
    def method_config(self) -> Any:
        """The `ShapeConfig` of the method these weights were trained for."""
        options = options_of(self.method_name)
        return options.ShapeConfig(self.method_name, self.profile, **self.shape)

    def method(self) -> Method:
        """The method these weights were trained for."""
        from instaseg_ros.methods import make_method

        return make_method(self.method_name, len(self.class_names), **self.shape)

    def network(self) -> ERFNet:
        """An ERFNet with these weights, float32."""
        network = self.fresh_network()
        network.load_state_dict({k: v.float() for k, v in self.tensors.items()})
        return network

    def fresh_network(self) -> ERFNet:
        """An ERFNet for such weights, with random ones."""
        from instaseg_ros.model.erfnet import ERFNet

        method = self.method()
        return ERFNet(method.heads, self.profile, method.temporal, len(self.dense_names))


def shipped_weights() -> dict[str, Path]:
    """Names and files of the weights shipped with the package."""
    folder = Path(str(files("instaseg_ros") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def describe(weights: str | Path) -> Checkpoint:
    """What the weights say about themselves: a checkpoint without tensors and, in the published
    layout, without class names. Needs no torch.

    Raises WeightsError as `load_checkpoint` does, except for faults in the tensors.
    """
    path = _file(weights)
    if path.suffix == ".safetensors":
        return _described(path, _header(path))
    return Checkpoint({}, (), decode=PUBLISHED_DECODE)


def load_checkpoint(weights: str | Path) -> Checkpoint:
    """Load the checkpoint with this shipped name or path.

    Raises WeightsError when it is missing, damaged, or not made for this package.
    """
    path = _file(weights)
    checkpoint = _read(path) if path.suffix == ".safetensors" else import_published(path)
    licence = checkpoint.notes.get("licence", OUR_LICENCE)
    if licence != OUR_LICENCE:
        log.info("weights %s: licence %s", weights, shown(licence))
    return checkpoint


def _file(weights: str | Path) -> Path:
    shipped = shipped_weights()
    try:
        path = shipped.get(str(weights), Path(weights).expanduser())
        found = path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, ~nobody, not a file name
        found = False
    if not found:
        near = nearest(Path(weights).name, shipped)
        hint = f"; did you mean {near}?" if near else ""
        raise WeightsError(
            f"weights '{weights}': neither a shipped name ({', '.join(shipped) or 'none'}) "
            f"nor a file{hint}"
        )
    return path


def save_checkpoint(
    checkpoint: Checkpoint, path: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write the checkpoint, whole or not at all; floating-point tensors as `dtype` if given."""
    from safetensors.torch import save

    tensors = {
        name: (t.to(dtype) if dtype and t.is_floating_point() else t).contiguous().cpu()
        for name, t in checkpoint.tensors.items()
    }
    header = {
        "format": FORMAT,
        **description(checkpoint),
        "decode": dict(checkpoint.decode),
        "input": dict(checkpoint.input),
        "notes": checkpoint.notes,
        "sha256": _digest(tensors),
    }
    # Not save_file: only the owner can read its files.
    write_whole(Path(path), save(tensors, {HEADER_KEY: json.dumps(header)}))


def _header(path: Path) -> Mapping[str, Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
    except Exception as error:  # a parser of foreign files may raise anything
        raise WeightsError(f"weights {path}: not a readable safetensors file: {error}") from error
    found = header.get("format") if isinstance(header, dict) else header
    if found != FORMAT:
        newer = isinstance(found, str) and found.startswith(FORMAT.partition("/")[0])
        remedy = "update instaseg_ros" if newer else "make such a file with `instaseg train`"
        raise WeightsError(
            f"weights {path}: expected a header of format '{FORMAT}', got {shown(found)}; {remedy}"
        )
    return header


def _described(path: Path, header: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint without tensors from a header, whose types and ranges are checked."""
    try:
        missing = [k for k in ("class_names", "method", "heads") if k not in header]
        if missing:
            raise ConfigError(f"its header has no {', '.join(missing)}")
        names = _names(header, "class_names")
        dense_names = _names(header, "dense_names") if "dense_names" in header else ()
        config = merge(Config(), {"method.name": header["method"]})
        parts = {part: header.get(part, {}) for part in ("notes", "decode", "input")}
        for part, content in parts.items():
            if not isinstance(content, dict):
                raise ConfigError(f"{part}: expected a mapping, got {shown(content)}")
        shape = {name: header[name] for name in shape_of(config.method) if name in header}
        assigned(config, {"method": shape})
        # Older files name the options of all methods, which once shared one `decode`.
        parts["decode"] = {
            name: value
            for name, value in parts["decode"].items()
            if hasattr(config.decode, name) or not configs_with(f"decode.{name}")
        }
        suits = assigned(config, {"decode": parts["decode"], "input": parts["input"]})
        others = [n for n in suits if n.startswith("input.") and n not in INPUT_SIZE]
        if others:
            raise ConfigError(f"{others[0]} cannot be set by weights")
    except ConfigError as error:
        raise WeightsError(f"weights {path}: {error}") from error
    return Checkpoint(
        {},
        names,
        method_name=header["method"],
        profile=header.get("profile", "published"),  # older files have none
        shape=shape,
        dense_names=dense_names,
        **parts,
    )


def _names(header: Mapping[str, Any], entry: str) -> tuple[str, ...]:
    names = header[entry]
    if not (isinstance(names, list) and all(_is_class_name(name) for name in names)):
        raise ConfigError(f"{entry}: expected a list of printable words, got {shown(names)}")
    if not 1 <= len(names) <= MAX_CLASSES:
        raise ConfigError(f"{entry}: expected 1 to {MAX_CLASSES}, got {len(names)}")
    return tuple(names)


def _is_class_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable()


def _read(path: Path) -> Checkpoint:
    from instaseg_ros.model.erfnet import PROFILES

    header = _header(path)
    described = _described(path, header)
    if described.profile not in tuple(PROFILES):
        raise WeightsError(
            f"weights {path}: expected a network profile of {', '.join(PROFILES)}, got "
            f"{shown(described.profile)}"
        )
    try:
        heads = [list(head) for head in described.method().heads]
    except ConfigError as error:
        raise WeightsError(f"weights {path}: {error}") from error
    if heads != header["heads"]:
        raise WeightsError(f"weights {path}: expected heads {heads}, got {shown(header['heads'])}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # a type that this torch does not know
        raise WeightsError(f"weights {path}: torch cannot read them: {error}") from error
    checkpoint = replace(described, tensors=tensors)
    _check_fit(checkpoint, path)
    if header.get("sha256", written := _digest(tensors)) != written:
        raise WeightsError(
            f"weights {path}: damaged: the tensors differ from those that were written"
        )
    return checkpoint


def import_published(path: Path, class_names: tuple[str, ...] | None = None) -> Checkpoint:
    """Import weights in the layout published with the paper.

    The number of classes and n_sigma are read off the tensors. Classes are named `class_0`, ...
    unless given. Raises WeightsError also when torch is too old to read such a file safely.
    """
    import torch

    if not reads_safely():
        raise WeightsError(
            f"weights {path}: a file of this kind can make torch {torch.__version__} run code "
            "(CVE-2025-32434, CVE-2026-24747). With torch 2.10 or newer, here or on another "
            f"machine, `instaseg export {path} --to safetensors` converts it for every torch"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a bad or an unsafe file
        lines = str(error).splitlines()
        told = next((line for line in lines if line and "weights_only" not in line), "no reason")
        raise WeightsError(  # without torch's advice to load it unsafely
            f"weights {path}: torch cannot read it as plain tensors ({told}); "
            "save it again with only tensors in `model_state_dict`"
        ) from error
    state = content.get("model_state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(_is_plain(*entry) for entry in state.items()):
        raise WeightsError(f"weights {path}: expected tensors by name under 'model_state_dict'")
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    sizes = [tensors.get(f"decoders.{i}.output_conv.bias") for i in (0, 1)]
    n_offset, n_classes = (1 if bias is None else bias.numel() for bias in sizes)
    n_sigma = 1 if sizes[0] is None else n_offset - 2
    if n_sigma not in (1, 2) or not 1 <= n_classes <= MAX_CLASSES:
        raise WeightsError(
            f"weights {path}: expected 1 or 2 bandwidths and 1 to {MAX_CLASSES} classes, got "
            f"{n_sigma} and {n_classes}, judged by the biases of the last convolutions"
        )
    names = class_names or tuple(f"class_{i}" for i in range(n_classes))
    notes, shape = {"imported_from": path.name}, {"n_sigma": n_sigma}
    checkpoint = Checkpoint(tensors, names, notes=notes, decode=PUBLISHED_DECODE, shape=shape)
    _check_fit(checkpoint, path)
    return checkpoint


def reads_safely() -> bool:
    """Whether no file can make this torch's `load` with `weights_only` run code."""
    import torch

    return _version(torch.__version__) >= SAFE_TORCH


def _version(text: str) -> tuple[int, ...]:
    """(2, 9) of "2.9.1+cu128"."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _is_plain(name: object, value: object) -> bool:
    import torch

    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and (value.layout, value.device.type, value.is_quantized) == (torch.strided, "cpu", False)
    )


def _check_fit(checkpoint: Checkpoint, path: Path) -> None:
    """Raises WeightsError unless the tensors fit the checkpoint's network and are finite."""
    import torch

    found = checkpoint.tensors
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        expected = checkpoint.fresh_network().state_dict()
    known = sorted(expected.keys() & found.keys())
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "misshapen": [
            f"{name}: expected {tuple(expected[name].shape)}, got {tuple(found[name].shape)}"
            for name in known
            if expected[name].shape != found[name].shape
        ],
        "of another type": [
            f"{name}: {found[name].dtype}"
            for name in known
            if expected[name].is_floating_point() != found[name].is_floating_point()
        ],
    }
    if not any(problems.values()):  # checked last: a shape may be absurd
        problems["not numbers, or variances below 0"] = [
            n for n in known if not _sound(n, found[n])
        ]
    said = [
        f"{len(names)} {kind}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        for kind, names in problems.items()
        if names
    ]
    if said:
        raise WeightsError(f"weights {path} do not fit the network; " + "; ".join(said))


def _sound(name: str, tensor: Tensor) -> bool:
    values = tensor.float()
    least = 0.0 if name.endswith("running_var") else float("-inf")
    return bool((values.isfinite() & (values >= least)).all())


def description(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the tensors mean: method, network and class names."""
    return {
        "method": checkpoint.method_name,
        **shape_of(checkpoint.method_config),
        "profile": checkpoint.profile,
        "heads": [list(head) for head in checkpoint.method().heads],
        "class_names": list(checkpoint.class_names),
        **({"dense_names": list(checkpoint.dense_names)} if checkpoint.dense_names else {}),
    }


def weights_hash(checkpoint: Checkpoint) -> str:
    """Sixteen hexadecimal digits that change with any weight, head or class name."""
    return _digest(checkpoint.tensors, json.dumps(description(checkpoint)))[:16]


def _digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    import torch

    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
