"""A stand-in for pynvml with one GPU, for a machine without: only what its author believes of NVML.

Names and signatures are compared with the real package where that is installed.
"""

from __future__ import annotations

from types import SimpleNamespace

NVML_TEMPERATURE_GPU = 0
NVML_CLOCK_SM = 1
UUID = "GPU-1a2b"


class NVMLError(Exception):
    """What NVML refuses."""


def make(**unlike: object) -> SimpleNamespace:
    """The module; `unlike`: what it has instead, None for what this GPU does not support."""

    def refuse(*_: object) -> None:
        raise NVMLError("Not Supported")

    def by_uuid(uuid: str) -> str:
        if uuid != UUID:
            raise NVMLError("Not Found")
        return "gpu"

    real = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": NVML_TEMPERATURE_GPU,
        "NVML_CLOCK_SM": NVML_CLOCK_SM,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByUUID": by_uuid,
        "nvmlDeviceGetHandleByIndex": lambda index: ("gpu",)[index],
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=3 << 30, total=8 << 30),
        "nvmlDeviceGetTemperature": lambda handle, sensor: 91,
        "nvmlDeviceGetClockInfo": lambda handle, type: 900,  # noqa: A006
        "nvmlDeviceGetMaxClockInfo": lambda handle, type: 1980,  # noqa: A006
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x20 | 0x01,
    }
    changed = {name: refuse if value is None else value for name, value in unlike.items()}
    return SimpleNamespace(**{**real, **changed})
