# The node on ROS 2, without a GPU. From the root of the repository:
#   docker build -f docker/cpu.Dockerfile -t instaseg_ros .
#   docker run --rm --net=host --ipc=host instaseg_ros image:=/camera/image_raw
# Humble, Kilted or Lyrical instead: --build-arg ROS_DISTRO=humble
# With the tests of ROS: --target test (what CI runs)
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base AS node
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /ws
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_CONSTRAINT=/etc/pip-constraints.txt

# What package.xml names, but for RViz and the distribution's torch, which is too old.
COPY package.xml src/instaseg_ros/package.xml
# hadolint ignore=DL3008
RUN apt-get update \
    && touch "$PIP_CONSTRAINT" \
    && apt-get install -y --no-install-recommends python3-numpy python3-pip \
    && python3 -c "import numpy; print(f'numpy<{int(numpy.__version__.split(\".\")[0]) + 1}')" \
        > "$PIP_CONSTRAINT" \
    && rosdep update --rosdistro "$ROS_DISTRO" \
    && rosdep install --from-paths src --ignore-src -y --dependency-types=exec \
        --skip-keys "python3-torch rviz2" \
    && rm -rf /var/lib/apt/lists/*
# NumPy stays in the series that apt's OpenCV and cv_bridge are made for (PIP_CONSTRAINT).
# hadolint ignore=DL3013
RUN pip3 install "torch>=2.4" --index-url https://download.pytorch.org/whl/cpu \
    && pip3 install "numba>=0.57" "openvino>=2025.0" "safetensors>=0.4" "tabulate>=0.8.9"

COPY . src/instaseg_ros
RUN . "/opt/ros/$ROS_DISTRO/setup.bash" \
    && colcon build --packages-select instaseg_ros \
    && useradd --create-home --uid 10001 instaseg
COPY docker/entrypoint.sh /entrypoint.sh
USER 10001
ENTRYPOINT ["/entrypoint.sh"]

FROM node AS test
USER 0
# hadolint ignore=DL3013
RUN pip3 install "hypothesis>=6.100" "pytest>=7,<9" "pytest-xdist>=3.5" catkin-pkg
USER 10001
WORKDIR /ws/src/instaseg_ros
CMD ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-m", "ros", "test/ros"]

# What is built unless another target is named.
FROM node
