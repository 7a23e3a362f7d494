"""`config/instaseg.yaml` says what the dataclasses say. No ROS needed."""

from itertools import pairwise
from pathlib import Path

import yaml

from instaseg_ros.config import Config, load
from instaseg_ros.configure import load_config
from instaseg_ros.ros.parameter_file import constraint, node_parameters, parameter_file

FILE = Path(__file__).parents[2] / "config" / "instaseg.yaml"


def test_shipped_file_is_the_generated_one():
    generated = parameter_file()
    assert FILE.read_text() == generated, (
        "regenerate it: python -m instaseg_ros.ros.parameter_file > config/instaseg.yaml"
    )


def test_shipped_file_holds_the_defaults():
    assert load(FILE) == Config()
    tree = yaml.safe_load(FILE.read_text())["/**"]["ros__parameters"]
    assert "train" not in tree
    assert "method" not in tree


def test_shipped_file_leaves_to_the_weights_what_they_bring():
    """It is what the launch file gives the node, beside other weights perhaps."""
    tree = yaml.safe_load(FILE.read_text())["/**"]["ros__parameters"]
    assert load_config(overrides={**tree, "weights": "street"}) == load_config(weights="street")
    assert load_config(FILE, weights="street") == load_config(weights="street")


def test_each_parameter_is_explained_above_its_value():
    lines = FILE.read_text().splitlines()
    for parameter in node_parameters():
        name = parameter.name.rpartition(".")[2]
        comments = [
            above for above, line in pairwise(lines) if line.strip(" #").startswith(f"{name}:")
        ]
        assert any(parameter.help in comment for comment in comments), parameter.name


def test_constraints_in_words():
    by_name = {parameter.name: parameter for parameter in node_parameters()}
    assert constraint(by_name["decode.seed_threshold"]) == "0.0 to 1.0"
    assert constraint(by_name["node.image_transport"]) == "raw or compressed"
    assert constraint(by_name["weights"]) == ""
