# Every target first brings the environment up to date (seconds when nothing changed).
#   make demo                     a synthetic street through a real ROS 2 node
#   make test                     lint, unit suite, ROS suite on Jazzy and on Kilted
#   make slow                     what the suites leave out for their time: 10 to 20 minutes
#   make lowest                   the unit suite with the lowest versions promised, on Python 3.10
#   make docs                     the documentation as a site, in site/
#   make fuzz                     mutated inputs, FUZZ_SECONDS (an hour) for each kind
#   make soak TIME=7200           the node for two hours with faults, and a page about it
#   make overload TIME=600        eight cameras at once, more than the machine can do
#   make ROS_DISTRO=kilted demo   the same on Kilted
#   make HASHES=1 ros             only packages whose files are those that were pinned
#   make PYTHON=python3.12 ros    another Python (3.10 or newer)

PYTHON ?= python3
export ROS_DISTRO ?= jazzy
export HASHES ?= 0
VENV = .venv$(if $(filter kilted,$(ROS_DISTRO)),-kilted)
# Kilted's environment has what the demo and the ROS suite need; all else is done in Jazzy's.
UNIT_SUITE = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadgroup
# Mostly waits, each module for a node and a domain of its own: several at once.
ROS_SUITE = bin/python -m pytest -n 2 --dist loadfile -m "ros and not slow" test/ros

# The environment is whole by itself: nothing of a ROS sourced in this shell may leak in.
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: demo test ros-suite-jazzy ros-suite-kilted slow lowest docs fuzz soak overload lint ros jazzy train gpu

demo:
	$(PYTHON) tools/setup_env.py demo
	$(VENV)/bin/instaseg demo

test: lint
	$(UNIT_SUITE) -m "not ros and not gpu and not slow"
	ROS_DISTRO=kilted $(PYTHON) tools/setup_env.py
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target ros-suite-jazzy ros-suite-kilted

ros-suite-jazzy:
	.venv/$(ROS_SUITE)

ros-suite-kilted:
	.venv-kilted/$(ROS_SUITE)

# In one process: these train and compile, on all cores by themselves.
slow: jazzy
	.venv/bin/python -m pytest -m "slow and not gpu"
	ROS_DISTRO=kilted $(PYTHON) tools/setup_env.py
	.venv-kilted/bin/python -m pytest -m "slow and not gpu" test/ros

lowest:
	$(PYTHON) tools/lowest.py

# Its makers announce a successor at every build, as long as that variable is not set.
docs: jazzy
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

FUZZ_SECONDS ?= 3600
FUZZ_SEED ?= $(shell date +%s)
fuzz: jazzy
	.venv/bin/python test/fuzz/driver.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

# Jazzy's environment draws the page (docs/soak.md).
TIME ?= 7200
SOAK = PYTHONPATH=tools $(VENV)/bin/python -m soak --seconds $(TIME) --page-python .venv/bin/python
soak: ros jazzy
	$(SOAK) --out runs/soak-$(ROS_DISTRO)

overload: ros jazzy
	$(SOAK) --overload --size 256x512 --out runs/overload-$(ROS_DISTRO)

lint: jazzy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo --no-cache

ros:
	$(PYTHON) tools/setup_env.py

jazzy:
	ROS_DISTRO=jazzy $(PYTHON) tools/setup_env.py

train: jazzy
	.venv/bin/instaseg train config/train/synthetic.yaml

# What waits for an NVIDIA GPU, in under ten minutes: tests and figures, all of them in runs/gpu/ (see
# docs/gpu.md).
# On a machine whose torch is not this environment's: make gpu GPU_PYTHON=python3
GPU_PYTHON ?= .venv/bin/python
gpu: $(if $(filter .venv/%,$(GPU_PYTHON)),jazzy)
	$(GPU_PYTHON) tools/gpu_run.py --out runs/gpu
