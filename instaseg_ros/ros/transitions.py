"""Lifecycle transitions that say why they fail."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleState

from instaseg_ros.errors import InstasegError


def refuse_invalid_transitions(node: LifecycleNode) -> None:
    """Answer an impossible transition with a refusal.

    Up to Jazzy it raises out of the executor instead and ends the process (rclpy#1209).
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = functools.partial(_change_state, node, service.callback)


def _change_state(
    node: LifecycleNode, callback: Callable[..., Any], request: Any, response: Any
) -> Any:
    try:
        return callback(request, response)
    except rclpy_implementation.RCLError as error:
        wanted = request.transition.label or request.transition.id
        node.get_logger().error(f"transition {wanted} is impossible in this state: {error}")
        response.success = False
        return response


def transition(
    leads_to: str,
) -> Callable[[Callable[[Any, LifecycleState], None]], Callable[..., TransitionCallbackReturn]]:
    """A lifecycle callback from one that raises when it fails.

    The reason is logged (rclpy would swallow it) and kept in the node's `failure`; its `lifecycle`
    becomes `leads_to` on success.
    """

    def decorate(
        action: Callable[[Any, LifecycleState], None],
    ) -> Callable[..., TransitionCallbackReturn]:
        @functools.wraps(action)
        def callback(node: Any, state: LifecycleState) -> TransitionCallbackReturn:
            name = action.__name__.removeprefix("on_")
            try:
                action(node, state)
            except Exception as error:
                node.failure = f"{name} failed: {error}"
                known = isinstance(error, InstasegError)
                node.get_logger().error(node.failure if known else traceback.format_exc())
                return TransitionCallbackReturn.FAILURE
            node.failure, node.lifecycle = "", leads_to
            return TransitionCallbackReturn.SUCCESS

        return callback

    return decorate
