"""The Triton kernels without a GPU: in Triton's interpreter, and through its compiler."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from instaseg_ros.config.options.spatial_embedding import DecodeConfig

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="triton is not installed"
)
KINDS = {
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.newest
def test_kernels_in_the_interpreter(which: str) -> None:
    """Runs `triton_interpreted.py`."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-W", "ignore", "-m", which]
    done = subprocess.run(
        [*command, str(Path(__file__).parents[1] / "helpers" / "triton_interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.parametrize("capability", [87, 90])
@pytest.mark.parametrize(
    ("n_classes", "n_sigma", "dtype"), [(1, 1, torch.float32), (3, 2, torch.float16)]
)
@pytest.mark.newest
def test_kernels_compile_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    n_classes: int,
    n_sigma: int,
    dtype: torch.dtype,
) -> None:
    """To machine code, without a GPU, as a first launch would compile them there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from instaseg_ros.clustering.ellipses import triton_session

    launches: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(
        triton_session, "_run", lambda kernel, grid, *a, **o: launches.append((kernel, a, o))
    )
    heads = 2, n_sigma, n_classes
    raw = torch.zeros(2, 64, 128, sum(heads), dtype=dtype).permute(0, 3, 1, 2).split(heads, 1)
    lattice = torch.linspace(0, 0.1, 128), torch.linspace(0, 0.1, 64)
    kernels = triton_session.TritonGrouping((2, n_classes, 64, 128), n_sigma, "cpu", lattice)
    kernels.launch(raw, 0.0, 10.0, DecodeConfig())
    assert len(launches) == 10 + triton_session.ROUNDS * (n_classes > 1)
    for kernel, args, options in launches:
        compiled = {"num_warps": options.pop("num_warps", 4), "enable_fp_fusion": False}
        named = dict(zip(kernel.arg_names, args, strict=False))
        # Triton makes the integer 1 a constant.
        constants = options | {k: v for k, v in named.items() if type(v) is int and v == 1}
        signature = {k: kind_of(v) for k, v in named.items()} | dict.fromkeys(
            constants, "constexpr"
        )
        source = ASTSource(kernel, signature=signature, constexprs=constants)
        code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=compiled)
        assert code.asm["cubin"]
        assert "fma.rn.f32" not in code.asm["ptx"], "contracted: not the oracle's arithmetic"


def kind_of(value: Any) -> str:
    if isinstance(value, Tensor):
        return KINDS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if np.abs(value) < 2**31 else "i64"
