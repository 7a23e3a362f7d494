"""Clusters on the GPU that holds the outputs, in Triton; copies outputs to the CPU for all else.

From the second frame on, everything between the raw outputs and the label image is one CUDA graph;
the host waits once, for the copies of the label image and of the report on its instances.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.clustering.ellipses import Groups
from instaseg_ros.cuda_capture import Recorder, Recording

if TYPE_CHECKING:
    from instaseg_ros.clustering.ellipses.triton_session import TritonGrouping
    from instaseg_ros.config.options.spatial_embedding import DecodeConfig

log = logging.getLogger(__name__)

GRAPHS = 8  # recorded per image size, for the latest thresholds and memory
SIZES = 4  # image sizes per thread whose memory is kept

Lattice = Sequence[NDArray[np.float32]]

_local = threading.local()


@torch.inference_mode()
def group(
    outputs: Sequence[Tensor],
    lattice: Lattice,
    least_logit: float,
    gain: float,
    config: DecodeConfig,
) -> list[Groups | None]:
    """`cpu.group` for each image of a batch, on the CUDA device that holds the outputs.

    outputs: raw offset (B, 2, H, W), bandwidth (B, n_sigma, H, W) and seed (B, C, H, W), of any
    float type and memory layout. lattice: x of the pixel columns (W,) and y of the rows (H,).
    least_logit: of a point. gain: factor of a bandwidth's exponent.
    Membership in an ellipse is decided as on a CPU, up to the rounding of tanh and exp.
    None for an image that the CPU must cluster, because Triton is missing or memory was too small.
    """
    device = outputs[0].device
    with torch.cuda.device(device):
        if not runs_triton(device):
            return [None] * len(outputs[0])
        return _session(outputs, lattice).group(outputs, least_logit, gain, config)


def on_host(*tensors: Tensor) -> list[Tensor]:
    """Copy the tensors, all on one device, to the CPU.

    Copies from a GPU use pinned memory, which is several times as fast, and wait once.
    """
    if not tensors[0].is_cuda:
        return [tensor.cpu() for tensor in tensors]
    copies = []
    for tensor in tensors:
        pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copies.append(pinned.copy_(tensor.contiguous(), non_blocking=True))
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return copies


class Session:
    """The memory and recorded graphs for batches of one shape."""

    def __init__(self, kernels: TritonGrouping, recorder: Recorder) -> None:
        self.kernels = kernels
        self.recorder = recorder
        self.recordings: dict[Any, Recording[None]] = {}  # most recently used last
        self.seen: deque[Any] = deque(maxlen=GRAPHS)

    def group(
        self, outputs: Sequence[Tensor], least_logit: float, gain: float, config: DecodeConfig
    ) -> list[Groups | None]:
        self._launch(outputs, least_logit, gain, config)
        # New memory each time, as the label image is handed out. torch keeps freed blocks pinned.
        labels, report = (
            torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda).copy_(t, non_blocking=True)
            for t in (self.kernels.labels, self.kernels.report)
        )
        if outputs[0].is_cuda:
            torch.cuda.current_stream().synchronize()
        return self.kernels.groups(labels.numpy(), report.numpy())

    def _launch(
        self, outputs: Sequence[Tensor], least_logit: float, gain: float, config: DecodeConfig
    ) -> None:
        """Start the work, as a graph if the same memory was used before.

        The first time compiles and loads everything, which must not happen while recording.
        """

        def launch() -> None:
            self.kernels.launch(outputs, least_logit, gain, config)

        key = config, tuple((t.data_ptr(), t.dtype, t.stride()) for t in outputs)
        recording = self.recordings.pop(key, None)
        if recording is None and key in self.seen:
            recording = self.recorder.record(launch)
        if recording is None:
            self.seen.append(key)
            launch()
            return
        self.recordings[key] = recording
        if len(self.recordings) > GRAPHS:
            del self.recordings[next(iter(self.recordings))]
        recording.replay()


def _session(outputs: Sequence[Tensor], lattice: Lattice) -> Session:
    """This thread's session for the shape, so that one call at a time uses its memory."""
    _, bandwidth, seed = outputs
    key = tuple(seed.shape), bandwidth.shape[1], seed.device
    sessions: dict[Any, Session] = _local.__dict__.setdefault("sessions", {})
    session = sessions.pop(key, None) or _new_session(key, lattice)
    sessions[key] = session  # most recently used last
    if len(sessions) > SIZES:
        del sessions[next(iter(sessions))]
    return session


def _new_session(key: tuple[tuple[int, ...], int, torch.device], lattice: Lattice) -> Session:
    from instaseg_ros.clustering.ellipses.triton_session import TritonGrouping

    grouping = TritonGrouping(*key, [torch.from_numpy(axis) for axis in lattice])
    return Session(grouping, _recorder(key[2]))


@functools.cache
def _recorder(device: torch.device) -> Recorder:
    """One recorder for all threads and sizes: a session brings its own memory, so graphs have none
    that another could write to."""
    return Recorder(device, "clustering")


@functools.cache
def runs_triton(device: torch.device) -> bool:
    """Whether Triton works here: it can be imported, and the kernels compile and run."""
    try:
        from instaseg_ros.clustering.ellipses.triton_session import check

        check(device)
    except Exception as error:  # it needs a C compiler, a driver, a supported GPU, ...
        log.warning("outputs on %s are clustered on the CPU: Triton fails: %s", device, error)
        return False
    return True
