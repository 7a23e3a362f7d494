"""What weights bring comes with them, also where they are set after the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from robot import Robot

from instaseg_ros.checkpoint import Checkpoint, save_checkpoint
from instaseg_ros.configure import load_config
from instaseg_ros.methods import make_method
from instaseg_ros.model.erfnet import ERFNet

pytestmark = pytest.mark.ros


def test_weights_that_are_set_later_bring_what_suits_them() -> None:
    from rclpy.parameter import Parameter

    from instaseg_ros.ros.parameters import changed

    at_start = load_config(overrides={"decode.min_pixels": 9})
    street = changed(at_start, [Parameter("weights", value="street")], configured=False)
    assert street == load_config(overrides={"weights": "street", "decode.min_pixels": 9})
    assert street.input.max_height == 1024
    nobody = changed(street, [Parameter("weights", value="nobody")], configured=False)
    assert nobody.weights == "nobody"


def test_the_parameters_say_what_new_weights_brought(robot: Robot) -> None:
    from rcl_interfaces.srv import GetParameters

    def said(*names: str) -> list[Any]:
        values = robot.call(GetParameters, "get_parameters", names=names).values
        return [value.integer_value for value in values]

    robot.start({"weights": "street-synthetic", "decode.min_pixels": 9})
    names = "input.max_height", "decode.min_pixels"
    assert said(*names) == [0, 9]
    assert robot.set_parameter("weights", "street").successful
    robot.until(lambda: said(*names) == [1024, 9], "the height of these weights")
    assert robot.set_parameter("weights", "street-synthetic").successful
    robot.until(lambda: said(*names) == [0, 9], "the height of those")
    robot.stop()  # killed, its services would stay on the graph, and the next test ask them


def test_weights_of_another_method_bring_its_options(robot: Robot, tmp_path: Path) -> None:
    """At start, a file's options for other methods cause warnings only if not at defaults."""
    from rcl_interfaces.srv import GetParameters

    def has(name: str) -> bool:
        return bool(robot.call(GetParameters, "get_parameters", names=[f"decode.{name}"]).values)

    network = ERFNet(make_method("discriminative", 1).heads, "fast")
    other = str(tmp_path / "w.safetensors")
    checkpoint = Checkpoint(network.state_dict(), ("car",), "discriminative", "fast")
    save_checkpoint(checkpoint, other)

    robot.start({"weights": other, "decode.agreement": True, "decode.first_come": False})
    assert not has("agreement") and not has("first_come") and has("foreground_threshold")
    assert "'decode.first_come' belongs to method spatial_embedding, metric_learning" in robot.log()
    assert "decode.agreement" not in robot.log()

    assert robot.set_parameter("weights", "street").successful
    assert "(live: " in robot.describe_parameter("decode.agreement").description
    assert robot.set_parameter("decode.agreement", False).successful
    assert robot.set_parameter("weights", other).successful
    assert not has("agreement") and has("foreground_threshold")
    assert not robot.set_parameter("decode.agreement", True).successful
