"""Runs the network in TensorRT, for NVIDIA GPUs and Jetsons."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.checkpoint import weights_hash
from instaseg_ros.cuda_capture import Recorder, Recording
from instaseg_ros.errors import ConfigError, EngineError, MissingExtraError
from instaseg_ros.files import Cache
from instaseg_ros.model.temporal import STATE, state_shape
from instaseg_ros.runtimes.comparison import Comparison
from instaseg_ros.runtimes.cuda_uploads import Uploaded, Uploads
from instaseg_ros.runtimes.onnx_file import DTYPES, INPUT, cached_onnx, has_int8, onnx_with_int8
from instaseg_ros.runtimes.recent import Recent
from instaseg_ros.runtimes.tensorrt_engine import EngineFile, EngineSpec, build_engine, engine
from instaseg_ros.runtimes.torch_runtime import pick_device

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)
_cache = Cache("tensorrt")
INT8 = "int8"

# From images and a temporal network's state before them; None if there is none.
Run = Callable[[NDArray[np.uint8] | Uploaded, Tensor | None], dict[str, Tensor]]


class TensorRTRuntime:
    """TensorRT with one engine per image size, from the cache or built at its first image.

    `instaseg export --to tensorrt` builds it beforehand. Its work is recorded as a CUDA graph.
    """

    name = "tensorrt"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        try:
            import tensorrt
        except ModuleNotFoundError as error:
            raise MissingExtraError("tensorrt", "tensorrt", f"runtime.name: {self.name}") from error
        self._trt = tensorrt
        self.device = pick_device(config.device)
        if self.device.type != "cuda":
            raise ConfigError(f"runtime.device: TensorRT needs a CUDA device, got '{self.device}'")
        self.precision = engine_precision(config)
        if self.precision not in (*DTYPES, INT8):
            raise ConfigError(
                f"runtime.precision: TensorRT engines are {', '.join(DTYPES)} or {INT8}, got "
                f"'{self.precision}'"
            )
        if self.precision == INT8 and not has_int8(checkpoint):
            raise ConfigError(
                "runtime.precision: int8 in TensorRT needs a network that was calibrated and "
                "measured: run `instaseg quantize --to tensorrt` with these weights, at the size "
                "of the images (--size), or choose another precision"
            )
        if config.engine.best_batch > config.engine.max_batch:
            raise ConfigError(
                f"runtime.engine.best_batch: expected at most max_batch, "
                f"{config.engine.max_batch}, got {config.engine.best_batch}"
            )
        self._config = config.engine
        self._checkpoint = checkpoint
        self._uploads = Uploads(self.device)
        self._run = Recent(self._start)
        self._failures: dict[tuple[int, int], str] = {}

    def upload(self, images: NDArray[np.uint8], mirrored: bool = False) -> Uploaded:
        """Start to copy images (B, H, W, 3) to the GPU; they may change when this returns.

        mirrored: append their mirror images, as (2 B, H, W, 3).
        """
        return self._uploads.start(images, mirrored)

    def __call__(
        self, images: NDArray[np.uint8] | Uploaded, state: Tensor | None = None
    ) -> dict[str, Tensor]:
        pixels = images.pixels if isinstance(images, Uploaded) else images
        batch, height, width = pixels.shape[:3]
        if batch > self._config.max_batch:
            raise ConfigError(
                f"runtime.engine.max_batch is {self._config.max_batch}, got {batch} images at once"
            )
        return self._run((height, width))(images, state)

    def _start(self, size: tuple[int, int]) -> Run:
        """The engine for images of `size`, ready to run. After an EngineError it raises the same
        every time, as retrying for every frame would take minutes each."""
        if size in self._failures:
            raise EngineError(self._failures[size])
        try:
            file = self.engine(size)
            try:
                return self.load(file.plan)
            except EngineError as error:  # such as another driver
                log.warning("the cached engine is rebuilt: %s", error)
                _cache.forget(engine_name(self._checkpoint, size, self.precision, self.device))
                return self.load(self.engine(size).plan)
        except Exception as error:  # from TensorRT, ONNX or CUDA
            self._failures[size] = str(error) or repr(error)
            raise EngineError(self._failures[size]) from error

    def engine(self, size: tuple[int, int], images: str | Path | None = None) -> EngineFile:
        """The serialised engine for images of `size`, from the cache or built now.

        images: frames on which to compare it with torch; None: the synthetic street.
        """
        if self.precision == INT8:
            onnx = onnx_with_int8(self._checkpoint, size)
        else:
            onnx = cached_onnx(self._checkpoint, size, self.precision)
        gpu = torch.cuda.get_device_properties(self.device)
        spec = EngineSpec(
            onnx_sha256=hashlib.sha256(onnx).hexdigest(),
            tensorrt=self._trt.__version__,
            gpu=gpu.name,
            compute_capability=f"{gpu.major}.{gpu.minor}",
            precision=self.precision,
            size=size,
            batch=(1, self._config.best_batch, self._config.max_batch),
        )
        timings = f"timings-{spec.tensorrt}-{_plain(gpu.name)}-{gpu.major}.{gpu.minor}-{_driver()}"
        measured = b""

        def build() -> bytes:
            nonlocal measured
            known = _cache.read(timings) or b""
            plan, measured = build_engine(self._trt, onnx, spec, self._config.workspace_mb, known)
            return plan

        try:
            with torch.cuda.device(self.device):  # TensorRT builds for the current device
                name = engine_name(self._checkpoint, size, self.precision, self.device)
                compared = partial(Comparison, self._checkpoint, size, images)
                return engine(_cache, name, spec, build, lambda plan: compared()(self.load(plan)))
        finally:  # the engine is worth more, so it is kept first
            if measured:
                _cache.write(timings, measured)

    def load(self, plan: bytes) -> Run:
        """Load a serialised engine, ready to run."""
        return Engine(self._trt, plan, self.device)


class Engine:
    """A deserialised engine with its buffers, on one device."""

    def __init__(self, trt: Any, plan: bytes, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))  # must outlive the engine
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise EngineError(f"TensorRT {trt.__version__} cannot load the engine")
            self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        self._temporal = STATE in names
        self._results = [name for name in names if name not in (INPUT, STATE)]
        self._device = device
        self._uploads = Uploads(device)
        self._stream = torch.cuda.Stream(device)  # on the default stream TensorRT waits needlessly
        self._recorder = Recorder(device, "the TensorRT engine")
        self._recording: Recording[None] | None = None  # for the shape of `_pixels`
        self._ran = False  # with that shape
        self._pixels = torch.empty(0, dtype=torch.uint8)
        self._state = torch.empty(0)
        self._outputs: dict[str, Tensor] = {}

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8] | Uploaded, state: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Raw head outputs, and `next_state`, on the device; overwritten by the next call."""
        uploaded = images if isinstance(images, Uploaded) else self._uploads.start(images)
        if self._pixels.shape != uploaded.pixels.shape:
            self._allocate(tuple(uploaded.pixels.shape))
        # Run after the caller's use of the last outputs, and before its use of these.
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._pixels.copy_(uploaded.await_in_stream())
            uploaded.taken.record()
            if state is not None:
                self._state.copy_(state)
            elif self._temporal:
                self._state.zero_()
            if self._ran and self._recording is None:
                self._recording = self._recorder.record(self._enqueue)
            if self._recording is not None:
                self._recording.replay()
            else:
                self._enqueue()
            self._ran = True
        caller.wait_stream(self._stream)
        return dict(self._outputs)  # whoever called may take some away

    def _enqueue(self) -> None:
        """Run on the current stream. Do not record the first run after `_allocate`, in which
        TensorRT does the work it deferred until it knew the shapes."""
        if not self._context.execute_async_v3(torch.cuda.current_stream(self._device).cuda_stream):
            raise EngineError("TensorRT did not run the engine; see its messages above")

    def __del__(self) -> None:
        # Another engine takes its memory, but not while it still runs.
        if "_stream" in vars(self):
            self._stream.synchronize()

    def _allocate(self, shape: tuple[int, ...]) -> None:
        self._stream.synchronize()  # the last run must end before its memory is freed
        self._recording, self._ran = None, False
        self._pixels = torch.empty(shape, dtype=torch.uint8, device=self._device)
        inputs = {INPUT: self._pixels}
        if self._temporal:
            size = shape[1], shape[2]
            self._state = torch.empty(state_shape(shape[0], size), device=self._device)
            inputs[STATE] = self._state
        for name, tensor in inputs.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(
                    f"the TensorRT engine does not accept {name} of shape {tuple(tensor.shape)}"
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
        for name in self._results:
            size = tuple(self._context.get_tensor_shape(name))
            self._outputs[name] = torch.empty(size, device=self._device)
            self._context.set_tensor_address(name, self._outputs[name].data_ptr())


def engine_precision(config: RuntimeConfig) -> str:
    """The precision of engines; `auto` is fp16."""
    return "fp16" if config.precision == "auto" else config.precision


def engine_name(
    checkpoint: Checkpoint, size: tuple[object, object], precision: str, device: torch.device
) -> str:
    """The name of these weights' engine in the cache, which several kinds of GPU may share."""
    gpu = _plain(torch.cuda.get_device_properties(device).name)
    return f"{weights_hash(checkpoint)}-{size[0]}x{size[1]}-{precision}-{gpu}.engine"


def kept_at(checkpoint: Checkpoint, size: tuple[int, int], config: RuntimeConfig) -> Path:
    """The path where the engine of these weights is kept."""
    device, precision = pick_device(config.device), engine_precision(config)
    return _cache.path(engine_name(checkpoint, size, precision, device))


def prepared(checkpoint: Checkpoint, config: RuntimeConfig, size: tuple[int, int] = (0, 0)) -> bool:
    """Whether an engine of these weights in this precision was built for this GPU.

    size: the configured (height, width); a side of 0, which the camera decides, matches any.
    """
    stride = checkpoint.stride
    height, width = (-(-side // stride) * stride or "*" for side in size)  # as padded
    device, precision = pick_device(config.device), engine_precision(config)
    wanted = engine_name(checkpoint, (height, width), precision, device)
    return any(fnmatch(name, wanted) for name in _cache.names())


def _plain(name: str) -> str:
    """The name of a GPU as part of a file name."""
    return re.sub(r"\W+", "_", name)


def _driver() -> str:
    """The version of NVIDIA's driver; "unknown" if Linux does not tell."""
    try:
        told = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:  # WSL, or no driver
        return "unknown"
    version = re.search(r"\b\d+(\.\d+)+\b", told)
    return version[0] if version else "unknown"
