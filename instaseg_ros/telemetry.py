"""What other packages report about their users over the network: nothing, with this one.

Theirs is on by default: OpenVINO's at `import openvino` (in a process of its own, with a client ID
kept in the home folder), NNCF's when it quantises, ONNX Runtime's at every session.
"""

from __future__ import annotations

import os
import sys
from typing import Any


def switch_off() -> None:
    """For this process; to be called before those packages are imported."""
    modules: dict[str, Any] = sys.modules
    # So it cannot be imported, and OpenVINO and NNCF do without.
    modules.setdefault("openvino_telemetry", None)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
