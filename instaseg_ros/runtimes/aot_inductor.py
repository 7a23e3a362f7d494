"""Compiles modules ahead of time with AOTInductor, and keeps them in the cache."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numba.core.registry import cpu_target
from torch import Tensor, nn

from instaseg_ros.files import Cache

log = logging.getLogger(__name__)
_cache = Cache("aot")


def load_or_compile(module: nn.Module, *examples: Tensor) -> Callable[..., Any]:
    """The module for inputs of the examples' shapes, types and device, from the cache or compiled
    now.

    Raises torch's error if it cannot compile. Compiling needs a C++ compiler, and minutes.
    """
    name = key(module, *examples)
    content = _cache.read(name)
    with tempfile.TemporaryDirectory() as folder:  # torch unpacks it here
        path = Path(folder, "module.pt2")  # AOTInductor insists on the suffix
        if content is not None:
            path.write_bytes(content)
            try:
                return _load(path, examples[0].device)
            except Exception as error:  # intact, yet this torch does not accept it
                log.warning("a module compiled ahead of time is recompiled: %s", error)
        with torch.inference_mode(False), torch.no_grad():
            inputs = tuple(example.clone() for example in examples)  # not inference tensors
            program = torch.export.export(module.eval(), inputs)
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        _cache.write(name, path.read_bytes())
        return _load(path, examples[0].device)


def _load(path: Path, device: torch.device) -> Callable[..., Any]:
    """Load for one thread at a time: for several threads it would query the events of earlier runs,
    which CUDA forbids while a stream is captured."""
    index = -1 if device.index is None else device.index  # else the device it was compiled on
    return torch._inductor.aoti_load_package(
        str(path), run_single_threaded=True, device_index=index
    )


def key(module: nn.Module, *examples: Tensor) -> str:
    """The name of a compiled module: 16 hexadecimal digits that cover all it depends on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    # Its host code is compiled for this processor.
    where = [*cpu_target.target_context.codegen().magic_tuple()]
    device = examples[0].device
    if device.type == "cuda":
        where.append(torch.cuda.get_device_name(device))
        where.append(str(torch.cuda.get_device_capability(device)))
    digest.update(f"{module} {torch.__version__} {where}".encode())
    inputs = [(example.dtype, tuple(example.shape), example.stride()) for example in examples]
    digest.update(f"{inputs}".encode())
    return digest.hexdigest()[:16]
