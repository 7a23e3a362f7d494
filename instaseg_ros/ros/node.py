"""The executable `instaseg_node`: a managed node that labels the instances in a camera's images.

configure: engine and warm-up. activate: subscription and worker thread. Nothing is processed while
inactive; cleanup gives everything back.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from instaseg_ros.errors import ConfigError, InstasegError
from instaseg_ros.outputs import NODE_NAME
from instaseg_ros.ros import parameters
from instaseg_ros.ros.diagnostics import Health, diagnose
from instaseg_ros.ros.messages import diagnostic_array
from instaseg_ros.ros.stream import Stream
from instaseg_ros.ros.transitions import refuse_invalid_transitions, transition

if TYPE_CHECKING:
    from instaseg_ros.ros.labeller import Labeller

DIAGNOSE_EVERY_S = 1.0
SIGNAL_POLL_S = 0.2
IMAGE_PATIENCE_S = 0.8  # for the image in work when the process is told to end
EXIT_DEADLINE_S = 2.0  # when it is told to end while it configures, which may take minutes


class InstasegNode(LifecycleNode):
    """Parameters, lifecycle and diagnostics; the work is done by `Stream` and `Labeller`.

    Raises ConfigError for a bad parameter at start.
    """

    def __init__(self) -> None:
        super().__init__(NODE_NAME, automatically_declare_parameters_from_overrides=True)
        self.lifecycle = "unconfigured"
        self.failure = ""
        self._labeller: Labeller | None = None
        self._stream: Stream | None = None
        self.config = parameters.declare(self)
        self.add_on_set_parameters_callback(self._set_parameters_checked)
        refuse_invalid_transitions(self)
        self._health_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # also where ROS time stands still
        self._health_timer = self.create_timer(DIAGNOSE_EVERY_S, self._diagnose, clock=clock)

    def start(self) -> bool:
        """Configure and activate; False when either fails."""
        done = TransitionCallbackReturn.SUCCESS
        return bool(self.trigger_configure() == done and self.trigger_activate() == done)

    @transition(leads_to="inactive")
    def on_configure(self, state: LifecycleState) -> None:
        # Here and not above: it imports torch, and the node should be on the graph before that.
        from instaseg_ros.ros.labeller import Labeller

        self._labeller = Labeller(self, self.config)
        self.get_logger().info(f"configured: {self._labeller.engine()}")

    @transition(leads_to="active")
    def on_activate(self, state: LifecycleState) -> None:
        assert self._labeller is not None
        super().on_activate(state)
        self._labeller.publish_label_info()
        self._stream = Stream(self, self.config.node, self._labeller)

    @transition(leads_to="inactive")
    def on_deactivate(self, state: LifecycleState) -> None:
        self._close_stream()
        super().on_deactivate(state)

    @transition(leads_to="unconfigured")
    def on_cleanup(self, state: LifecycleState) -> None:
        self.release()

    @transition(leads_to="finalized")
    def on_shutdown(self, state: LifecycleState) -> None:
        self.release()

    @transition(leads_to="unconfigured")
    def on_error(self, state: LifecycleState) -> None:
        self.release()

    def destroy_node(self) -> None:
        """Leave the graph at once."""
        super().destroy_node()
        # rclpy forgets this one, and it keeps the node alive for as long as this object lives.
        self._state_machine.destroy_when_not_in_use()

    def release(self, timeout_s: float | None = None) -> None:
        """Give back all that configure and activate took, waiting `timeout_s` for an image that
        is still in work."""
        self._close_stream(timeout_s)
        if self._labeller:
            self._labeller.close()
            self._labeller = None
            gc.collect()  # the network is large and must not wait for the next collection

    def _close_stream(self, timeout_s: float | None = None) -> None:
        if self._stream:
            self._stream.close(timeout_s)
            self._stream = None

    def _set_parameters_checked(self, changes: Iterable[Parameter]) -> SetParametersResult:
        before = self.config
        try:
            self.config = parameters.changed(before, changes, self._labeller is not None)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._labeller and self.config != before:
            self._labeller.use(self.config)
        return SetParametersResult(successful=True)

    def _diagnose(self) -> None:
        facts: dict[str, Any] = {}
        if self._labeller:
            facts["engine"] = self._labeller.engine()
        if self._stream:
            facts["input"], facts["statistics"] = self._stream.describe()
        health = Health(self.lifecycle, self.config.node, self.failure, **facts)
        name = f"{self.get_fully_qualified_name()}: instance segmentation"
        message = diagnostic_array(name, diagnose(health), self.get_clock().now())
        self._health_publisher.publish(message)


def main(args: list[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM, then end the process."""
    exit_code = run(args)
    # All is given back. What the interpreter would still do takes seconds with torch and OpenVINO
    # loaded, and it aborts where a network, which cannot be interrupted, runs on in its thread.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def run(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    # rclpy's own handlers would invalidate the context under the worker's feet.
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    stopping = _stop_on_signals()
    node = None
    try:
        node = InstasegNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        if node.config.node.autostart and not node.start():
            return 1
        while not stopping.is_set() and rclpy.ok():
            executor.spin_once(timeout_sec=SIGNAL_POLL_S)
    except InstasegError as error:
        print(f"{NODE_NAME}: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.release(IMAGE_PATIENCE_S)
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _stop_on_signals() -> threading.Event:
    """Set by SIGINT or SIGTERM; the process then ends within EXIT_DEADLINE_S, whatever it does."""
    stopping = threading.Event()

    def stop(number: int, frame: Any) -> None:
        if not stopping.is_set():
            stopping.set()
            deadline = threading.Timer(EXIT_DEADLINE_S, os._exit, (0,))
            deadline.daemon = True
            deadline.start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return stopping


if __name__ == "__main__":
    main()
