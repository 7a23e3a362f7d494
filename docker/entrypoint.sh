#!/bin/bash
# Runs a command with ROS and the workspace sourced; arguments such as image:=/camera/image_raw, or
# none, go to the launch file.
set -e
source "/opt/ros/$ROS_DISTRO/setup.bash"
source /ws/install/setup.bash
if [[ $# -eq 0 || $1 == *:=* ]]; then
    set -- ros2 launch instaseg_ros instaseg.launch.py "$@"
fi
exec "$@"
