"""docs/masks.md: its Python and its C++ find the same masks as a comparison of pixels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_results import CLASS_NAMES, HEADER, INSTANCES

from instaseg_ros.recordings import result_messages
from instaseg_ros.recordings.message_types import message_classes

PAGE = (Path(__file__).parents[2] / "docs" / "masks.md").read_text(encoding="utf-8")
PADDING = 6  # bytes behind each row, as a message may have

CPP_PROGRAM = """
#include <iostream>
%s

// Arguments: height, width, step, id. Pixels come on standard input, the mask goes to output.
int main(int, char ** argv)
{
  sensor_msgs::msg::Image labels;
  labels.height = std::stoul(argv[1]);
  labels.width = std::stoul(argv[2]);
  labels.step = std::stoul(argv[3]);
  labels.data.resize(labels.height * labels.step);
  std::cin.read(reinterpret_cast<char *>(labels.data.data()), labels.data.size());
  vision_msgs::msg::Detection2D detection;
  detection.id = argv[4];
  const auto mask = mask_of(labels, detection);
  std::cout.write(reinterpret_cast<const char *>(mask.data()), mask.size());
}
"""


def code(language: str, function: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = (block for block in blocks if re.search(rf"(def|>) {function}\(", block))
    return found


def run_python(function: str) -> Any:
    names: dict[str, Any] = {}
    exec(code("python", function), names)
    return names[function]


@pytest.fixture
def labels() -> Any:
    """`~/labels` with padded rows."""
    message = result_messages.labels_message(message_classes(), HEADER, INSTANCES.labels)
    rows = np.asarray(message.data).reshape(message.height, message.step)
    message.data = np.pad(rows, ((0, 0), (0, PADDING)), constant_values=7).ravel()
    message.step += PADDING
    return message


@pytest.fixture
def detections() -> list[Any]:
    made = result_messages.detections_message(message_classes(), HEADER, INSTANCES, CLASS_NAMES)
    return made.detections


def test_python(labels, detections):
    mask_of = run_python("mask_of")
    for detection in detections:
        mask = mask_of(labels, detection)
        assert mask.any()
        np.testing.assert_array_equal(mask, INSTANCES.labels == int(detection.id))


def test_python_of_compressed_labels():
    message = result_messages.compressed_labels_message(message_classes(), HEADER, INSTANCES.labels)
    ids = run_python("ids_of")(message)
    assert ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, INSTANCES.labels)


def includes() -> list[Path]:
    """Where ROS has its headers: each package's folder below `include`."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(":")]
    folders = [Path(prefix, "include") for prefix in prefixes if prefix]
    return [path for folder in folders if folder.is_dir() for path in (folder, *folder.iterdir())]


def test_cpp(labels, detections, tmp_path):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler, g++")
    headers = [path / "vision_msgs/msg/detection2_d.hpp" for path in includes()]
    if not any(header.exists() for header in headers):
        pytest.skip("needs the C++ headers of vision_msgs, from ROS")
    source, program = tmp_path / "masks.cpp", tmp_path / "masks"
    source.write_text(CPP_PROGRAM % code("cpp", "mask_of"))
    warnings = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
    folders = [f"-isystem{path}" for path in includes()]
    subprocess.run([compiler, *warnings, *folders, source, "-o", program], check=True)
    for detection in detections:
        sizes = (labels.height, labels.width, labels.step)
        run = [program, *map(str, sizes), detection.id]
        mask = subprocess.run(run, input=bytes(labels.data), check=True, capture_output=True)
        found = np.frombuffer(mask.stdout, np.uint8).reshape(INSTANCES.labels.shape)
        np.testing.assert_array_equal(
            found, np.where(INSTANCES.labels == int(detection.id), 255, 0)
        )
