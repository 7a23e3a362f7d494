# The node on ROS 2 Jazzy with an NVIDIA GPU: torch and TensorRT are those of NVIDIA's container.
# From the root of the repository:
#   docker build -f docker/nvidia.Dockerfile -t instaseg_ros:nvidia .
#   docker run --rm --gpus=all --net=host --ipc=host instaseg_ros:nvidia image:=/camera/image_raw
# On a Jetson Orin with JetPack 6, build there with
#   --build-arg BASE=nvcr.io/nvidia/pytorch:25.06-py3-igpu
# and run with --runtime=nvidia instead of --gpus=all. BASE needs Ubuntu 24.04.
ARG BASE=nvcr.io/nvidia/pytorch:25.06-py3
FROM ${BASE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
ENV ROS_DISTRO=jazzy DEBIAN_FRONTEND=noninteractive PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1

# The package that brings the keys and sources of packages.ros.org.
ARG ROS_APT_SOURCE_VERSION=1.1.0
ADD https://github.com/ros-infrastructure/ros-apt-source/releases/download/${ROS_APT_SOURCE_VERSION}/ros2-apt-source_${ROS_APT_SOURCE_VERSION}.noble_all.deb /tmp/ros2-apt-source.deb
# hadolint ignore=DL3008
RUN dpkg -i /tmp/ros2-apt-source.deb \
    && apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-colcon-common-extensions python3-rosdep ros-jazzy-ros-base \
    && rm -rf /tmp/ros2-apt-source.deb /var/lib/apt/lists/*

# What package.xml names, but for RViz and what is better taken from pip or is there already.
COPY package.xml src/instaseg_ros/package.xml
RUN apt-get update \
    && rosdep init \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src -y --dependency-types=exec \
        --skip-keys "python3-numba python3-torch rviz2" \
    && rm -rf /var/lib/apt/lists/*
# hadolint ignore=DL3013
RUN pip3 install "numba>=0.57" "nvidia-ml-py>=11.525" "onnx>=1.16" "onnxscript>=0.2" \
        "safetensors>=0.4" "tabulate>=0.8.9"

COPY . src/instaseg_ros
RUN . /opt/ros/jazzy/setup.bash \
    && colcon build --packages-select instaseg_ros \
    && useradd --create-home --uid 10001 instaseg
COPY docker/entrypoint.sh /entrypoint.sh
USER 10001
ENTRYPOINT ["/entrypoint.sh"]
