"""The one `openvino.Core` of the process."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def core() -> Any:
    """The openvino.Core that all share and that is never freed.

    OpenVINO's CPU plugin gives the thread that loads it another stack for signals, and takes it
    away when its Core is freed. If an earlier Core is freed before a later one, the thread is left
    with a stack that is gone, and its next signal, such as Ctrl-C, ends the process with a
    segmentation fault (OpenVINO 2022.2 to 2026.4, `SigAltStackSetup` in its plugin.cpp).
    """
    import openvino

    return openvino.Core()
