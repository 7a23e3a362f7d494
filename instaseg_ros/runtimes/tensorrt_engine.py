"""TensorRT engines: built, compared with torch, kept with a sidecar that says what they are for.

Every call of the Python API of TensorRT that builds stands here, those that run in
`tensorrt_runtime`; `test/test_tensorrt_api.py` checks them all against the real bindings of 8.6, 10
and 11. An engine is good for one ONNX file, one TensorRT version and one kind of GPU; what does not
fit is built anew, with the reason in the log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instaseg_ros.errors import EngineError
from instaseg_ros.runtimes.comparison import TOLERANCES, Difference

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine must have been built from and for; the sidecar begins with it.

    gpu, compute_capability: as CUDA names them, such as "Orin" and "8.7".
    precision: fp32 or fp16. size: (height, width) pixels. batch: least, best and most images.
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    precision: str
    size: tuple[int, int]
    batch: tuple[int, int, int]


def engine(
    path: Path,
    spec: EngineSpec,
    build: Callable[[], bytes],
    compare: Callable[[bytes], Difference],
) -> bytes:
    """The serialised engine at `path` if it fits `spec`, else a new one that is then kept there.

    compare: runs an engine on real frames. Raises EngineError for an engine that is too far from
    torch: that one is not kept.
    """
    reason = refusal(path, spec)
    if reason is None:
        return path.read_bytes()
    log.warning("building TensorRT engine %s, which takes minutes: %s", path, reason)
    start = time.monotonic()
    plan = build()
    built_s = time.monotonic() - start
    difference = compare(plan)
    tolerance = TOLERANCES[spec.precision]
    if not difference.relative <= tolerance:
        raise EngineError(
            f"TensorRT engine {path.name} is not kept: expected at most {tolerance} relative "
            f"difference from torch, got {difference}; use runtime.precision: fp32, or "
            "runtime.name: torch"
        )
    facts = {
        **dataclasses.asdict(spec),
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
        "build_s": round(built_s, 1),
        "difference": difference._asdict(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, plan)
    _write(sidecar(path), json.dumps(facts, indent=2).encode() + b"\n")
    log.info("engine built in %.0f s; difference from torch: %s", built_s, difference)
    return plan


def refusal(path: Path, spec: EngineSpec) -> str | None:
    """Why the engine at `path` must not be used for `spec`; None when it may."""
    if not path.is_file():
        return "there is none yet"
    try:
        facts = json.loads(sidecar(path).read_text(encoding="utf-8"))
        difference = Difference(**facts["difference"])
        found = {name: facts[name] for name in (f.name for f in dataclasses.fields(spec))}
        engine_sha256 = facts["engine_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its sidecar {sidecar(path).name} cannot be used ({type(error).__name__}: {error})"
    for name, wanted in dataclasses.asdict(spec).items():
        if found[name] != (list(wanted) if isinstance(wanted, tuple) else wanted):
            return f"{name} is {wanted} here, the engine was built for {found[name]}"
    if not difference.relative <= TOLERANCES[spec.precision]:
        return f"its difference from torch ({difference}) is above {TOLERANCES[spec.precision]}"
    if hashlib.sha256(path.read_bytes()).hexdigest() != engine_sha256:
        return "it is not the file that its sidecar describes"
    return None


def sidecar(path: Path) -> Path:
    """Where the facts of an engine stand."""
    return path.with_name(f"{path.name}.json")


def build_engine(
    trt: Any, onnx: bytes, spec: EngineSpec, workspace_mb: int, timing_cache: Path
) -> bytes:
    """The serialised engine of an ONNX file. trt: the tensorrt module.

    timing_cache: file of measured kernels, which makes the next build faster; written after it.
    Raises EngineError with TensorRT's own words.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    typed = hasattr(flags, "STRONGLY_TYPED")  # from 10 on; precision is then what the ONNX says
    network = builder.create_network(
        1 << int(flags.STRONGLY_TYPED if typed else flags.EXPLICIT_BATCH)
    )
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"TensorRT {trt.__version__} cannot read the ONNX file: {said}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default, and no float32
    if spec.precision == "fp16" and not typed:
        config.set_flag(trt.BuilderFlag.FP16)
    profile = builder.create_optimization_profile()
    for given in map(network.get_input, range(network.num_inputs)):
        shapes = ((batch, *tuple(given.shape)[1:]) for batch in spec.batch)
        profile.set_shape(given.name, *shapes)
    config.add_optimization_profile(profile)
    known = timing_cache.read_bytes() if timing_cache.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} built no engine; the reason stands above. "
            f"runtime.engine.workspace_mb was {workspace_mb}"
        )
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    _write(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)
