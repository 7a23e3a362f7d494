"""What differs between distributions, tried as far as this one can stand in for others; and that
nothing is imported from rclpy that Humble, the oldest, does not have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from rclpy.lifecycle import LifecycleNode

from instaseg_ros.ros import distributions

ROOT = Path(__file__).parents[2]
# Looked up in rclpy 3.3.15 (Humble): each is there, and in 5, 7 and 8 (Iron, Jazzy, before Kilted).
IN_HUMBLE = {
    "rclpy.callback_groups": {"CallbackGroup", "ReentrantCallbackGroup"},
    "rclpy.clock": {"Clock", "ClockType"},
    "rclpy.duration": {"Duration"},
    "rclpy.exceptions": {"InvalidTopicNameException"},
    "rclpy.executors": {"SingleThreadedExecutor"},
    "rclpy.impl.implementation_singleton": {"rclpy_implementation"},
    "rclpy.impl.rcutils_logger": {"RcutilsLogger"},
    "rclpy.lifecycle": {"LifecycleNode", "LifecyclePublisher", "TransitionCallbackReturn"},
    "rclpy.lifecycle.node": {"LifecycleState"},
    "rclpy.logging": {"LoggingSeverity"},
    "rclpy.node": {"Node"},
    "rclpy.parameter": {"Parameter", "parameter_value_to_python"},
    "rclpy.qos": {
        "QoSDurabilityPolicy",
        "QoSHistoryPolicy",
        "QoSLivelinessPolicy",
        "QoSPolicyKind",
        "QoSProfile",
        "QoSReliabilityPolicy",
        "qos_policy_name_from_kind",
    },
    "rclpy.publisher": {"Publisher"},
    "rclpy.qos_overriding_options": {"QoSOverridingOptions"},
    "rclpy.serialization": {"deserialize_message"},
    "rclpy.signals": {"SignalHandlerOptions"},
    "rclpy.subscription": {"Subscription"},
    "rclpy.task": {"Future"},
    "rclpy.time": {"Time"},
    "rclpy.utilities": {"get_rmw_implementation_identifier"},
}


def imported(path: Path) -> set[tuple[str, str]]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    froms = (n for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level)
    return {
        (str(n.module), a.name) for n in froms for a in n.names if n.module.split(".")[0] == "rclpy"
    }


def test_every_name_of_rclpy_is_in_humble_or_gathered_in_one_file() -> None:
    for path in sorted((ROOT / "instaseg_ros" / "ros").rglob("*.py")):
        if path.name == "distributions.py":
            continue
        for module, name in sorted(imported(path)):
            assert name in IN_HUMBLE.get(module, ()), (
                f"{path.name} imports {name} from {module}: look it up in rclpy's sources of every "
                "distribution, then add it here, or put the difference into distributions.py"
            )


def test_a_subscription_that_tells_nothing_but_the_message(monkeypatch) -> None:
    """As Humble's executor calls it."""
    heard: list[tuple[object, dict[str, object]]] = []

    def receive(message: object, about: dict[str, object]) -> None:
        heard.append((message, about))

    assert distributions.with_info(receive) is receive
    monkeypatch.setattr(distributions, "TELLS_INFO", False)
    distributions.with_info(receive)("image")
    assert heard == [("image", {})]


@pytest.mark.parametrize(
    ("about", "number", "sender"),
    [
        ({}, None, None),  # Humble
        ({"publication_sequence_number": 7}, 7, None),  # Jazzy
        ({"publication_sequence_number": 7, "publisher_gid": {"data": b"ab"}}, 7, b"ab"),
        ({"publication_sequence_number": None, "publisher_gid": None}, None, None),
    ],
)
def test_what_is_known_of_the_sender(about, number, sender) -> None:
    assert distributions.sequence_of(about) == (number, sender)


def test_a_node_without_the_private_state_machine_is_let_go() -> None:
    distributions.free_state_machine(LifecycleNode.__new__(LifecycleNode))
