"""Makes lifecycle transitions report why they fail."""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState
from rclpy.node import Node
from rclpy.task import Future

from instaseg_ros.errors import InstasegError

CONFIGURE = (Transition.TRANSITION_CONFIGURE, "configure")  # by number or name


def serve_transitions(node: LifecycleNode) -> None:
    """Let the node's executor continue while a transition request configures, and refuse
    transitions that are impossible in the current state.

    Up to Jazzy, these raise out of the executor instead and end the process (rclpy#1209).
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            # A separate group: other requests, also further ones to this service, are answered.
            service.callback_group = ReentrantCallbackGroup()
            answer: Any = functools.partial(_change_state, node, service.callback)
            service.callback = answer  # a coroutine, which rclpy's type hints lack


def beside(node: Node, work: Callable[[], Any]) -> Future:
    """Run `work` in a thread; a coroutine of the node's executor can await its result or error."""
    executor = node.executor
    assert executor is not None
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)
        executor.wake()

    threading.Thread(target=run, name="beside", daemon=True).start()
    return future


async def _change_state(
    node: LifecycleNode, callback: Callable[..., Any], request: Any, response: Any
) -> Any:
    wanted = request.transition.label or request.transition.id
    try:
        if wanted in CONFIGURE:
            return await beside(node, lambda: callback(request, response))
        return callback(request, response)
    except rclpy_implementation.RCLError as error:
        node.get_logger().error(f"transition {wanted} is impossible in this state: {error}")
        response.success = False
        return response


def transition(
    during: str,
    leads_to: str,
) -> Callable[[Callable[[Any, LifecycleState], None]], Callable[..., TransitionCallbackReturn]]:
    """Make a lifecycle callback from a function that raises when it fails.

    The reason is logged (rclpy would swallow it) and kept in the node's `failure`; the node's
    `lifecycle` is `during` while it runs, and becomes `leads_to` on success. Then the node is asked
    to `announce` it.
    """

    def decorate(
        action: Callable[[Any, LifecycleState], None],
    ) -> Callable[..., TransitionCallbackReturn]:
        @functools.wraps(action)
        def callback(node: Any, state: LifecycleState) -> TransitionCallbackReturn:
            name = action.__name__.removeprefix("on_")
            before, node.lifecycle, node.failure = node.lifecycle, during, ""
            try:
                action(node, state)
                node.lifecycle = leads_to
                return TransitionCallbackReturn.SUCCESS
            except Exception as error:
                node.lifecycle = before
                node.failure = f"{name} failed: {error}"
                known = isinstance(error, InstasegError)
                node.get_logger().error(node.failure if known else traceback.format_exc())
                return TransitionCallbackReturn.FAILURE
            finally:
                node.announce()

        return callback

    return decorate
