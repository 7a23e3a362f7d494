"""The network in torch on an NVIDIA GPU: half precision, one CUDA graph per input shape.

What a call costs the host is one copy into pinned memory and a few launches; it waits for nothing,
so the outputs are promises that later work on the same stream may use. `upload` may be called for
the next frame, in another thread too, while the GPU still works on this one.

Written for CUDA and tested where a GPU is (`pytest -m gpu`); its speed has not been measured yet
(`make gpu` does).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.ellipses.gpu import SIZES
from instaseg_ros.errors import ConfigError
from instaseg_ros.model.batchnorm import fold
from instaseg_ros.runtimes.aot_inductor import load_or_compile
from instaseg_ros.runtimes.cuda_network import PixelsToOutputs, fuse
from instaseg_ros.runtimes.torch_runtime import DTYPES, pick_device, pick_precision

if TYPE_CHECKING:
    from instaseg_ros.checkpoint import Checkpoint
    from instaseg_ros.config import RuntimeConfig

log = logging.getLogger(__name__)

Form = Callable[[Tensor], tuple[Tensor, ...]]

SLOTS = 2  # frames on their way to the GPU
TIMED = 5  # runs by which forms of the network are compared
# Forms of one network differ by rounding: at most by this share of the largest output.
TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class CudaRuntime:
    """Folded network, channels-last, as a CUDA graph; the fastest form that this GPU runs.

    The forms are the network in eager torch, the same with bias, ReLU and sum inside cuDNN's
    convolutions, and with `runtime.compiled` what AOTInductor makes of it. Each is timed on the
    first frame of a shape; one that fails or gives other outputs is left out, and the log says why.
    """

    name = "torch"

    def __init__(self, config: RuntimeConfig, checkpoint: Checkpoint) -> None:
        self.device = pick_device(config.device)
        if self.device.type != "cuda":
            raise ConfigError(f"runtime.device: expected a CUDA device, got '{self.device}'")
        self.precision = pick_precision(config.precision, self.device)
        self.network = fold(checkpoint.network()).to(self.device, DTYPES[self.precision])
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        plain = PixelsToOutputs(self.network)
        fused = PixelsToOutputs(fuse(self.network))
        self.forms: dict[str, Callable[[Tensor], Form]] = {
            "eager": lambda _: plain,
            "fused": lambda _: fused,
        }
        if config.compiled:
            self.forms["compiled"] = lambda example: load_or_compile(plain, example)
        self.form_ms: dict[tuple[int, ...], dict[str, float]] = {}  # by shape, for people
        self._graphs: dict[tuple[int, ...], _Graph] = {}  # of the shapes used last, in that order
        self._uploads = lru_cache(maxsize=SIZES)(lambda shape: _Uploads(shape, self.device))
        self._lock = threading.Lock()

    def __call__(self, images: NDArray[np.uint8] | Uploaded) -> dict[str, Tensor]:
        return self.run(images if isinstance(images, Uploaded) else self.upload(images))

    def upload(self, images: NDArray[np.uint8]) -> Uploaded:
        """Start to bring images (B, H, W, 3) to the GPU; they may change when this returns."""
        with self._lock, torch.cuda.device(self.device):
            return self._uploads(images.shape).start(images)

    @torch.inference_mode()
    def run(self, uploaded: Uploaded) -> dict[str, Tensor]:
        """Outputs of uploaded images, each in turn. At most SLOTS may be waiting to be run."""
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().wait_event(uploaded.arrived)
            graph = self._graph(uploaded.pixels)
            graph.images.copy_(uploaded.pixels)
            uploaded.taken.record()
            graph.replay()
        return self.network.split_heads(graph.outputs)

    def _graph(self, images: Tensor) -> _Graph:
        shape = tuple(images.shape)
        graph = self._graphs.pop(shape, None) or self._fastest(images)
        self._graphs[shape] = graph
        if len(self._graphs) > SIZES:
            torch.cuda.synchronize()  # the one that goes may still run
            del self._graphs[next(iter(self._graphs))]
        return graph

    def _fastest(self, images: Tensor) -> _Graph:
        """A graph of the fastest form for these images."""
        eager = _Graph(self.forms["eager"](images), images)
        eager.replay()
        graphs, times_ms = {"eager": eager}, {"eager": eager.time_ms()}
        for name, form in self.forms.items():
            if name in graphs:
                continue
            try:
                graph = _Graph(form(images), images)
                graph.replay()
                _check_same(graph.outputs, eager.outputs, TOLERANCE[DTYPES[self.precision]])
            except Exception as error:  # of cuDNN, Inductor, a compiler, a driver, ...
                reason = (str(error) or repr(error)).splitlines()[0]
                log.warning("the %s form of the network is left out: %s", name, reason)
                continue
            graphs[name], times_ms[name] = graph, graph.time_ms()
        best = min(times_ms, key=times_ms.__getitem__)
        self.form_ms[tuple(images.shape)] = times_ms
        timed = ", ".join(f"{name} {ms:.2f} ms" for name, ms in times_ms.items())
        log.info("network for images %s: %s; taken: %s", tuple(images.shape), timed, best)
        return graphs[best]


class Uploaded(NamedTuple):
    """Images on their way to the GPU."""

    pixels: Tensor  # (B, H, W, 3) uint8 on the GPU, once `arrived`
    arrived: Any  # torch.cuda.Event
    taken: Any  # torch.cuda.Event: the pixels have been read, and may be overwritten


class _Uploads:
    """Pinned and device memory of frames of one shape that are on their way, used in turn."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pinned = [torch.empty(shape, dtype=torch.uint8, pin_memory=True) for _ in range(SLOTS)]
        self.slots = [
            Uploaded(
                torch.empty(shape, dtype=torch.uint8, device=device),
                torch.cuda.Event(),
                torch.cuda.Event(),
            )
            for _ in range(SLOTS)
        ]
        self.next = 0

    def start(self, images: NDArray[np.uint8]) -> Uploaded:
        slot, pinned = self.slots[self.next], self.pinned[self.next]
        self.next = (self.next + 1) % SLOTS
        slot.arrived.synchronize()  # else this pinned memory is still being read
        # In stripes, so that the GPU fetches the first while the host still copies the last.
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(slot.taken)
            source = torch.from_numpy(np.ascontiguousarray(images))
            height = images.shape[1]
            for top in range(0, height, max(1, height // 4)):
                rows = slice(top, top + max(1, height // 4))
                for image in range(len(images)):
                    pinned[image, rows].copy_(source[image, rows])
                    slot.pixels[image, rows].copy_(pinned[image, rows], non_blocking=True)
            slot.arrived.record()
        return slot


class _Graph:
    """One form of the network on images of one shape, recorded."""

    def __init__(self, form: Form, images: Tensor) -> None:
        self.images = images.clone()
        with _searching_convolutions():
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # first runs allocate, and choose algorithms
                for _ in range(3):
                    form(self.images)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                self.outputs = tuple(form(self.images))
        self.form = form  # its weights are what the graph reads

    def replay(self) -> None:
        self.graph.replay()

    def time_ms(self) -> float:
        """Milliseconds of a run on the GPU, the least of a few."""
        times = []
        for _ in range(TIMED):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return min(times)


@contextmanager
def _searching_convolutions() -> Iterator[None]:
    """cuDNN measures its algorithms on the shapes it meets; the setting is the whole process's."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _check_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float) -> None:
    for left, right in zip(got, expected, strict=True):
        difference = float((left - right).abs().max() / right.abs().max().clamp(min=1e-6))
        if not difference <= tolerance:
            raise ValueError(f"its outputs differ by {difference:.2g} of the largest one")
