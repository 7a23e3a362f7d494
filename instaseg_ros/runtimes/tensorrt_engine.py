"""Builds TensorRT engines, compares them with torch, and caches them with facts about their use.

All calls of TensorRT's Python API that build are here, those that run in `tensorrt_runtime`;
`test_tensorrt_api.py` checks them against the real bindings of 8.6, 10 and 11. An engine is valid
for one ONNX file, one TensorRT version and one kind of GPU; an engine that does not fit is rebuilt,
with the reason in the log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from instaseg_ros.errors import EngineError
from instaseg_ros.files import Cache
from instaseg_ros.runtimes.comparison import TOLERANCES, Difference

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine must have been built from and for; the first of its facts.

    gpu, compute_capability: as CUDA names them, such as "Orin" and "8.7".
    precision: fp32, fp16 or int8. size: (height, width) pixels. batch: minimum, best and maximum.
    """

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    precision: str
    size: tuple[int, int]
    batch: tuple[int, int, int]


class EngineFile(NamedTuple):
    """A serialised engine, and its facts: the EngineSpec, build time, and difference from torch."""

    plan: bytes
    facts: dict[str, Any]


def engine(
    cache: Cache,
    name: str,
    spec: EngineSpec,
    build: Callable[[], bytes],
    compare: Callable[[bytes], Difference],
) -> EngineFile:
    """The engine of this name in the cache if it fits `spec`, else a new one, which is then cached.

    compare: runs an engine on real frames. Raises EngineError for an engine that differs too much
    from torch; it is not cached.
    """
    kept = _kept(cache, name)
    reason = "there is none yet, or it cannot be read" if kept is None else refusal(kept, spec)
    if kept is not None and reason is None:
        return kept
    log.warning("building TensorRT engine %s, which takes minutes: %s", name, reason)
    start = time.monotonic()
    plan = build()
    built_s = time.monotonic() - start
    difference = compare(plan)
    tolerance = TOLERANCES[spec.precision]
    if not difference.relative <= tolerance:
        raise EngineError(
            f"TensorRT engine {name} is not kept: expected at most {tolerance} relative "
            f"difference from torch, got {difference}; use runtime.precision: fp32, or "
            "runtime.name: torch"
        )
    facts = {
        **dataclasses.asdict(spec),
        "engine_sha256": hashlib.sha256(plan).hexdigest(),
        "build_s": round(built_s, 1),
        "difference": difference._asdict(),
    }
    cache.write(name, json.dumps(facts).encode() + b"\n" + plan)
    log.info("engine built in %.0f s; difference from torch: %s", built_s, difference)
    return EngineFile(plan, facts)


def _kept(cache: Cache, name: str) -> EngineFile | None:
    content = cache.read(name)
    if content is None:
        return None
    facts, _, plan = content.partition(b"\n")
    return EngineFile(plan, json.loads(facts))


def refusal(kept: EngineFile, spec: EngineSpec) -> str | None:
    """Why the engine must not be used for `spec`; None if it may."""
    for name, wanted in dataclasses.asdict(spec).items():
        found = kept.facts.get(name)
        if found != (list(wanted) if isinstance(wanted, tuple) else wanted):
            return f"{name} is {wanted} here, the engine was built for {found}"
    try:
        difference = Difference(**kept.facts["difference"])
    except (KeyError, TypeError) as error:
        return f"its difference from torch cannot be read ({error!r})"
    if not difference.relative <= TOLERANCES[spec.precision]:
        return f"its difference from torch ({difference}) is above {TOLERANCES[spec.precision]}"
    return None


def write_sidecar(path: Path, facts: dict[str, Any]) -> None:
    """Write the facts of the engine exported as `path` to a file beside it."""
    beside = path.with_name(f"{path.name}.json")
    beside.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def build_engine(
    trt: Any, onnx: bytes, spec: EngineSpec, workspace_mb: int, timings: bytes = b""
) -> tuple[bytes, bytes]:
    """Build the serialised engine of an ONNX file; also returns TensorRT's timing cache, empty if
    there is none. trt: the tensorrt module.

    timings: the timing cache of an earlier build, which speeds up this one if TensorRT accepts it.
    Raises EngineError with TensorRT's own message.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network_flag, precisions = _typing(trt, spec.precision)
    network = builder.create_network(1 << int(network_flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        said = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"TensorRT {trt.__version__} cannot read the ONNX file: {said}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mb << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default, but not float32
    for flag in precisions:
        config.set_flag(flag)
    profile = builder.create_optimization_profile()
    for given in map(network.get_input, range(network.num_inputs)):
        shapes = ((batch, *tuple(given.shape)[1:]) for batch in spec.batch)
        profile.set_shape(given.name, *shapes)
    config.add_optimization_profile(profile)
    # Keep a reference until the engine is built: the configuration only borrows it.
    taken = (timings and _take_timings(config, timings)) or _take_timings(config, b"")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"TensorRT {trt.__version__} built no engine; see its messages above. "
            f"runtime.engine.workspace_mb was {workspace_mb}"
        )
    return bytes(plan), _measured(config) if taken else b""


def _typing(trt: Any, precision: str) -> tuple[Any, list[Any]]:
    """How to create the network, and the flags for its precision.

    In strongly typed networks, new in TensorRT 10, the ONNX file determines the precision. In an
    int8 file everything else is float32, so TensorRT chooses for itself where it can: up to 10.
    """
    network, builder = trt.NetworkDefinitionCreationFlag, trt.BuilderFlag
    chooses = hasattr(network, "EXPLICIT_BATCH") and hasattr(builder, "INT8")
    if precision == "int8" and chooses:
        return network.EXPLICIT_BATCH, [builder.INT8, builder.FP16]
    if hasattr(network, "STRONGLY_TYPED"):
        return network.STRONGLY_TYPED, []
    return network.EXPLICIT_BATCH, [builder.FP16] if precision == "fp16" else []


def _take_timings(config: Any, timings: bytes) -> Any:
    """The timing cache, if TensorRT accepts it; it rejects one of another GPU or driver."""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        return None
    return cache


def _measured(config: Any) -> bytes:
    """The timing cache after a build. It only saves time, so errors do not cost the engine."""
    try:
        return bytes(config.get_timing_cache().serialize())
    except Exception as error:
        log.warning("TensorRT's timing cache is not kept: %s", error)
        return b""
