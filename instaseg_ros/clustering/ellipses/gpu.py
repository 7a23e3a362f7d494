"""Clustering where the network's outputs lie: in Triton, or in plain torch where that is missing.

From the second frame on, everything between the raw outputs and the label image is one CUDA graph;
the host waits once, for the copies of the label image and of the report on its instances.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from instaseg_ros.clustering.ellipses import Groups, torch_loop

if TYPE_CHECKING:
    from instaseg_ros.clustering.ellipses.triton_session import TritonGrouping
    from instaseg_ros.options.spatial_embedding import DecodeConfig

log = logging.getLogger(__name__)

Maps = tuple[Tensor, Tensor, Tensor]  # embedding, scale, score: (B, c, H, W) float32
Formula = Callable[..., Maps]

GRAPHS = 8  # recorded per image size; then recording starts anew
SIZES = 4  # image sizes per thread whose memory is kept

_local = threading.local()


def group(outputs: Sequence[Tensor], formula: Formula, config: DecodeConfig) -> list[Groups]:
    """`oracle.group` of each image of a batch, on the device that holds the outputs.

    outputs: raw offset (B, 2, H, W), lattice position (2, H, W) of every pixel, raw bandwidth
    (B, n_sigma, H, W) and raw seed (B, C, H, W), float32. formula: the method's; takes them to
    embedding, scale and score, shaped like the raw ones, and waits for nothing.
    Which pixels lie within an ellipse is decided as on a CPU, up to the rounding of the formula.
    """
    if outputs[0].is_cuda and _triton(outputs[0].device):
        return _session(outputs).group(outputs, formula, config)
    return [torch_loop.group(*image, config) for image in _images(formula(*outputs))]


def _images(maps: Maps) -> list[Maps]:
    embedding, scale, score = maps
    return list(zip(embedding, scale, score, strict=True))


class Session:
    """Batches of one shape: their memory and recorded graphs."""

    def __init__(self, kernels: TritonGrouping) -> None:
        self.kernels = kernels
        self.graphs: dict[Any, tuple[Any, Maps]] = {}
        self.seen: deque[Any] = deque(maxlen=GRAPHS)

    def group(
        self, outputs: Sequence[Tensor], formula: Formula, config: DecodeConfig
    ) -> list[Groups]:
        maps = self._launch(outputs, formula, config)
        # Fresh memory: the label image is handed out as it is. torch keeps freed blocks pinned.
        labels, report = (
            torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda).copy_(t, non_blocking=True)
            for t in (self.kernels.labels, self.kernels.report)
        )
        if outputs[0].is_cuda:
            torch.cuda.current_stream(outputs[0].device).synchronize()
        groups = self.kernels.groups(labels.numpy(), report.numpy())
        return [
            # More points or instances than there is room for: plain torch has no such limits.
            torch_loop.group(*image, config) if found is None else found
            for image, found in zip(_images(maps), groups, strict=True)
        ]

    def _launch(self, outputs: Sequence[Tensor], formula: Formula, config: DecodeConfig) -> Maps:
        """Start the work, as a graph where the same memory has been seen before."""
        key = config, tuple((t.data_ptr(), t.stride()) for t in outputs)
        if key in self.graphs:
            graph, maps = self.graphs[key]
            graph.replay()
            return maps
        if key not in self.seen or not outputs[0].is_cuda:
            self.seen.append(key)
            maps = formula(*outputs)
            self.kernels.launch(*maps, config)
            return maps
        if len(self.graphs) == GRAPHS:
            self.graphs.clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            maps = formula(*outputs)
            self.kernels.launch(*maps, config)
        self.graphs[key] = graph, maps
        graph.replay()
        return maps


def _session(outputs: Sequence[Tensor]) -> Session:
    """This thread's session for the shape: its memory is used by one call at a time."""
    from instaseg_ros.clustering.ellipses.triton_session import TritonGrouping

    sessions: dict[Any, Session] = _local.__dict__.setdefault("sessions", {})
    _, lattice, bandwidth, seed = outputs
    key = seed.shape, bandwidth.shape[1], seed.device
    if key not in sessions:
        if len(sessions) == SIZES:
            sessions.clear()
        x, y = lattice[:, -1, -1].tolist()
        sessions[key] = Session(TritonGrouping(*key, (x, y)))
    return sessions[key]


@functools.cache
def _triton(device: torch.device) -> bool:
    """Whether Triton works here: it is imported, compiles the kernels, and they run."""
    try:
        from instaseg_ros.clustering.ellipses.triton_session import check

        check(device)
    except Exception as error:  # it needs a C compiler, a driver, a GPU that it knows, ...
        log.warning("clustering on %s is plain torch, because Triton fails: %s", device, error)
        return False
    return True
