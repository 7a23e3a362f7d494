"""The launch file, run against a recording stand-in of the launch API, which PyPI does not have."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from instaseg_ros.config import Config, parameters
from instaseg_ros.outputs import NODE_NAME, TOPICS

ROOT = Path(__file__).parents[1]
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


class Recorded:
    """Stands in for every class of the launch API: keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs


class LaunchConfiguration(Recorded):
    """Stands in for the value of a launch argument; the context is a dictionary of them."""

    def perform(self, context: dict[str, Any]) -> Any:
        return context[self.args[0]]


STAND_IN = {
    "launch": ["LaunchDescription"],
    "launch.actions": ["DeclareLaunchArgument", "OpaqueFunction", "SetEnvironmentVariable"],
    "launch.conditions": ["IfCondition"],
    "launch.substitutions": ["LaunchConfiguration", "PathJoinSubstitution"],
    "launch_ros": [],
    "launch_ros.actions": ["LifecycleNode", "Node"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
    "launch_ros.substitutions": ["FindPackageShare"],
}


@pytest.fixture
def launch(monkeypatch):
    """Runs the launch file with some arguments; returns what it declares and what it starts."""
    for name, classes in STAND_IN.items():
        module = ModuleType(name)
        for class_name in classes:
            setattr(module, class_name, type(class_name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch.substitutions"].LaunchConfiguration = LaunchConfiguration
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def run(**given: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
        module = runpy.run_path(str(ROOT / "launch" / "instaseg.launch.py"))
        entities = module["generate_launch_description"]().args[0]
        kinds = [type(entity).__name__ for entity in entities]
        declared = {
            entity.args[0]: entity.kwargs
            for entity, kind in zip(entities, kinds, strict=True)
            if kind == "DeclareLaunchArgument"
        }
        assert given.keys() <= declared.keys()
        defaults = {name: kwargs["default_value"] for name, kwargs in declared.items()}
        variables = [e for e in entities if type(e).__name__ == "SetEnvironmentVariable"]
        (start,) = (e for e in entities if type(e).__name__ == "OpaqueFunction")
        return declared, variables, start.kwargs["function"]({**defaults, **given})

    return run


def node_parameters(node: Recorded) -> dict[str, Any]:
    """The parameters given to a node after the parameter file."""
    return {name: value.args[0] for name, value in node.kwargs["parameters"][1].items()}


def test_arguments(launch):
    declared, _, _ = launch()
    expected = "image namespace config weights runtime image_transport autostart rviz shared_memory"
    assert list(declared) == expected.split()
    assert all(kwargs["description"] for kwargs in declared.values())


def test_the_node_and_its_defaults(launch):
    _, _, (node, rviz) = launch()
    assert node.kwargs["package"] == "instaseg_ros"
    assert node.kwargs["executable"] == node.kwargs["name"] == NODE_NAME
    assert f'"{NODE_NAME} = instaseg_ros.ros.node:main"' in (ROOT / "setup.py").read_text()
    assert node_parameters(node) == {"node.autostart": "true"}
    assert rviz.kwargs["condition"].args == ("false",)


def test_arguments_become_parameters(launch):
    given = {"weights": "my.safetensors", "runtime": "torch", "image_transport": "compressed"}
    _, _, (node, _) = launch(**given, image="/front/image_raw", namespace="front", config="my.yaml")
    assert node.kwargs["parameters"][0] == "my.yaml"
    assert node.kwargs["namespace"] == "front"
    assert node.kwargs["remappings"] == [("image", "/front/image_raw")]
    passed = node_parameters(node)
    assert passed.pop("node.autostart") == "true"
    assert sorted(passed.values()) == sorted(given.values())
    assert passed.keys() <= {parameter.name for parameter in parameters(Config())}


def test_shared_memory_profile(launch, monkeypatch):
    _, variables, _ = launch()
    assert tuple(variable.args[0] for variable in variables) == PROFILE_VARIABLES
    assert variables[0].args[1].args[0][-1] == "fastdds_shm.xml"
    monkeypatch.setenv(PROFILE_VARIABLES[0], "/etc/mine.xml")
    _, variables, _ = launch()
    assert [variable.args[0] for variable in variables] == [PROFILE_VARIABLES[1]]
    root = ElementTree.parse(ROOT / "config" / "fastdds_shm.xml").getroot()
    sizes = [int(e.text) for e in root.iter() if e.tag.endswith("segment_size")]
    assert sizes == [64 * 2**20]


def test_rviz_shows_the_nodes_topics_in_its_namespace(launch):
    _, _, (_, rviz) = launch(image="/front/image_raw", namespace="front", rviz="true")
    config = yaml.safe_load((ROOT / "config" / "instaseg.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    own = {f"/{NODE_NAME}/{name}" for name in TOPICS}
    assert shown - own == {"/image"}
    remapped = dict(rviz.kwargs["remappings"])
    assert remapped.keys() == shown
    assert remapped["/image"] == "/front/image_raw"
    assert remapped[f"/{NODE_NAME}/overlay"] == f"/front/{NODE_NAME}/overlay"
