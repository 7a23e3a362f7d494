"""How the executable starts: what is wrong is said in a sentence, whatever came from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

pytestmark = pytest.mark.ros

PATIENCE_S = 90
NODE = ("-m", "instaseg_ros.ros.node")
FILES = {
    "list.yaml": "a: [\n",
    "empty.yaml": "/**:\n  ros__parameters:\n",
    "star.yaml": "/**:\n",
    "plain.yaml": "decode:\n  min_pixels: 7\n",
    "mixed.yaml": "/**:\n  ros__parameters:\n    weights: [1, a]\n",
    "group.yaml": "/**:\n  ros__parameters:\n    decode:\n",
    "number.yaml": "/**:\n  ros__parameters: 3\n",
    "latin.yaml": b"/**:\n  ros__parameters:\n    weights: caf\xe9\n",
    "named.yaml": "instaseg_node:\n  ros__parameters:\n    decode:\n      min_pixels: -1\n",
}


def start(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of a node that ends on its own."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", [name for name in FILES if name != "named.yaml"])
def test_a_parameter_file_that_ros_cannot_read(name: str, tmp_path: Path) -> None:
    content = FILES[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, output = start(*NODE, "--ros-args", "--params-file", path)
    assert code == 1
    assert "instaseg_node: ROS cannot start: " in output
    assert f"params file: '--params-file {path}'" in output
    assert "'ros__parameters:'" in output


def test_a_parameter_file_that_names_the_node(tmp_path: Path) -> None:
    """It is read: its bad value is refused."""
    path = tmp_path / "named.yaml"
    path.write_text(str(FILES[path.name]))
    code, output = start(*NODE, "--ros-args", "--params-file", path)
    assert code == 1
    assert "instaseg_node: decode.min_pixels: expected a value from 0 to" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--params-file", "/nowhere.yaml"), "'--params-file /nowhere.yaml'"),
        (("-r", "image"), "remap rule: '-r image'"),
        (("-r", "image:=/a b"), "remap rule: '-r image:=/a b'"),
        (("-r", "__ns:=/a//b"), "'-r __ns:=/a//b'"),
        (("-p", "decode.min_pixels:=["), "'-p decode.min_pixels:=['"),
        (("--no-such-option",), "unknown arguments ['--no-such-option']"),
        (("-p", "weights:=[a, b]"), "weights: expected str, got list ['a', 'b']"),
        (("-p", "decode.seed_threshold:=1.5"), "expected a value from 0.0 to 1.0, got 1.5"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, ...], part: str) -> None:
    code, output = start(*NODE, "--ros-args", *arguments)
    assert code == 1
    assert "instaseg_node: " in output
    assert part in output


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROS_DOMAIN_ID", "abc"),
        ("ROS_DOMAIN_ID", "400"),
        ("ROS_LOG_DIR", "/proc/no/such"),
        ("NUMBA_NUM_THREADS", "0"),
        ("NUMBA_NUM_THREADS", "many"),
    ],
)
def test_an_environment_that_cannot_be_used(name: str, value: str) -> None:
    code, output = start(*NODE, **{name: value})
    assert code == 1
    assert output.startswith("instaseg_node: ")
    assert value in output


HOOKED = """
import os, signal, sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {action}

sys.meta_path.insert(0, Hook())
from instaseg_ros.ros.node import main
main(["node", "--ros-args", "-p", "weights:=no-such-weights", "-p", "node.autostart:=true"])
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_while_it_imports(number: str) -> None:
    action = f"os.kill(os.getpid(), signal.{number})"
    code, output = start("-c", HOOKED.format(module="rclpy.node", action=action))
    assert code == 0, output
    assert not output


def test_the_node_is_on_the_graph_before_torch_is_imported() -> None:
    action = "import rclpy; o = rclpy.create_node('observer'); print(o.get_node_names(), *" + (
        "[name for name, _ in o.get_service_names_and_types()])"
    )
    _, output = start("-c", HOOKED.format(module="torch", action=action))
    assert "['instaseg_node'" in output or "'instaseg_node']" in output  # names of nodes
    assert "/instaseg_node/set_parameters" in output


def test_without_ros_it_says_what_to_source() -> None:
    action = "raise ModuleNotFoundError('No module named ' + repr(name))"
    code, output = start("-c", HOOKED.format(module="rclpy", action=action))
    assert code == 1
    assert "instaseg_node: ROS 2 cannot be imported: No module named 'rclpy'; source" in output
