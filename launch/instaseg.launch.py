"""Starts and activates the node.

ros2 launch instaseg_ros instaseg.launch.py image:=/camera/image_raw rviz:=true
ros2 launch instaseg_ros instaseg.launch.py cameras:=front,left,right image:=/{camera}/image_raw
"""

import os

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

NODE = "instaseg_node"
CONFIG = PathJoinSubstitution([FindPackageShare("instaseg_ros"), "config"])
# Launch argument -> parameter. Empty: as in the configuration file.
PARAMETERS = {
    "weights": "weights",
    "runtime": "runtime.name",
    "image_transport": "node.image_transport",
}
CAMERA = "{camera}"  # in a topic: the name of each camera
ARGUMENTS = {
    "image": (
        "image",
        "camera topic, without the suffix of a transport; with several cameras, that of each, "
        f"with {CAMERA} for its name; by default {CAMERA}/image_raw",
    ),
    "depth": ("", "depth topic, to locate objects in space; several cameras: as for image"),
    "cameras": ("", "names of several cameras: front,left,right; empty: as in the parameter file"),
    "namespace": ("", "namespace of the node"),
    "config": (PathJoinSubstitution([CONFIG, "instaseg.yaml"]), "parameter file"),
    "weights": ("", "shipped name or file of the weights; empty: as in the parameter file"),
    "runtime": ("", "what runs the network; empty: as in the parameter file"),
    "image_transport": ("", "raw or compressed; empty: as in the parameter file"),
    "autostart": ("true", "configure and activate; false: leave it to a lifecycle manager"),
    "rviz": ("false", "show image, overlay and markers, with several cameras the first one's"),
    "frame": ("", "RViz's fixed frame: frame_id of the images; empty: as in config/instaseg.rviz"),
    "shared_memory": ("true", "Fast DDS segment that holds whole images; the camera needs it too"),
}
BOOLEAN = ["true", "false", "True", "False", "1", "0"]
# Fast DDS 2 (Humble, Jazzy) reads the first, Fast DDS 3 (Kilted and later) the second.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def start_node(context):
    """The node, with the parameters given on the command line over those of the file, and RViz."""
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    config = os.path.expanduser(value["config"])
    if not os.path.isfile(config):  # launch itself would warn and continue without it
        raise FileNotFoundError(f"config: expected a parameter file, but '{config}' is not there")
    given = {parameter: value[name] for name, parameter in PARAMETERS.items() if value[name]}
    parameters = {name: ParameterValue(text, value_type=str) for name, text in given.items()}
    autostart = LaunchConfiguration("autostart")
    parameters["node.autostart"] = ParameterValue(autostart, value_type=bool)
    cameras = [name.strip() for name in value["cameras"].split(",")]
    if cameras != [""]:
        parameters["cameras"] = cameras
    images = topics("image", value["image"], cameras)
    remappings = [(below(camera, "image"), topic) for camera, topic in images.items()]
    if value["depth"]:
        parameters["depth.enabled"] = True
        depths = topics("depth", value["depth"], cameras)
        remappings += [(below(camera, "depth"), topic) for camera, topic in depths.items()]
    node = LifecycleNode(
        package="instaseg_ros",
        executable=NODE,
        name=NODE,
        namespace=value["namespace"],
        parameters=[config, parameters],
        remappings=remappings,
        output="screen",
    )
    camera, image = next(iter(images.items()))
    return [node, rviz(camera, image, value["namespace"], value["frame"])]


def topics(argument, topic, cameras):
    """The topic of each camera by name; the only one of a node has none."""
    if cameras == [""]:
        return {"": topic}
    if topic == ARGUMENTS["image"][0]:
        topic = f"{CAMERA}/image_raw"
    if CAMERA not in topic:
        raise ValueError(
            f"{argument}: expected a topic with {CAMERA} for the names of the cameras, such as "
            f"/{CAMERA}/{argument}_raw, got '{topic}'"
        )
    return {name: topic.replace(CAMERA, name) for name in cameras}


def below(camera, topic):
    """A camera's topic: below its name, if it has one."""
    return f"{camera}/{topic}" if camera else topic


def rviz(camera, image, namespace, frame):
    """RViz, if requested; a hint if it is not installed."""
    asked_for = IfCondition(LaunchConfiguration("rviz"))
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        hint = "rviz:=true, but rviz2 is not installed: sudo apt install ros-$ROS_DISTRO-rviz2"
        return LogInfo(msg=hint, condition=asked_for)
    below = f"/{namespace.strip('/')}".rstrip("/")
    own = f"{below}/{NODE}/{camera}".rstrip("/")
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=namespace,
        arguments=[
            "-d",
            PathJoinSubstitution([CONFIG, "instaseg.rviz"]),
            *(("-f", frame) if frame else ()),
        ],
        remappings=[
            ("/image", image),
            *((f"/{NODE}/{output}", f"{own}/{output}") for output in ("overlay", "markers")),
        ],
        condition=asked_for,
    )


def generate_launch_description():
    """Called by `ros2 launch`."""
    arguments = [
        DeclareLaunchArgument(
            name,
            default_value=default,
            description=description,
            choices=BOOLEAN if default in BOOLEAN else None,
        )
        for name, (default, description) in ARGUMENTS.items()
    ]
    profile = [
        SetEnvironmentVariable(
            variable,
            PathJoinSubstitution([CONFIG, "fastdds_shm.xml"]),
            condition=IfCondition(LaunchConfiguration("shared_memory")),
        )
        for variable in PROFILE_VARIABLES
        if variable not in os.environ  # users keep their own profile
    ]
    return LaunchDescription([*arguments, *profile, OpaqueFunction(function=start_node)])
