"""Clustering where the network's outputs lie, in Triton; and the way to a CPU for everything else.

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

GRAPHS = 8  # recorded per image size, of thresholds and memory that came last
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
    """`cpu.group` of each image of a batch, on the CUDA device that holds the outputs.

    outputs: raw offset (B, 2, H, W), bandwidth (B, n_sigma, H, W) and seed (B, C, H, W), of any
    float type, anyhow laid out. lattice: x of the pixel columns (W,) and y of the rows (H,).
    least_logit: of a point. gain: what a bandwidth's exponent is multiplied by.
    Which pixels lie within an ellipse is decided as on a CPU, up to the rounding of tanh and exp.
    None: of an image that the CPU has to cluster, as Triton is missing or there was no room.
    """
    device = outputs[0].device
    with torch.cuda.device(device):
        if not _triton(device):
            return [None] * len(outputs[0])
        return _session(outputs, lattice).group(outputs, least_logit, gain, config)


def on_host(*tensors: Tensor) -> list[Tensor]:
    """The tensors, all of one device, on the CPU.

    From a GPU by way of pinned memory, which is several times as fast; it is waited for once.
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
    """Batches of one shape: their memory and recorded graphs."""

    def __init__(self, kernels: TritonGrouping, recorder: Recorder) -> None:
        self.kernels = kernels
        self.recorder = recorder
        self.recordings: dict[Any, Recording[None]] = {}  # the one used last stands last
        self.seen: deque[Any] = deque(maxlen=GRAPHS)

    def group(
        self, outputs: Sequence[Tensor], least_logit: float, gain: float, config: DecodeConfig
    ) -> list[Groups | None]:
        self._launch(outputs, least_logit, gain, config)
        # Fresh memory: the label image is handed out as it is. torch keeps freed blocks pinned.
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
        """Start the work, as a graph where the same memory has been seen before.

        The first time everything is compiled and loaded, which a recording must not have to do.
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
    """This thread's session for the shape: its memory is used by one call at a time."""
    _, bandwidth, seed = outputs
    key = tuple(seed.shape), bandwidth.shape[1], seed.device
    sessions: dict[Any, Session] = _local.__dict__.setdefault("sessions", {})
    session = sessions.pop(key, None) or _new_session(key, lattice)
    sessions[key] = session  # the one used last stands last
    if len(sessions) > SIZES:
        del sessions[next(iter(sessions))]
    return session


def _new_session(key: tuple[tuple[int, ...], int, torch.device], lattice: Lattice) -> Session:
    from instaseg_ros.clustering.ellipses.triton_session import TritonGrouping

    grouping = TritonGrouping(*key, [torch.from_numpy(axis) for axis in lattice])
    return Session(grouping, _recorder(key[2]))


@functools.cache
def _recorder(device: torch.device) -> Recorder:
    """One for all threads and sizes: a session brings its memory, a graph needs none of its own
    that another could write to."""
    return Recorder(device, "clustering")


@functools.cache
def _triton(device: torch.device) -> bool:
    """Whether Triton works here: it is imported, compiles the kernels, and they run."""
    try:
        from instaseg_ros.clustering.ellipses.triton_session import check

        check(device)
    except Exception as error:  # it needs a C compiler, a driver, a GPU that it knows, ...
        log.warning("outputs on %s are clustered on the CPU, as Triton fails: %s", device, error)
        return False
    return True
