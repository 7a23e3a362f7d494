"""Observes memory, heat and clock of an NVIDIA GPU where pynvml (nvidia-ml-py) is installed. Needs
no ROS."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")
MB = 2**20
# Bits of NVML's reasons why a clock is lower than it could be; being idle is none of ours.
SLOWED_BY = {
    "heat": 0x08 | 0x20 | 0x40,  # hardware (heat or power brake), software, hardware
    "its power limit": 0x04,
    "the power supply": 0x80,
}

log = logging.getLogger(__name__)


class Gpu(NamedTuple):
    """A GPU at one moment; None for what it does not tell.

    memory_mb: used, by all programs, and total, in 2**20 bytes. clock_mhz: now, and at most.
    slowed_by: what keeps the clock down, one of SLOWED_BY; empty if nothing does.
    """

    memory_mb: tuple[float, float] | None = None
    temperature_c: int | None = None
    clock_mhz: tuple[int, int] | None = None
    slowed_by: str = ""


class GpuWatch:
    """Observes the GPU of a CUDA device from time to time.

    uuid: the device's, as torch has it; empty, as older ones do not: only a single GPU is known.
    """

    def __init__(self, uuid: str = "") -> None:
        self._nvml: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            if uuid:
                self._gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            elif pynvml.nvmlDeviceGetCount() == 1:
                self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
            else:
                return
            self._nvml = pynvml
        except ImportError:
            log.info("GPU heat and clock are not in diagnostics: pip install nvidia-ml-py")
        except Exception as error:  # of NVML: no driver, no permission, a part of a GPU
            log.info("GPU heat and clock are not in diagnostics: NVML says %s", error)

    def look(self) -> Gpu | None:
        """The current state; None if NVML is not there."""
        if self._nvml is None:
            return None
        reasons = self._ask(self._reasons) or 0
        slowed = (name for name, bits in SLOWED_BY.items() if reasons & bits)
        return Gpu(
            self._ask(self._memory_mb),
            self._ask(self._temperature_c),
            self._ask(self._clock_mhz),
            next(slowed, ""),
        )

    def _memory_mb(self) -> tuple[float, float]:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(self._gpu)
        return memory.used / MB, memory.total / MB

    def _temperature_c(self) -> int:
        return int(self._nvml.nvmlDeviceGetTemperature(self._gpu, self._nvml.NVML_TEMPERATURE_GPU))

    def _clock_mhz(self) -> tuple[int, int]:
        kind = self._nvml.NVML_CLOCK_SM
        now = self._nvml.nvmlDeviceGetClockInfo(self._gpu, kind)
        return now, self._nvml.nvmlDeviceGetMaxClockInfo(self._gpu, kind)

    def _reasons(self) -> int:
        return int(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._gpu))

    def _ask(self, question: Callable[[], T]) -> T | None:
        """The answer; None if this GPU or this NVML does not know it."""
        try:
            return question()
        except (self._nvml.NVMLError, AttributeError):
            return None


def described(gpu: Gpu | None) -> dict[str, str]:
    """What diagnostics say of it."""
    values: dict[str, str] = {}
    if gpu is None:
        return values
    if gpu.memory_mb is not None:
        values["GPU memory (MB)"] = "{:.0f} of {:.0f}".format(*gpu.memory_mb)
    if gpu.temperature_c is not None:
        values["GPU temperature (°C)"] = str(gpu.temperature_c)
    if gpu.clock_mhz is not None:
        values["GPU clock (MHz)"] = "{} of {}".format(*gpu.clock_mhz)
    values["GPU slowed down by"] = gpu.slowed_by
    return values
