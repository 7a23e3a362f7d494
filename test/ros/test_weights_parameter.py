"""What weights bring comes with them, also where they are set after the start."""

from __future__ import annotations

import pytest

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
