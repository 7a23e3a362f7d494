"""Runs the network in ONNX Runtime, on CPU or CUDA, for machines where OpenVINO does not run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.errors import ConfigError, EngineError, MissingExtraError
from instaseg_ros.model.temporal import STATE, state_shape
from instaseg_ros.runtimes.onnx_file import DTYPES, INPUT, cached_onnx
from instaseg_ros.runtimes.recent import Recent
from instaseg_ros.runtimes.torch_runtime import pick_device

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Tensor cores take channels-last; not every build has it. TF32 is not float32.
FAST_ON_CUDA = {"prefer_nhwc": "1", "use_tf32": "0"}


class OnnxRuntime:
    """ONNX Runtime with one session per image size, whose file is made once and cached.

    Input and outputs are torch tensors that ONNX Runtime reads and fills in place, so nothing is
    copied, and on CUDA nothing leaves the device.
    """

    name = "onnx"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        self._library = _library()
        self.device = _pick_device(config.device, self._library.get_available_providers())
        self._named_device = config.device != "auto"
        self.precision = config.precision
        if config.precision == "auto":
            self.precision = "fp16" if self.device.type == "cuda" else "fp32"
        if self.precision not in DTYPES or (self.precision, self.device.type) == ("fp16", "cpu"):
            raise ConfigError(
                f"runtime.precision: ONNX Runtime computes in fp32, or fp16 on CUDA; got "
                f"'{self.precision}' on '{self.device}'"
            )
        self._threads = config.threads
        self._checkpoint = checkpoint
        self._session = Recent(self._open)

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        return self._session(images.shape[1:3])(images, state)

    def _open(self, size: tuple[int, int]) -> Session:
        content = cached_onnx(self._checkpoint, size, self.precision)
        session = Session(content, self.device, self._threads)
        if session.device != self.device and self._named_device:
            raise EngineError(
                f"runtime.device: ONNX Runtime could not start {PROVIDERS['cuda']} for "
                f"'{self.device}' (a different CUDA or cuDNN version?) and would run on the CPU; "
                "use runtime.device: cpu, or runtime.name: torch"
            )
        self.device = session.device  # what fails for one size fails for all
        return session


class Session:
    """One ONNX file on one device; on the CPU if the device does not accept it, which is logged.

    model: the file or its content. as_written: round a file with int8 exactly as it says and
    compute in float32, instead of with this CPU's integer arithmetic.
    """

    name, precision = "onnx", "as in the file"

    def __init__(
        self,
        model: Path | bytes,
        device: torch.device,
        threads: int = 0,
        as_written: bool = False,
    ) -> None:
        library = _library()
        options = library.SessionOptions()
        options.log_severity_level = 3  # errors; below that it comments on its own optimisations
        if as_written:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads:
            options.intra_op_num_threads = threads
        provider = PROVIDERS[device.type]
        settings: list[dict[str, str]] = [{}]
        if device.type == "cuda":
            there = {"device_id": str(device.index or 0)}
            settings = [there | FAST_ON_CUDA, there]
        given = model if isinstance(model, bytes) else str(model)
        for setting in settings:
            self._session = library.InferenceSession(
                given, options, providers=[provider], provider_options=[setting]
            )
            # It falls back to the CPU silently.
            if provider in (taken := self._session.get_providers()):
                break
        else:
            log.warning(
                "ONNX Runtime could not start %s (a different CUDA or cuDNN version, or none) and "
                "runs on the CPU with %s",
                provider,
                ", ".join(taken),
            )
            device = torch.device("cpu")
        self._binding = self._session.io_binding()
        self._temporal = STATE in [one.name for one in self._session.get_inputs()]
        self.device = device
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, images: NDArray[np.uint8], state: Tensor | None = None) -> dict[str, Tensor]:
        pixels = torch.from_numpy(images).to(self.device)
        batch = images.shape[0]
        if not self._outputs or next(iter(self._outputs.values())).shape[0] != batch:
            self._outputs = {
                output.name: torch.empty((batch, *output.shape[1:]), device=self.device)
                for output in self._session.get_outputs()
            }
            for name, tensor in self._outputs.items():
                self._binding.bind_output(name, *self._place(tensor, np.float32))
        self._binding.bind_input(INPUT, *self._place(pixels, np.uint8))
        if self._temporal:
            if state is None:
                state = torch.zeros(state_shape(batch, images.shape[1:3]), device=self.device)
            state = state.contiguous()
            self._binding.bind_input(STATE, *self._place(state, np.float32))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # ONNX Runtime uses its own stream
        self._session.run_with_iobinding(self._binding)
        return dict(self._outputs)

    def _place(self, tensor: Tensor, dtype: Any) -> tuple[Any, ...]:
        device = self.device
        return device.type, device.index or 0, dtype, tuple(tensor.shape), tensor.data_ptr()


def _library() -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxruntime", "onnx", "runtime.name: onnx") from error
    return onnxruntime


def _pick_device(name: str, providers: list[str]) -> torch.device:
    """The device; `auto` is CUDA if both torch and ONNX Runtime have it."""
    device = pick_device(name)
    if PROVIDERS[device.type] in providers:
        return device
    if name == "auto":
        log.warning(
            "ONNX Runtime runs on the CPU: torch sees %s, but this build has no %s "
            "(onnxruntime-gpu has it)",
            device,
            PROVIDERS[device.type],
        )
        return torch.device("cpu")
    raise ConfigError(
        f"runtime.device: ONNX Runtime here has no {PROVIDERS[device.type]} for '{name}', only "
        f"{', '.join(providers)}; onnxruntime-gpu has it"
    )
