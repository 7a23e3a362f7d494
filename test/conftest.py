"""What several tests of engines need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch
from small_networks import (
    SMALL,
    SMALL_STAGES,
    SMALL_TAPPED,
    checkpoint_with_memory,
    untrained_checkpoint,
)
from stand_in_cuda import CpuEvent, CpuRecorder, CpuStream

from instaseg_ros.checkpoint import Checkpoint
from instaseg_ros.files import cache_dir
from instaseg_ros.model import lite
from instaseg_ros.model.erfnet import PROFILES
from instaseg_ros.runtimes import tensorrt_runtime

# Every run draws the same examples, and a busy machine fails none of them. For others:
# `pytest --hypothesis-profile=default`. An environment without hypothesis has no such tests.
with contextlib.suppress(ImportError):
    from hypothesis import settings

    settings.register_profile("same_examples", derandomize=True, deadline=None)
    settings.load_profile("same_examples")

# Kernels take half a minute to compile: also tests with a cache folder of their own find them here.
os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_dir()))


@pytest.fixture(autouse=True, scope="module")
def threads_of_torch() -> Iterator[None]:
    """A runtime sets them for the process; with others a training is not the same to the bit."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cpu_as_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and device scopes of torch.cuda do nothing, so that an Engine runs on the CPU."""
    monkeypatch.setattr(tensorrt_runtime, "Recorder", CpuRecorder)
    plain_empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: plain_empty(*a, **k))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch.cuda, "Event", CpuEvent)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", CpuStream)
    monkeypatch.setattr(torch.cuda, "Stream", CpuStream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)


@pytest.fixture(scope="session")
def untrained() -> Checkpoint:
    """The published network for two classes, whose weights are chance."""
    return untrained_checkpoint()


@pytest.fixture(scope="session")
def small_profiles() -> Iterator[None]:
    """Makes profiles of the package of those in SMALL."""
    with pytest.MonkeyPatch.context() as patch:
        for name, profile in SMALL.items():
            patch.setitem(PROFILES, name, profile)
        yield


@pytest.fixture(scope="session")
def small(small_profiles: None) -> Checkpoint:
    """A small network for the first classes of the synthetic street, whose weights are chance."""
    return untrained_checkpoint("small", ("person", "rider", "car"))


@pytest.fixture(scope="session")
def with_dense(small_profiles: None) -> Checkpoint:
    """A small network with a dense head, in which the classes stand in another order."""
    dense_names = ("road", "car", "sky", "person", "rider")
    return untrained_checkpoint("small", ("person", "rider", "car"), dense_names=dense_names)


@pytest.fixture
def small_lite(small_profiles: None, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A small network of the profile `lite`, for two classes, whose weights are chance."""
    monkeypatch.setattr(lite, "STAGES", SMALL_STAGES)
    monkeypatch.setattr(lite, "TAPPED", SMALL_TAPPED)
    return untrained_checkpoint("small_lite")


@pytest.fixture(scope="session")
def temporal(small_profiles: None) -> Checkpoint:
    """A small network with a memory, for two classes."""
    return checkpoint_with_memory()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for the session. Tests that convert networks are of the group `converting`,
    which one worker runs: it makes each model once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSTASEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
