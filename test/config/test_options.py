"""A method owns its options: they are parameters where it is in use, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from instaseg_ros.checkpoint import (
    HEADER_KEY,
    Checkpoint,
    describe,
    load_checkpoint,
    save_checkpoint,
)
from instaseg_ros.config import Config, dump, leaves_of, load, merge, parameters
from instaseg_ros.config.options import options_of
from instaseg_ros.config.options.training import TrainConfig
from instaseg_ros.configure import load_config, suited
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame
from instaseg_ros.methods import METHODS, make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.ros.parameter_file import node_parameters
from instaseg_ros.training.trainer import train

FILE = Path(__file__).parents[2] / "config" / "instaseg.yaml"
QUICK = {
    "train.steps": 2,
    "train.batch_size": 2,
    "train.crop_height": 64,
    "train.crop_width": 96,
    "train.workers": 0,
    "train.validation_frames": 2,
    "runtime.device": "cpu",
}
# What the package wrote for every method when one `DecodeConfig` was for all of them.
HEADER_BEFORE = {
    "n_sigma": 2,
    "dimensions": 4,
    "decode": {
        "seed_threshold": 0.5,
        "foreground_threshold": 0.2,
        "min_pixels": 9,
        "min_new_fraction": 0.5,
        "first_come": False,
        "agreement": False,
    },
}


def weights_of(method: str, path: Path, **shape: int) -> str:
    heads = make_method(method, 1, **shape).heads
    network = ERFNet(heads, "fast")
    save_checkpoint(Checkpoint(network.state_dict(), ("car",), method, "fast", shape=shape), path)
    return str(path)


@pytest.fixture
def sixth(monkeypatch: pytest.MonkeyPatch) -> str:
    """A new method: one file, and this line."""
    monkeypatch.setitem(METHODS, "connected_components", "connected_components")
    return "connected_components"


def test_a_new_method_is_one_file_and_one_line(sixth: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"method: {{name: {sixth}, unsure: true}}\n"
        "decode: {corners: false, seed_threshold: 0.0, min_pixels: 0}\n"
        "train: {weight_background: 0.1}\n"
    )
    config = load(tmp_path / "recipe.yaml", QUICK)
    (tmp_path / "resolved.yaml").write_text(dump(config))
    assert load(tmp_path / "resolved.yaml") == config
    weights = train(config, tmp_path / "run")

    checkpoint = load_checkpoint(weights)
    assert [head.name for head in checkpoint.method().heads] == ["unsure", "score"]
    assert checkpoint.notes["train"]["weight_background"] == 0.1
    loaded = load_config(weights=str(weights), runtime={"name": "torch"})
    assert loaded.decode == config.decode and loaded.method == config.method
    names = [leaf.name for leaf in node_parameters(loaded) if leaf.name.startswith("decode.")]
    assert names == ["decode.seed_threshold", "decode.min_pixels", "decode.corners"]

    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    (result,) = Pipeline(loaded).process([Frame(image)])
    assert len(result.instances)  # a score above 0 has every pixel


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_what_it_says(name: str) -> None:
    options = options_of(name)
    config = Config().for_method(name)
    assert config.method == options.ShapeConfig(name=name)
    assert issubclass(options.LossConfig, TrainConfig)
    assert all(leaf.help for leaf in parameters(config))
    assert merge(config, leaves_of(config)) == config
    assert make_method(name, 2).name == name


def test_options_are_read_without_torch() -> None:
    code = (
        "import sys\n"
        "from instaseg_ros.config import METHODS, Config\n"
        "for name in METHODS: Config().for_method(name)\n"
        "assert not {'torch', 'numba', 'cv2'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_has_its_own_options_alone() -> None:
    shown = {name: leaves_of(Config().for_method(name)).keys() for name in METHODS}
    assert {n for n in METHODS if "decode.agreement" in shown[n]} == {"spatial_embedding"}
    assert {n for n in METHODS if "train.weight_depth" in shown[n]} == {"spatio_temporal"}
    assert "decode.foreground_threshold" not in shown["metric_learning"]
    assert "method.dimensions" not in shown["spatial_embedding"]
    trainers = {f"train.{field.name}" for field in fields(TrainConfig)} - {"train.augment"}
    assert all(trainers <= names for names in shown.values())


def test_another_method_keeps_what_both_can_be_told() -> None:
    given = {"decode.min_pixels": 7, "train.steps": 3, "method.profile": "fast", "weights": "w"}
    config = merge(Config(), {**given, "decode.agreement": False, "train.weight_smooth": 3})
    other = config.for_method("discriminative")
    assert other == merge(Config().for_method("discriminative"), given)
    assert other.for_method("spatial_embedding") == merge(Config(), given)
    assert merge(config, {"method.name": "discriminative", "method.dimensions": 3}) == merge(
        other, {"method": {"dimensions": 3}}
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "decode.agreement",
            "decode.agreement is an option of spatial_embedding, not of",
        ),
        ("decode.min_pixel", "did you mean 'decode.min_pixels'"),
        ("train.weight_instances", "did you mean 'train.weight_instance'"),
        (
            "train.weight_depth",
            "train.weight_depth is an option of spatio_temporal, not of",
        ),
        ("method.n_sigma", "method.n_sigma is an option of spatial_embedding"),
    ],
)
def test_what_the_method_does_not_know_is_refused(name: str, said: str) -> None:
    """Also at the default: here it is asked for."""
    value = leaves_of(Config()).get(name, 1.0)
    with pytest.raises(ConfigError, match=said):
        merge(Config(), {"method.name": "box_regression", name: value})


def test_a_file_may_say_for_others_what_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    weights = weights_of("discriminative", tmp_path / "w.safetensors", dimensions=4)
    every = {leaf.name: leaf.value for leaf in node_parameters()} | {"method.n_sigma": 2}
    del every["weights"]
    file.write_text(json.dumps({**every, "train": {"weight_smooth": 10}}))
    config = load_config(file, weights=weights)
    assert config.decode == options_of("discriminative").DecodeConfig()
    assert config.method == options_of("discriminative").ShapeConfig("discriminative", "fast", 4)
    assert load_config(FILE, weights=weights) == load_config(weights=weights)
    file.write_text("decode: {agreement: false}")
    with pytest.raises(ConfigError, match=r"config file .*c\.yaml: .*'decode\.agreement'"):
        load_config(file, weights=weights)
    file.write_text("method: {name: box_regression}\ntrain: {weight_smooth: 3}")
    with pytest.raises(ConfigError, match=r"config file .*c\.yaml: .*'train\.weight_smooth'"):
        load(file)


def test_the_method_of_a_recipe_may_be_set_beside_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train: {steps: 7}\nmethod: {n_sigma: 2}")
    given = {"method.name": "discriminative", "method.dimensions": 3, "train.weight_semantic": 2}
    config = load(tmp_path / "c.yaml", given)
    assert config.method == options_of("discriminative").ShapeConfig("discriminative", dimensions=3)
    assert config.train == options_of("discriminative").LossConfig(steps=7, weight_semantic=2.0)


def test_weights_of_before_load(tmp_path: Path) -> None:
    """Their headers have the options of every method."""
    path = Path(weights_of("discriminative", tmp_path / "w.safetensors", dimensions=4))
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        tensors = {name: file.get_tensor(name) for name in header and file.keys()}
    save_file(tensors, path, {HEADER_KEY: json.dumps({**header, **HEADER_BEFORE})})
    assert describe(path).shape == {"dimensions": 4}
    config = load_config(weights=str(path))
    assert config.decode == options_of("discriminative").DecodeConfig(0.5, 0.2, 9, 0.5)
    image = torch.rand(1, 3, 16, 24)
    assert load_checkpoint(path).network().eval()(image)["embedding"].shape[1] == 4


def test_other_weights_bring_the_options_of_their_method(tmp_path: Path) -> None:
    other = weights_of("discriminative", tmp_path / "w.safetensors")
    tracked = {"tracking.enabled": True, "decode.min_pixels": 5}
    asked = load_config(overrides={**tracked, "decode.agreement": False})
    changed = suited(merge(asked, {"weights": other}))
    assert changed == load_config(overrides=tracked, weights=other)
    assert suited(merge(changed, {"weights": asked.weights})) == load_config(overrides=tracked)
    with pytest.raises(ConfigError, match=r"decode\.agreement"):  # it was for these weights
        suited(merge(Config(), {"weights": other, "decode.agreement": False}))
    with pytest.raises(ConfigError, match=r"are for discriminative, got box_regression"):
        load_config(weights=other, method={"name": "box_regression"})
