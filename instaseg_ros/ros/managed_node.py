"""The managed node that labels the instances in a camera's images.

configure: engine and warm-up. activate: subscription and worker threads. While inactive, nothing is
processed; cleanup releases everything.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool

from instaseg_ros import __version__
from instaseg_ros.contract import INTERFACE
from instaseg_ros.errors import ConfigError
from instaseg_ros.recordings.result_messages import NODE_NAME
from instaseg_ros.ros import parameters
from instaseg_ros.ros.diagnostics import Health, diagnose_cameras, status
from instaseg_ros.ros.distributions import FOLLOWS_PARAMETERS, free_state_machine
from instaseg_ros.ros.gpu import described
from instaseg_ros.ros.logs import RosHandler
from instaseg_ros.ros.messages import diagnostic_array
from instaseg_ros.ros.qos import LATCHED
from instaseg_ros.ros.scheduling import be_nice, use_processors
from instaseg_ros.ros.transitions import beside, serve_transitions, transition

if TYPE_CHECKING:
    from instaseg_ros.ros.session import Session

DIAGNOSE_EVERY_S = 1.0
SOFTWARE = {"version": __version__, "interface": str(INTERFACE)}

log = logging.getLogger(__name__)


class InstasegNode(LifecycleNode):
    """Parameters, lifecycle and diagnostics; the work is done by a `Session`.

    Raises ConfigError for a bad parameter at start.
    """

    def __init__(self) -> None:
        try:
            super().__init__(NODE_NAME, automatically_declare_parameters_from_overrides=True)
        except ValueError as error:
            if "PARAMETER_NOT_SET" not in str(error):
                raise
            raise ConfigError(
                "a parameter is an empty list or nothing at all, which ROS refuses; give it a "
                "value or leave it out (cameras: [''] is one camera without a name)"
            ) from error
        self.lifecycle = "unconfigured"
        self.failure = ""
        self._session: Session | None = None
        self._taking_over = threading.Lock()  # of parameters, as configure runs in another thread
        self._logs = RosHandler(self.get_logger())
        package = logging.getLogger("instaseg_ros")
        package.setLevel(logging.INFO)
        package.addHandler(self._logs)
        self.config = parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        if FOLLOWS_PARAMETERS:
            self.add_post_set_parameters_callback(self._follow)
        serve_transitions(self)
        self._health_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._status_publisher = self.create_publisher(String, "~/status", LATCHED)
        self._status = ""
        self.create_service(SetBool, "~/enable", self._enable)
        self.announce()
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # runs even if ROS time stands still
        self._health_timer = self.create_timer(DIAGNOSE_EVERY_S, self._diagnose, clock=clock)

    async def start(self) -> bool:
        """Configure, beside the executor, and activate; False if either fails."""
        done = TransitionCallbackReturn.SUCCESS
        if await beside(self, self.trigger_configure) != done:
            return False
        active = self.lifecycle == "active"  # a lifecycle manager may have been quicker
        return active or bool(self.trigger_activate() == done)

    @transition("configuring", leads_to="inactive")
    def on_configure(self, state: LifecycleState) -> None:
        config = self.config
        # First, as engines count their processors once, and their threads begin like this one.
        use_processors(config.node.cpus)
        be_nice(config.node.niceness)
        log.info("importing torch")
        # Not at the top: it takes seconds, and the node should be on the graph before that.
        from instaseg_ros.ros.session import Session

        session = Session(self, config)
        use_processors(config.node.cpus)  # again: an engine may have spread its threads
        with self._taking_over:
            self._session = session
            if self.config != config:  # live parameters were set meanwhile
                session.reconfigure(self.config)
        log.info("configured: %s", ", ".join(f"{k} {v}" for k, v in session.engine().items()))

    @transition("activating", leads_to="active")
    def on_activate(self, state: LifecycleState) -> None:
        assert self._session is not None
        super().on_activate(state)
        self._session.start()

    @transition("deactivating", leads_to="inactive")
    def on_deactivate(self, state: LifecycleState) -> None:
        self._stop()
        super().on_deactivate(state)

    @transition("cleaningup", leads_to="unconfigured")
    def on_cleanup(self, state: LifecycleState) -> None:
        self.release()

    @transition("shuttingdown", leads_to="finalized")
    def on_shutdown(self, state: LifecycleState) -> None:
        self.release()

    @transition("errorprocessing", leads_to="unconfigured")
    def on_error(self, state: LifecycleState) -> None:
        self.release()

    def destroy_node(self) -> None:
        """Leave the graph at once."""
        super().destroy_node()
        free_state_machine(self)

    def release(self, timeout_s: float | None = None) -> None:
        """Release everything from configure and activate, waiting up to `timeout_s` for an image
        that is still being processed."""
        self._stop(timeout_s)
        if self._session:
            self._session.close()
            self._session = None
            gc.collect()  # the network is large and must not wait for the next collection

    def _stop(self, timeout_s: float | None = None) -> None:
        if self._session and self._session.started:
            self._session.stop(timeout_s)

    def _check_parameters(self, changes: Iterable[Parameter]) -> SetParametersResult:
        fixed = self.lifecycle not in ("unconfigured", "finalized")
        try:
            config = parameters.changed(self.config, changes, fixed)
            if session := self._session:
                session.pipeline.check(config)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not FOLLOWS_PARAMETERS:
            self._take_over(changes)
        return SetParametersResult(successful=True)

    def _take_over(self, changes: Iterable[Parameter]) -> None:
        with self._taking_over:
            before, self.config = self.config, parameters.changed(self.config, changes, False)
            if self._session and self.config != before:
                self._session.reconfigure(self.config)
        parameters.redeclare(self, self.config)

    def _follow(self, changes: Iterable[Parameter]) -> None:
        """After ROS has set parameters, also update those that new weights determine."""
        self._take_over(changes)
        if stale := parameters.stale(self, self.config):
            self.set_parameters(stale)  # which comes here again, with nothing to do

    def announce(self) -> None:
        """Publish the word for ~/status if it has changed."""
        self._tell(*self._look())

    def _tell(self, health: Health, cameras: dict[str, Any]) -> None:
        word = status(health, cameras)
        if word != self._status:
            self._status = word
            self._status_publisher.publish(String(data=word))

    def _enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Answer ~/enable: set node.enabled."""
        (result,) = self.set_parameters([Parameter("node.enabled", value=bool(request.data))])
        self.announce()
        response.success = result.successful
        response.message = result.reason or self._status
        return response

    def _look(self) -> tuple[Health, dict[str, Any]]:
        """The node's state, and each camera's input and statistics."""
        cameras: dict[str, Any] = dict.fromkeys(self.config.cameras)
        engine, gpu = dict(SOFTWARE), None
        if self._session:
            gpu = self._session.gpu()
            engine |= {**self._session.engine(), **described(gpu)}
            if self._session.started:
                cameras = self._session.describe()
        doing = self._logs.newest if self.lifecycle == "configuring" else ""
        limits = self.config.node
        return Health(self.lifecycle, limits, self.failure, doing, engine, gpu), cameras

    def _diagnose(self) -> None:
        health, cameras = self._look()
        own = self.get_fully_qualified_name()
        statuses = {
            f"{own}: camera {name}" if name else f"{own}: instance segmentation": diagnosis
            for name, diagnosis in diagnose_cameras(health, cameras).items()
        }
        self._health_publisher.publish(diagnostic_array(statuses, self.get_clock().now()))
        self._tell(health, cameras)
