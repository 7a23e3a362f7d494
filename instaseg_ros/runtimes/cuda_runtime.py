"""Runs the network in torch on an NVIDIA GPU: half precision, one CUDA graph per input shape.

A call costs the host one copy into pinned memory and a few launches. It does not wait, so only
later work on the same stream may use the outputs. `upload` may be called for the next frame, also
in another thread, while the GPU still works on this one.

Written for CUDA and tested on machines with a GPU (`pytest -m gpu`); its speed has not been
measured yet (`make gpu` does).
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.cuda_capture import Recorder
from instaseg_ros.errors import ConfigError
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.model.temporal import state_shape
from instaseg_ros.runtimes.aot_inductor import load_or_compile
from instaseg_ros.runtimes.cuda_network import (
    PixelsToOutputs,
    Rearranged,
    Verdicts,
    device_ms,
    fuse,
)
from instaseg_ros.runtimes.cuda_uploads import Uploaded, Uploads
from instaseg_ros.runtimes.recent import Recent
from instaseg_ros.runtimes.torch_runtime import DTYPES, pick_device, pick_precision

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)

# From images (and a temporal network's state) to outputs (and the next state).
Form = Callable[..., tuple[Tensor, ...]]

UNRECORDED = 2  # first frames of a shape: recording takes seconds, and many shapes do not recur
WARM_UPS = 3  # runs in which a form allocates memory and chooses algorithms
# Forms of one network differ by rounding, at most by this share of the largest output.
TOLERANCE = {torch.float32: 5e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class CudaRuntime:
    """The folded network, channels-last, as a CUDA graph, in the fastest form on this GPU.

    The forms are the network in eager torch; the same rearranged, with bias, ReLU and sum fused
    into the convolutions; that with all decoders merged; and, with `runtime.compiled`, compiled by
    AOTInductor. Each is timed on the third frame of a shape; one that fails or gives other outputs
    is left out, and the log says why. A graph that cannot be recorded is launched kernel by kernel.
    """

    name = "torch"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        self.device = cuda_device(config.device)
        self.precision = pick_precision(config.precision, self.device)
        self.network = fold(checkpoint.network())  # the original, for people and tests
        self._eager = self._on_device(PixelsToOutputs(copy.deepcopy(self.network)))
        self.forms: dict[str, Callable[..., Form]] = {"eager": lambda *_: self._eager}
        verdicts: Verdicts = {}
        fused = self._on_device(fuse(Rearranged(self.network), verdicts))
        self.forms["fused"] = lambda *_: fused
        if len(self.network.decoders) > 1:
            abreast = self._on_device(fuse(Rearranged(self.network, side_by_side=True), verdicts))
            self.forms["abreast"] = lambda *_: abreast
        if config.compiled:
            rearranged = self._on_device(Rearranged(self.network))
            self.forms["compiled"] = lambda *examples: load_or_compile(rearranged, *examples)
        self._recorders = {
            name: Recorder(self.device, f"the {name} form of the network") for name in self.forms
        }
        self.form_ms: dict[tuple[int, ...], dict[str, float]] = {}  # by shape, for people
        self._kept = Recent(lambda _: _Kept())
        self._uploads = Uploads(self.device)

    def __call__(
        self, images: NDArray[np.uint8] | Uploaded, state: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.run(images if isinstance(images, Uploaded) else self.upload(images), state)

    def upload(self, images: NDArray[np.uint8], mirrored: bool = False) -> Uploaded:
        """Start to copy images (B, H, W, 3) to the GPU; they may change when this returns.

        mirrored: append their mirror images, as (2 B, H, W, 3).
        """
        return self._uploads.start(images, mirrored)

    @torch.inference_mode()
    def run(self, uploaded: Uploaded, state: Tensor | None = None) -> dict[str, Tensor]:
        """The outputs for uploaded images, to be run in order; the next call overwrites them."""
        with torch.cuda.device(self.device):
            inputs = [uploaded.await_in_stream()]
            if self.network.temporal is not None:
                inputs.append(self._state(inputs[0], state))
            outputs = self._outputs(inputs)
            uploaded.taken.record()
        return self.network.split_heads(outputs)

    def _outputs(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        kept = self._kept(tuple(inputs[0].shape))
        if kept.runner is None and kept.frames >= UNRECORDED:
            kept.runner = self._fastest(inputs)
        kept.frames += 1
        if kept.runner is not None:
            return kept.runner(inputs)
        with _float32_as_it_is():
            return self._eager(*inputs)

    def _fastest(self, inputs: list[Tensor]) -> _Runner:
        """The fastest form for these inputs."""
        with _float32_as_it_is(search=True):
            runners: dict[str, _Runner] = {}
            times_ms: dict[str, float] = {}
            for name, form in self.forms.items():
                try:
                    runner = _Runner(form(*inputs), inputs, self._recorders[name])
                    if runners:
                        # Twice: in the first run, memory read by mistake may be harmless.
                        for _ in range(2):
                            expected, got = runners["eager"].again(), runner.again()
                            _check_same(got, expected, TOLERANCE[DTYPES[self.precision]])
                    times_ms[name] = device_ms(runner.again)
                except Exception as error:  # from cuDNN, Inductor, a compiler, a driver, ...
                    if not runners:
                        raise
                    reason = (str(error) or repr(error)).splitlines()[0]
                    log.warning("the %s form of the network is left out: %s", name, reason)
                    continue
                runners[name] = runner
        best = min(times_ms, key=times_ms.__getitem__)
        shape = tuple(inputs[0].shape)
        self.form_ms[shape] = times_ms
        timed = ", ".join(f"{name} {ms:.2f} ms" for name, ms in times_ms.items())
        log.info("network for images %s: %s; chosen: %s", shape, timed, best)
        return runners[best]

    def _state(self, images: Tensor, state: Tensor | None) -> Tensor:
        """(B, C, h, w) float32 on this device, channels-last; zeros if there is none."""
        if state is None:
            batch, height, width = images.shape[:3]
            state = torch.zeros(state_shape(batch, (height, width)), device=self.device)
        return state.to(self.device, memory_format=torch.channels_last)

    def _on_device(self, module: torch.nn.Module) -> Any:
        module.to(self.device, DTYPES[self.precision])
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def cuda_device(name: str) -> torch.device:
    """The device `cuda:N` for `auto`, `cuda` or `cuda:N`; without a number, each thread has its own
    current device. Raises ConfigError if it is absent or not a CUDA device."""
    device = pick_device(name)
    if device.type != "cuda":
        raise ConfigError(f"runtime.device: expected a CUDA device, got '{device}'")
    return torch.device(
        "cuda", torch.cuda.current_device() if device.index is None else device.index
    )


class _Kept:
    """State for images of one shape: how many came, and the network once it is recorded."""

    def __init__(self) -> None:
        self.frames = 0
        self.runner: _Runner | None = None


class _Runner:
    """One form of the network for inputs of one shape: recorded, or else kernel by kernel."""

    def __init__(self, form: Form, inputs: list[Tensor], recorder: Recorder) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        self._form = form  # keeps alive the weights that a recording reads
        for _ in range(WARM_UPS):
            form(*self._inputs)
        self._recording = recorder.record(lambda: tuple(form(*self._inputs)))

    def __call__(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        return self.again()

    def again(self) -> tuple[Tensor, ...]:
        """The outputs for the same inputs; the form's next call, in any runner, overwrites them."""
        if self._recording is not None:
            return self._recording.replay()
        with _float32_as_it_is():
            return tuple(self._form(*self._inputs))


_settings = threading.RLock()


@contextmanager
def _float32_as_it_is(search: bool = False) -> Iterator[None]:
    """Prevent float32 from being rounded to the 10 bits of TF32, cuDNN's default on Ampere and
    newer, which would change outputs by 0.003 to 0.005 of the largest.

    search: cuDNN measures its algorithms on the shapes it meets. The settings affect the whole
    process, so only one thread at a time may be in here.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    with _settings:
        before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
        cudnn.benchmark = search or cudnn.benchmark
        cudnn.allow_tf32 = matmul.allow_tf32 = False
        try:
            yield
        finally:
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def _check_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for left, right in zip(got, expected, strict=True):
        difference = float((left - right).abs().max() / right.abs().max().clamp(min=1e-6))
        if not difference <= tolerance:
            raise ValueError(f"its outputs differ by {difference:.2g} of the largest one")
