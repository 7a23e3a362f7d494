"""What several tests of engines need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.methods import make_method
from instaseg_ros.network import ERFNet


class CpuStream:
    """Stands where Engine expects a CUDA stream: on a CPU everything is in order anyway."""

    cuda_stream = 0

    def __init__(self, device: torch.device | None = None) -> None: ...

    def wait_stream(self, other: CpuStream) -> None: ...


@pytest.fixture
def cpu_as_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and device scopes of torch.cuda do nothing, so that an Engine runs on the CPU."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", CpuStream)
    monkeypatch.setattr(torch.cuda, "Stream", CpuStream)


@pytest.fixture(scope="session")
def untrained() -> Checkpoint:
    """A network of two classes whose weights are chance."""
    torch.manual_seed(0)
    network = ERFNet(make_method("spatial_embedding", 2, 2).heads)
    return Checkpoint(network.state_dict(), ("car", "bus"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for the session, shared by its workers, since writing ONNX takes seconds."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTASEG_CACHE", str(base / "cache"))
        yield
