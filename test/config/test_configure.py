"""`load_config`: takes what suits the weights, unless the user says otherwise."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_networks import untrained_checkpoint

import instaseg_ros
from instaseg_ros import cli
from instaseg_ros.checkpoint import describe, save_checkpoint
from instaseg_ros.config import Config, InputConfig, merge
from instaseg_ros.config.options.spatial_embedding import DecodeConfig
from instaseg_ros.configure import load_config, suited
from instaseg_ros.errors import ConfigError, WeightsError
from instaseg_ros.frames import Frame
from instaseg_ros.pipeline import Pipeline


def weights_with(path: Path, **suits: object) -> str:
    save_checkpoint(replace(untrained_checkpoint("small"), **suits), path)  # type: ignore[arg-type]
    return str(path)


@pytest.fixture
def particular(tmp_path: Path, small_profiles: None) -> str:
    """Weights that label little or much, as they are asked."""
    decode = {"seed_threshold": 0.3, "min_pixels": 2}
    return weights_with(tmp_path / "w.safetensors", decode=decode, input={"height": 32})


def test_thresholds_come_from_the_weights_unless_the_user_sets_them(
    particular: str, tmp_path: Path
) -> None:
    config = load_config(
        weights=particular, decode={"min_pixels": 64}
    )  # the default, but asked for
    assert (config.decode.min_pixels, config.decode.seed_threshold) == (64, 0.3)
    usual = load_config()
    assert usual.decode == replace(Config().decode, **describe(usual.weights).decode)

    torch.save({"model_state_dict": untrained_checkpoint().tensors}, tmp_path / "w.pth")
    published = load_config(weights=str(tmp_path / "w.pth"))
    assert published.decode == DecodeConfig(0.9, 0.5, 128, 0.5, first_come=False, agreement=False)


def test_a_file_overrides_and_sections_come_one_over_the_other(
    particular: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("decode: {min_pixels: 5, min_new_fraction: 0.1, first_come: false}")
    given = {"weights": particular, "decode.min_pixels": 6, "decode": {"min_new_fraction": 0.2}}
    decode = load_config(file, given, decode={"min_new_fraction": 0.3}).decode
    assert decode == DecodeConfig(
        seed_threshold=0.3, min_pixels=6, min_new_fraction=0.3, first_come=False
    )


def test_the_input_size_comes_from_the_weights_unless_the_user_sets_one(
    tmp_path: Path, small_profiles: None
) -> None:
    path = weights_with(tmp_path / "w.safetensors", input={"height": 480, "width": 960})

    def seen(**asked: float) -> InputConfig:
        return load_config(weights=path, input=asked).input

    assert seen() == InputConfig(height=480, width=960)
    assert seen(mirror=True) == InputConfig(height=480, width=960, mirror=True)
    asked = {"max_pixels": 9_000_000, "white_level": 4095}  # of the camera, not of a size
    assert seen(**asked) == InputConfig(height=480, width=960, **asked)
    by_hand = Config(weights=path, input=InputConfig(**asked))
    assert suited(by_hand).input == InputConfig(height=480, width=960, **asked)
    # Never one side of the user's and one of the weights'.
    assert seen(width=640) == InputConfig(width=640)
    assert seen(scale=0.5) == InputConfig(scale=0.5)
    assert seen(height=0) == InputConfig()  # as the camera
    path = weights_with(tmp_path / "r.safetensors", input={"min_height": 480, "max_height": 1024})
    assert seen() == InputConfig(min_height=480, max_height=1024)
    assert seen(height=320) == InputConfig(height=320)
    assert seen(max_height=720) == InputConfig(max_height=720)


def test_a_pipeline_takes_what_suits_its_weights_from_any_config(particular: str) -> None:
    by_hand = Config(weights=particular)
    assert Pipeline(by_hand).config == load_config(weights=particular) != by_hand
    asked = {"weights": particular, "decode.seed_threshold": 0.8}  # the default, but asked for
    assert Pipeline(load_config(overrides=asked)).config.decode.seed_threshold == 0.8
    changed = merge(load_config(), {"weights": particular, "decode.min_pixels": 9})
    assert suited(changed).decode == DecodeConfig(seed_threshold=0.3, min_pixels=9)
    back = merge(suited(changed), {"weights": Config().weights})
    assert suited(back) == load_config(overrides={"decode.min_pixels": 9})


def test_command_node_and_python_label_alike(particular: str, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "0.png"), image[..., ::-1])

    def labels(config: Config) -> np.ndarray:
        return Pipeline(config).process([Frame(image)])[0].instances.labels

    torch_runtime = {"runtime.name": "torch"}
    words = ["replay", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--weights", particular]
    assert cli.main([*words, "--set", "runtime.name=torch"]) == 0
    (file,) = (tmp_path / "out" / "labels").iterdir()
    of_command = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    of_node = labels(load_config(overrides={"weights": particular, **torch_runtime}))
    of_python = labels(merge(Config(weights=particular), torch_runtime))
    unsuited = merge(Config(weights=particular), torch_runtime)
    ignoring = labels(replace(unsuited, suited_to=particular))
    assert of_command.max() > 0
    assert np.array_equal(of_command, of_node)
    assert np.array_equal(of_command, of_python)
    assert not np.array_equal(of_command, ignoring)


def test_the_public_names_are_there_and_torch_waits_until_it_is_needed() -> None:
    assert instaseg_ros.load_config is load_config
    assert instaseg_ros.Pipeline is Pipeline
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        _ = instaseg_ros.Pipelin
    code = (
        "import sys, instaseg_ros\n"
        "from instaseg_ros.checkpoint import describe\n"
        "config = instaseg_ros.load_config(weights='street')\n"
        "print(config.input.min_height, len(describe('street').class_names))\n"
        "assert not {'torch', 'cv2'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "480 8\n"), done.stderr


def test_what_weights_say_that_does_not_exist_is_named(
    tmp_path: Path, small_profiles: None
) -> None:
    path = weights_with(tmp_path / "w.safetensors", decode={"min_pixel": 7})
    with pytest.raises(WeightsError, match=r"w\.safetensors: .*did you mean 'decode\.min_pixels'"):
        load_config(weights=path)
    with pytest.raises(ConfigError, match="unknown parameter 'weight'"):
        load_config(weight=path)
