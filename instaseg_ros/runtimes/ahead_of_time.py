"""Modules compiled ahead of time with AOTInductor, and kept on disk.

The package holds machine code: like every compiled cache it is as trustworthy as the folder it lies
in (`output_files.cache_dir`), and is made anew where its name does not fit.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instaseg_ros.output_files import cache_dir

SUFFIX = ".pt2"  # AOTInductor insists


def load_or_compile(
    module: nn.Module, example: Tensor, folder: Path | None = None
) -> Callable[[Tensor], Any]:
    """The module for inputs of the example's shape, type and device, from disk or compiled now.

    Raises what torch raises where it cannot compile: it needs a C++ compiler, and minutes.
    """
    path = (folder or cache_dir() / "aot") / f"{key(module, example)}{SUFFIX}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.{os.getpid()}.part{SUFFIX}")
        try:
            with torch.inference_mode(False), torch.no_grad():
                program = torch.export.export(module.eval(), (example,))
                torch._inductor.aoti_compile_and_package(program, package_path=str(part))
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    return torch._inductor.aoti_load_package(str(path))


def key(module: nn.Module, example: Tensor) -> str:
    """Name of a compiled module: 16 hexadecimal digits over all that it depends on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()}".encode())
        digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    where = platform.processor(), platform.machine()
    if example.is_cuda:
        where = (
            torch.cuda.get_device_name(example.device),
            str(torch.cuda.get_device_capability(example.device)),
        )
    digest.update(f"{module} {torch.__version__} {where}".encode())
    digest.update(f"{example.dtype} {tuple(example.shape)}".encode())
    return digest.hexdigest()[:16]
