"""Nothing that this package brings along reports about its users."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

OPENVINO = """
import openvino
from openvino.tools.ovc import telemetry_utils
print(telemetry_utils.tm.__name__)
"""
NNCF = """
import nncf
from nncf.telemetry import wrapper
print(type(wrapper.telemetry).__name__)
"""
ONNX = """
import onnx, onnxruntime
from onnx import TensorProto, helper
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
print(session.get_outputs()[0].name)
"""
RAY = """
import ray
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled())
"""
RERUN = """
import rerun
recording = rerun.RecordingStream("instaseg_ros")
recording.memory_recording()
recording.log("said", rerun.TextLog("hello"))
recording.flush()
print("written")
"""


@pytest.mark.parametrize(
    ("package", "use", "printed"),
    [
        ("openvino", OPENVINO, "openvino.tools.ovc.telemetry_stub"),
        ("nncf", NNCF, "MagicMock"),
        ("onnxruntime", ONNX, "y"),
        ("ray", RAY, "False"),
        ("rerun", RERUN, "written"),  # its viewer reports, unless `rerun analytics disable`
    ],
)
def test_they_report_nothing_and_leave_no_client_id(
    tmp_path: Path, package: str, use: str, printed: str
) -> None:
    """OpenVINO's and ONNX Runtime's write an ID into the home folder before they send."""
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    known = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name}
    known.pop("CI", None)  # where OpenVINO's is silent anyway
    done = subprocess.run(
        [sys.executable, "-c", f"import instaseg_ros\n{use}"],
        env={**known, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == printed, done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
