"""What NVML says of a GPU, with a stand-in for it. No ROS needed."""

from __future__ import annotations

import inspect
import sys

import pytest
import stand_in_nvml

from instaseg_ros.ros.gpu import SLOWED_BY, Gpu, GpuWatch, described

WHOLE = Gpu((3072.0, 8192.0), 91, (900, 1980), "heat")


def watch(monkeypatch: pytest.MonkeyPatch, uuid: str = "1a2b", **unlike: object) -> Gpu | None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in_nvml.make(**unlike))
    return GpuWatch(uuid).look()


def test_memory_heat_and_clock(monkeypatch):
    assert watch(monkeypatch) == WHOLE
    idle = watch(monkeypatch, nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x01)
    assert idle == WHOLE._replace(slowed_by="")
    hungry = watch(monkeypatch, nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x04)
    assert hungry == WHOLE._replace(slowed_by="its power limit")


def test_what_diagnostics_say_of_it():
    assert described(WHOLE) == {
        "GPU memory (MB)": "3072 of 8192",
        "GPU temperature (°C)": "91",
        "GPU clock (MHz)": "900 of 1980",
        "GPU slowed down by": "heat",
    }
    assert described(Gpu()) == {"GPU slowed down by": ""}
    assert described(None) == {}


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch):
    silent = dict.fromkeys(("nvmlDeviceGetTemperature", "nvmlDeviceGetMaxClockInfo"))
    assert watch(monkeypatch, **silent) == WHOLE._replace(temperature_c=None, clock_mhz=None)
    module = stand_in_nvml.make()
    del module.nvmlDeviceGetCurrentClocksThrottleReasons  # of another version
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert GpuWatch("1a2b").look() == WHOLE._replace(slowed_by="")


def test_a_gpu_without_uuid_is_the_only_one_or_none(monkeypatch):
    assert watch(monkeypatch, "") == WHOLE
    assert watch(monkeypatch, "", nvmlDeviceGetCount=lambda: 2) is None


def test_without_nvml_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    caplog.set_level("INFO", "instaseg_ros")
    assert GpuWatch("1a2b").look() is None
    assert "pip install nvidia-ml-py" in caplog.text
    assert watch(monkeypatch, nvmlInit=None) is None  # no driver
    assert watch(monkeypatch, "9f") is None
    assert "Not Found" in caplog.text


def test_the_stand_in_has_the_names_and_parameters_of_the_real_one():
    pynvml = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    assert pynvml.nvmlClocksThrottleReasonSwThermalSlowdown & SLOWED_BY["heat"]
    assert pynvml.nvmlClocksThrottleReasonHwThermalSlowdown & SLOWED_BY["heat"]
    assert pynvml.nvmlClocksThrottleReasonHwSlowdown & SLOWED_BY["heat"]
    assert pynvml.nvmlClocksThrottleReasonSwPowerCap == SLOWED_BY["its power limit"]
    assert pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown == SLOWED_BY["the power supply"]
    for name, ours in vars(stand_in_nvml.make()).items():
        theirs = getattr(pynvml, name)
        if name == "NVMLError":
            assert issubclass(theirs, Exception)
        elif callable(ours):
            given = inspect.signature(ours).parameters
            inspect.signature(inspect.unwrap(theirs)).bind(*given)
        else:
            assert ours == theirs
