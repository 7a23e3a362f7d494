"""The launch file, run with a stand-in of the launch API that is as strict as the real one."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import stand_in_launch
import yaml
from documentation import commands

from instaseg_ros.config import Config, parameters
from instaseg_ros.recordings.result_messages import NODE_NAME, TOPICS

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config" / "instaseg.yaml"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


@pytest.fixture
def launch(monkeypatch):
    """Runs the launch file with some arguments, where some ROS packages are installed."""
    for variable in PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def run(packages: tuple[str, ...] = ("rviz2",), **given: str) -> stand_in_launch.Context:
        description = described(packages)
        context = stand_in_launch.Context({"config": str(SHIPPED), **given})
        description.visit(context)
        return context

    def described(packages: tuple[str, ...] = ()) -> stand_in_launch.LaunchDescription:
        for name, module in stand_in_launch.modules(packages).items():
            monkeypatch.setitem(sys.modules, name, module)
        path = ROOT / "launch" / "instaseg.launch.py"
        return runpy.run_path(str(path))["generate_launch_description"]()

    run.described = described
    return run


def test_arguments(launch):
    declared = [a for a in launch.described().actions if hasattr(a, "description")]
    assert [argument.name for argument in declared] == [
        *(
            "image",
            "depth",
            "cameras",
            "namespace",
            "config",
            "weights",
            "runtime",
            "image_transport",
        ),
        *("autostart", "rviz", "frame", "shared_memory"),
    ]
    assert all(argument.description for argument in declared)


def test_the_node_and_its_defaults(launch):
    (node,) = launch().processes
    assert node.package == "instaseg_ros"
    assert node.executable == node.name == NODE_NAME
    assert f'"{NODE_NAME} = instaseg_ros.ros.node:main"' in (ROOT / "setup.py").read_text()
    assert node.parameters == {"node.autostart": True}
    assert node.files == [str(SHIPPED)]
    assert node.remappings == [("image", "image")]


DOCUMENTED = [words for words in commands("ros2") if words[0] == "launch"]


@pytest.mark.parametrize("words", DOCUMENTED, ids=" ".join)
def test_documented_commands(launch, words):
    assert words[1:3] == ["instaseg_ros", "instaseg.launch.py"]
    given = dict(word.split(":=") for word in words[3:] if word != "--show-args")
    declared = {a.name for a in launch.described().actions if hasattr(a, "description")}
    assert set(given) <= declared
    (node, *_) = launch(**given).processes
    images = {topic for name, topic in node.remappings if name.endswith("image")}
    names = given.get("cameras", "").split(",")
    wanted = given.get("image", "image")
    assert images == {wanted.replace("{camera}", name) for name in names}


def test_the_parameter_file_is_the_shipped_one(launch):
    (argument,) = (a for a in launch.described().actions if getattr(a, "name", "") == "config")
    default = stand_in_launch.performed(stand_in_launch.Context({}), argument.default)
    assert Path(default).relative_to("/share/instaseg_ros") == SHIPPED.relative_to(ROOT)


def test_arguments_become_parameters(launch, tmp_path):
    given = {"weights": "my.safetensors", "runtime": "torch", "image_transport": "compressed"}
    mine = tmp_path / "my.yaml"
    mine.touch()
    context = launch(**given, image="/front/image_raw", namespace="front", config=str(mine))
    (node,) = context.processes
    assert node.files == [str(mine)]
    assert node.namespace == "front"
    assert node.remappings == [("image", "/front/image_raw")]
    assert node.parameters.pop("node.autostart") is True
    assert sorted(node.parameters.values()) == sorted(given.values())
    assert node.parameters.keys() <= {parameter.name for parameter in parameters(Config())}


def test_several_cameras_with_a_topic_each(launch):
    (node,) = launch(cameras="front, left").processes
    assert node.parameters["cameras"] == ["front", "left"]
    assert node.remappings == [
        ("front/image", "front/image_raw"),
        ("left/image", "left/image_raw"),
    ]
    (node,) = launch(cameras="front,left", image="/rig/{camera}/rgb").processes
    assert dict(node.remappings)["left/image"] == "/rig/left/rgb"
    (node,) = launch(cameras="front", image="/{camera}").processes
    assert node.parameters["cameras"] == ["front"]
    assert node.remappings == [("front/image", "/front")]


def test_a_depth_topic_turns_depth_on(launch):
    assert "depth.enabled" not in launch().processes[0].parameters
    (node,) = launch(image="/front/rgb", depth="/front/depth").processes
    assert node.parameters["depth.enabled"] is True
    assert node.remappings == [("image", "/front/rgb"), ("depth", "/front/depth")]
    (node,) = launch(cameras="front,left", depth="/{camera}/depth").processes
    assert node.remappings[2:] == [("front/depth", "/front/depth"), ("left/depth", "/left/depth")]
    with pytest.raises(ValueError, match=r"depth: expected a topic with \{camera\}"):
        launch(cameras="front,left", depth="/depth")


def test_several_cameras_on_one_topic_are_refused(launch):
    with pytest.raises(ValueError, match=r"image: expected a topic with \{camera\}.* got '/raw'"):
        launch(cameras="front,left", image="/raw")


def test_rviz_shows_the_first_of_several_cameras(launch):
    _, rviz = launch(cameras="front,left", namespace="car", rviz="true").processes
    remapped = dict(rviz.remappings)
    assert remapped["/image"] == "front/image_raw"
    assert remapped[f"/{NODE_NAME}/markers"] == f"/car/{NODE_NAME}/front/markers"


@pytest.mark.parametrize("weights", ["0123", "true", "1e3"])
def test_a_name_that_looks_like_a_number_stays_a_name(launch, weights):
    assert launch(weights=weights).processes[0].parameters["weights"] == weights


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("False", False), ("1", True), ("0", False)]
)
def test_autostart_is_a_boolean(launch, text: str, value: bool):
    assert launch(autostart=text).processes[0].parameters["node.autostart"] is value


@pytest.mark.parametrize("argument", ["autostart", "rviz", "shared_memory"])
def test_what_is_neither_true_nor_false_is_refused(launch, argument: str):
    with pytest.raises(RuntimeError, match=f"'{argument}': 'maybe' is none of"):
        launch(**{argument: "maybe"})


def test_a_parameter_file_that_is_not_there_is_refused(launch, tmp_path, monkeypatch):
    """launch itself would warn, and the node start with its defaults."""
    with pytest.raises(
        FileNotFoundError, match=r"config: expected .* '/nowhere\.yaml' is not there"
    ):
        launch(config="/nowhere.yaml")
    with pytest.raises(FileNotFoundError):
        launch(config=str(tmp_path))
    (tmp_path / "mine.yaml").touch()
    monkeypatch.setenv("HOME", str(tmp_path))  # no shell expands what follows `:=`
    assert launch(config="~/mine.yaml").processes[0].files == [str(tmp_path / "mine.yaml")]


def test_shared_memory_profile(launch, monkeypatch):
    profile = "/share/instaseg_ros/config/fastdds_shm.xml"
    assert launch().environment == dict.fromkeys(PROFILE_VARIABLES, profile)
    assert launch(shared_memory="false").environment == {}
    monkeypatch.setenv(PROFILE_VARIABLES[0], "/etc/mine.xml")
    assert launch().environment == {PROFILE_VARIABLES[1]: profile}
    root = ElementTree.parse(ROOT / "config" / "fastdds_shm.xml").getroot()
    sizes = [int(e.text) for e in root.iter() if e.tag.endswith("segment_size")]
    assert sizes == [64 * 2**20]


def test_rviz_shows_the_nodes_topics_in_its_namespace(launch):
    _, rviz = launch(image="/front/image_raw", namespace="front", rviz="true").processes
    config = yaml.safe_load((ROOT / "config" / "instaseg.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {d["Topic"]["Value"] for d in displays if "Topic" in d}
    own = {f"/{NODE_NAME}/{name}" for name in TOPICS}
    assert shown - own == {"/image"}
    remapped = dict(rviz.remappings)
    assert remapped.keys() == shown
    assert remapped["/image"] == "/front/image_raw"
    assert remapped[f"/{NODE_NAME}/overlay"] == f"/front/{NODE_NAME}/overlay"
    _, rviz = launch(rviz="true").processes
    assert dict(rviz.remappings)[f"/{NODE_NAME}/overlay"] == f"/{NODE_NAME}/overlay"


def test_rviz_draws_in_the_frame_that_is_asked_for(launch):
    """`rviz2 -f` overrules the file's fixed frame."""
    shipped = "/share/instaseg_ros/config/instaseg.rviz"
    _, rviz = launch(rviz="true", frame="front_optical", cameras="front,left").processes
    assert rviz.arguments == ["-d", shipped, "-f", "front_optical"]
    _, rviz = launch(rviz="true").processes
    assert rviz.arguments == ["-d", shipped]
    config = yaml.safe_load((ROOT / "config" / "instaseg.rviz").read_text())[
        "Visualization Manager"
    ]
    assert config["Global Options"]["Fixed Frame"]
    assert config["Views"]["Current"]["Target Frame"] == "<Fixed Frame>"  # it follows, too


def test_without_rviz2_the_node_starts_and_a_hint_is_given(launch):
    context = launch(packages=(), rviz="true")
    assert [process.package for process in context.processes] == ["instaseg_ros"]
    assert "rviz2 is not installed" in context.hints[0]
    assert not launch(packages=(), rviz="false").hints
    manifest = ElementTree.parse(ROOT / "package.xml")
    assert "rviz2" in [element.text for element in manifest.findall("exec_depend")]


@pytest.mark.parametrize(
    ("value", "kind"), [("true", bool), ("3", int), (True, str), (1, bool), ("0.5", float)]
)
def test_the_stand_in_refuses_a_value_of_another_type(value: Any, kind: type):
    """As launch_ros does: a value is not read as the type, only a substitution is."""
    with pytest.raises(TypeError, match="is not an instance of"):
        stand_in_launch.ParameterValue(value, value_type=kind)
