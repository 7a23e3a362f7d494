"""Stands for CUDA's streams, events and graphs on a CPU, where everything is in order anyway. What
a GPU makes of it is for the tests marked `gpu`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from instaseg_ros.cuda_capture import Recording


class CpuStream:
    """Stands in for Engine's CUDA stream: on a CPU everything is in order anyway."""

    cuda_stream = 0

    def __init__(self, device: torch.device | None = None) -> None: ...

    def wait_stream(self, other: CpuStream) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def synchronize(self) -> None: ...


class CpuEvent:
    """Stands in for a CUDA event in Uploads."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class CpuRecorder:
    """Stands in for a Recorder of CUDA graphs: a replay repeats the work."""

    def __init__(self, device: torch.device, kind: str) -> None: ...

    def record(self, work: Callable[[], None]) -> Recording[None]:
        return Recording(SimpleNamespace(replay=work), None)
