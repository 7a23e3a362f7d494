"""A stand-in for the `tensorrt` module: it keeps ONNX files as engines and runs them with ONNX
Runtime on the CPU.

It shows the logic around an engine at work, on real numbers, and refuses what TensorRT is known to
refuse. What it cannot show: that TensorRT accepts the ONNX file, or that its engine is right or
fast. It records every call (`touches`), and `test_tensorrt_api.py` looks each of them up in
NVIDIA's own bindings.
"""

from __future__ import annotations

import ctypes
import json
from enum import IntEnum
from typing import Any

import numpy as np
import onnxruntime

FLAGS = {8: ("EXPLICIT_BATCH",), 10: ("EXPLICIT_BATCH", "STRONGLY_TYPED"), 11: ("STRONGLY_TYPED",)}
BUILDER_FLAGS = {8: ("TF32", "FP16", "INT8"), 10: ("TF32", "FP16", "INT8"), 11: ("TF32",)}

FLAG_NUMBERS = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}


class StandInTensorRT:
    """`import tensorrt` of some version, on a machine with some GPU and driver.

    error: what its engines add to every output.
    """

    def __init__(
        self, version: str = "10.0.1", error: float = 0.0, machine: str = "Orin, driver 540"
    ) -> None:
        self.__version__ = version
        self.touches: set[tuple[str, str, int | None, tuple[str, ...]]] = set()
        self.builds: list[IBuilderConfig] = []
        major = int(version.split(".")[0])
        Builder.builds, IExecutionContext.error = self.builds, error
        ITimingCache.header = f"timings of TensorRT {version}, {machine};".encode()
        self.NetworkDefinitionCreationFlag = self._enum(
            "NetworkDefinitionCreationFlag", FLAGS[major]
        )
        self.BuilderFlag = self._enum("BuilderFlag", BUILDER_FLAGS[major])
        self.MemoryPoolType = self._enum("MemoryPoolType", ("WORKSPACE",))
        for made in (Logger, Builder, OnnxParser, Runtime):
            setattr(self, made.__name__, Recorder(made, made.__name__, self.touches))

    def _enum(self, name: str, members: tuple[str, ...]) -> Any:
        numbers = {member: FLAG_NUMBERS.get(member, i) for i, member in enumerate(members)}
        return Recorder(IntEnum(name, numbers), name, self.touches)


class Recorder:
    """Passes everything on to `target`, and notes what was asked of it."""

    def __init__(self, target: Any, name: str, touches: set[Any]) -> None:
        self._target, self._name, self._touches = target, name, touches

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._called("__init__", self._target, args, kwargs)

    def __getattr__(self, member: str) -> Any:
        value = getattr(self._target, member)
        if not callable(value):
            self._touches.add((self._name, member, None, ()))
            return value
        return lambda *args, **kwargs: self._called(member, value, args, kwargs)

    def _called(self, member: str, function: Any, args: Any, kwargs: Any) -> Any:
        self._touches.add((self._name, member, len(args), tuple(sorted(kwargs))))
        plain = [arg._target if isinstance(arg, Recorder) else arg for arg in args]
        value = function(*plain, **kwargs)
        ours = type(value).__module__ == __name__
        return Recorder(value, type(value).__name__, self._touches) if ours else value


class Logger:
    WARNING = 2

    def __init__(self, min_severity: int) -> None: ...


class Builder:
    builds: list[IBuilderConfig]

    def __init__(self, logger: Logger) -> None: ...

    def create_network(self, flags: int) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None:
        self.builds.append(config)
        integer = b"QuantizeLinear" in network.onnx
        if network.strongly_typed and config.flags - {"TF32"}:
            return None  # precision is the network's own business
        if integer and not network.strongly_typed and "INT8" not in config.flags:
            return None
        if not config.profile:
            return None
        return json.dumps(config.profile.shapes).encode() + b"\n" + network.onnx


class INetworkDefinition:
    def __init__(self, flags: int) -> None:
        self.strongly_typed = bool(flags >> FLAG_NUMBERS["STRONGLY_TYPED"] & 1)
        self.onnx = b""
        self.inputs: list[ITensor] = []
        self.num_inputs = 0

    def get_input(self, index: int) -> ITensor:
        return self.inputs[index]


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


class IBuilderConfig:
    def __init__(self) -> None:
        self.profile: IOptimizationProfile | None = None
        self.flags, self.workspace = {"TF32"}, 0
        self.cache: bytes | None = None

    def set_memory_pool_limit(self, pool: IntEnum, pool_size: int) -> None:
        self.workspace = pool_size

    def set_flag(self, flag: IntEnum) -> None:
        self.flags.add(flag.name)

    def clear_flag(self, flag: IntEnum) -> None:
        self.flags.discard(flag.name)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings of "):
            return None  # no timing cache
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.content and not cache.content.startswith(cache.header) and not ignore_mismatch:
            return False  # of another version, GPU or driver
        self.cache = cache.content
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return (
            None if self.cache is None else ITimingCache((self.cache or ITimingCache.header) + b"+")
        )


class ITimingCache:
    header: bytes

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self.shapes[input] = [min, opt, max]


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Logger) -> None:
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        try:
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception:
            self.num_errors = 1
            return False
        given = session.get_inputs()
        self._network.onnx, self._network.num_inputs = model, len(given)
        self._network.inputs = [ITensor(one.name, (-1, *one.shape[1:])) for one in given]
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class ParserError:
    def desc(self) -> str:
        return "this is no model"


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        profile, newline, onnx = serialized_engine.partition(b"\n")
        return ICudaEngine(json.loads(profile), onnx) if newline else None


class ICudaEngine:
    def __init__(self, profile: dict[str, Any], onnx: bytes) -> None:
        self.profile = profile
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self._tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class IExecutionContext:
    error: float

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profile[name]
        self._shapes[name] = tuple(shape)
        return all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        (batch,) = {shape[0] for shape in self._shapes.values()}
        known = {output.name: output.shape for output in self._engine.session.get_outputs()}
        return (batch, *known[name][1:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        inputs = {}
        for name, shape in self._shapes.items():
            kind = np.dtype(np.uint8 if name == "images" else np.float32)
            size = int(np.prod(shape)) * kind.itemsize
            memory = ctypes.string_at(self._addresses[name], size)
            inputs[name] = np.frombuffer(memory, kind).reshape(shape)
        for output, value in zip(
            self._engine.session.get_outputs(), self._engine.session.run(None, inputs), strict=True
        ):
            value = np.ascontiguousarray(value + np.float32(self.error))
            ctypes.memmove(self._addresses[output.name], value.ctypes.data, value.nbytes)
        return True
