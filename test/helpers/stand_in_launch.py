"""A stand-in for ROS's `launch` and `launch_ros`, which PyPI does not have.

It has what our launch file uses, is as strict about types as the real one, and instead of starting
a process keeps what it would be started with. `test/ros/test_ros2_launch.py` tries the real one
where that is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import yaml


class Process(NamedTuple):
    """What a node would be started with."""

    package: str
    executable: str
    name: str
    namespace: str
    files: list[str]
    parameters: dict[str, Any]
    remappings: list[tuple[str, str]]
    arguments: list[str]


class Context:
    """Values of the launch arguments, the environment that is set, and what was started."""

    def __init__(self, given: Mapping[str, str], packages: Iterable[str] = ()) -> None:
        self.arguments = dict(given)
        self.packages = packages
        self.environment: dict[str, str] = {}
        self.processes: list[Process] = []
        self.hints: list[str] = []


class Substitution:
    """A text that is known when the launch file is run."""

    def perform(self, context: Context) -> str:
        raise NotImplementedError


def parts_of(text: Any) -> list[Any]:
    """A text is a string, a substitution, or several of them in a row; nothing else is."""
    parts = [text] if isinstance(text, (str, Substitution)) else list(text)
    for part in parts:
        if not isinstance(part, (str, Substitution)):
            raise TypeError(f"expected a string or a substitution, got {part!r}")
    return parts


def perform(context: Context, text: Any) -> list[str]:
    return [p if isinstance(p, str) else p.perform(context) for p in parts_of(text)]


def performed(context: Context, text: Any) -> str:
    return "".join(perform(context, text))


class LaunchConfiguration(Substitution):
    def __init__(self, name: str) -> None:
        self.name = name

    def perform(self, context: Context) -> str:
        if self.name not in context.arguments:
            raise LookupError(f"launch configuration '{self.name}' does not exist")
        return context.arguments[self.name]


class PathJoinSubstitution(Substitution):
    def __init__(self, parts: Iterable[Any]) -> None:
        self.parts = parts_of(parts)

    def perform(self, context: Context) -> str:
        return os.path.join(*perform(context, self.parts))


class FindPackageShare(Substitution):
    def __init__(self, package: Any) -> None:
        self.package = parts_of(package)

    def perform(self, context: Context) -> str:
        return f"/share/{performed(context, self.package)}"


class IfCondition:
    def __init__(self, expression: Any) -> None:
        self.expression = parts_of(expression)

    def evaluate(self, context: Context) -> bool:
        text = performed(context, self.expression).strip().lower()
        if text not in ("true", "1", "false", "0"):
            raise ValueError(f"'{text}' is no condition")
        return text in ("true", "1")


class Action:
    def __init__(self, *, condition: IfCondition | None = None) -> None:
        self.condition = condition

    def visit(self, context: Context) -> None:
        if self.condition is None or self.condition.evaluate(context):
            self.execute(context)

    def execute(self, context: Context) -> None:
        raise NotImplementedError


class DeclareLaunchArgument(Action):
    def __init__(
        self,
        name: str,
        *,
        default_value: Any = None,
        description: str | None = None,
        choices: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.name, self.description, self.choices = name, description, choices
        self.default = None if default_value is None else parts_of(default_value)

    def execute(self, context: Context) -> None:
        if self.name not in context.arguments:
            if self.default is None:
                raise RuntimeError(f"required launch argument '{self.name}' was not provided")
            context.arguments[self.name] = performed(context, self.default)
        value = context.arguments[self.name]
        if self.choices is not None and value not in self.choices:
            raise RuntimeError(f"argument '{self.name}': '{value}' is none of {self.choices}")


class SetEnvironmentVariable(Action):
    def __init__(self, name: Any, value: Any, **common: Any) -> None:
        super().__init__(**common)
        self.name, self.value = parts_of(name), parts_of(value)

    def execute(self, context: Context) -> None:
        context.environment[performed(context, self.name)] = performed(context, self.value)


class LogInfo(Action):
    def __init__(self, *, msg: Any, **common: Any) -> None:
        super().__init__(**common)
        self.text = parts_of(msg)

    def execute(self, context: Context) -> None:
        context.hints.append(performed(context, self.text))


class OpaqueFunction(Action):
    def __init__(self, *, function: Callable[..., Any], **common: Any) -> None:
        super().__init__(**common)
        if not callable(function):
            raise TypeError(f"expected a function, got {function!r}")
        self.function = function

    def execute(self, context: Context) -> None:
        for action in self.function(context) or ():
            action.visit(context)


class ParameterValue:
    """A value is of its type already, or a substitution whose text is read as that type."""

    def __init__(self, value: Any, *, value_type: type | None = None) -> None:
        substituted = isinstance(value, Substitution) or (
            isinstance(value, list) and any(isinstance(part, Substitution) for part in value)
        )
        if not substituted and value_type and not isinstance(value, value_type):
            raise TypeError(f"value={value!r} is not an instance of {value_type}")
        self.value, self.type, self.substituted = value, value_type, substituted

    def evaluate(self, context: Context) -> Any:
        if not self.substituted:
            return self.value
        text = performed(context, self.value)
        if self.type is str:
            return text
        if self.type is bool:
            text = {"1": "true", "0": "false"}.get(text, text)
        value = yaml.safe_load(text)
        if self.type and not isinstance(value, self.type):
            raise ValueError(f"cannot convert '{text}' to {self.type}")
        return value


class Node(Action):
    def __init__(
        self,
        *,
        package: Any,
        executable: Any,
        name: Any = "",
        namespace: Any = "",
        parameters: list[Any] | None = None,
        remappings: Iterable[tuple[Any, Any]] = (),
        arguments: Iterable[Any] = (),
        output: str = "log",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not isinstance(parameters, (list, type(None))):
            raise TypeError(f"parameters: expected a list, got {parameters!r}")
        self.texts = [parts_of(text) for text in (package, executable, name, namespace)]
        self.files = [parts_of(one) for one in parameters or () if not isinstance(one, dict)]
        self.values = {
            k: v for one in parameters or () if isinstance(one, dict) for k, v in one.items()
        }
        for value in self.values.values():
            if isinstance(value, list) and not all(isinstance(one, str) for one in value):
                raise TypeError(f"{value!r}: expected strings")  # others need a ParameterValue
            if not isinstance(value, (ParameterValue, Substitution, bool, int, float, str, list)):
                raise TypeError(f"{value!r} is no parameter")
        self.remappings = [(parts_of(a), parts_of(b)) for a, b in remappings]
        self.arguments = [parts_of(argument) for argument in arguments]
        if output not in ("log", "screen", "both", "own_log", "full"):
            raise ValueError(f"output: {output!r}")

    def execute(self, context: Context) -> None:
        package, executable, name, namespace = (performed(context, text) for text in self.texts)
        values = {
            key: value.evaluate(context) if isinstance(value, ParameterValue) else value
            for key, value in self.values.items()
        }
        remappings = [(performed(context, a), performed(context, b)) for a, b in self.remappings]
        files = [performed(context, file) for file in self.files]
        arguments = [performed(context, argument) for argument in self.arguments]
        context.processes.append(
            Process(package, executable, name, namespace, files, values, remappings, arguments)
        )


class LifecycleNode(Node):
    def __init__(self, *, name: Any, namespace: Any, **others: Any) -> None:
        super().__init__(name=name, namespace=namespace, **others)


class LaunchDescription:
    def __init__(self, actions: Iterable[Action]) -> None:
        self.actions = list(actions)
        for action in self.actions:
            if not isinstance(action, Action):
                raise TypeError(f"{action!r} is no action")

    def visit(self, context: Context) -> None:
        for action in self.actions:
            action.visit(context)


def modules(packages: Iterable[str]) -> dict[str, ModuleType]:
    """The modules by name, on a machine where these ROS packages are installed."""

    class PackageNotFoundError(KeyError):
        pass

    def get_package_prefix(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return "/"

    contents: dict[str, list[Any]] = {
        "launch": [LaunchDescription],
        "launch.actions": [DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable],
        "launch.conditions": [IfCondition],
        "launch.substitutions": [LaunchConfiguration, PathJoinSubstitution],
        "launch_ros": [],
        "launch_ros.actions": [LifecycleNode, Node],
        "launch_ros.parameter_descriptions": [ParameterValue],
        "launch_ros.substitutions": [FindPackageShare],
        "ament_index_python": [],
        "ament_index_python.packages": [PackageNotFoundError, get_package_prefix],
    }
    made = {}
    for name, members in contents.items():
        made[name] = ModuleType(name)
        for member in members:
            setattr(made[name], member.__name__, member)
    return made
