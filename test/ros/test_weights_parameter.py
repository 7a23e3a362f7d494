"""What weights bring comes with them, also where they are set after the start."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy")

from robot import Robot

from instaseg_ros.configure import load_config

pytestmark = pytest.mark.ros


def test_weights_that_are_set_later_bring_what_suits_them() -> None:
    from rclpy.parameter import Parameter

    from instaseg_ros.ros.parameters import changed

    at_start = load_config(overrides={"decode.min_pixels": 9})
    street = changed(at_start, [Parameter("weights", value="street")], configured=False)
    assert street == load_config(overrides={"weights": "street", "decode.min_pixels": 9})
    assert street.input.height == 480
    nobody = changed(street, [Parameter("weights", value="nobody")], configured=False)
    assert nobody.weights == "nobody"


def test_the_parameters_say_what_new_weights_brought(robot: Robot) -> None:
    from rcl_interfaces.srv import GetParameters

    def said(*names: str) -> list[Any]:
        values = robot.call(GetParameters, "get_parameters", names=names).values
        return [value.integer_value for value in values]

    robot.start({"decode.min_pixels": 9})
    names = "input.height", "decode.min_pixels"
    assert said(*names) == [0, 9]
    assert robot.set_parameter("weights", "street").successful
    robot.until(lambda: said(*names) == [480, 9], "the height of these weights")
    assert robot.set_parameter("weights", "street-synthetic").successful
    robot.until(lambda: said(*names) == [0, 9], "the height of those")
