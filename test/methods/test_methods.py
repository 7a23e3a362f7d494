"""What every method must do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from instaseg_ros.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from instaseg_ros.config import Config, merge
from instaseg_ros.config.options import options_of
from instaseg_ros.errors import ConfigError
from instaseg_ros.frames import Frame, Instances
from instaseg_ros.methods import METHODS, Method, Targets, make_method
from instaseg_ros.model.erfnet import ERFNet
from instaseg_ros.pipeline import Pipeline

SIZE = (64, 96)
CLASSES = ("car", "bus")
every_method = pytest.mark.parametrize("name", METHODS)


def outputs_by_chance(method: Method, batch: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        head.name: scale * torch.randn(batch, head.channels, *SIZE, generator=generator)
        for head in method.heads
    }


def check(found: Instances) -> None:
    """What `Instances` promises."""
    assert found.labels.shape == SIZE and found.labels.dtype == np.uint16
    assert set(np.unique(found.labels)) - {0} == set(found.ids.tolist())
    assert len(found) == len(found.class_ids) == len(found.scores) == len(found.boxes_xyxy)
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert ((found.class_ids >= 0) & (found.class_ids < len(CLASSES))).all()
    for number, box in zip(found.ids, found.boxes_xyxy, strict=True):
        y, x = np.nonzero(found.labels == number)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@every_method
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_whatever_the_network_says_becomes_instances(name: str, scale: float) -> None:
    method = make_method(name, len(CLASSES))
    config = options_of(name).DecodeConfig(seed_threshold=0.3, min_pixels=3)
    found = method.decode(outputs_by_chance(method, 2, scale), config)
    assert len(found) == 2
    for one in found:
        check(one)


@every_method
def test_what_is_less_sure_than_asked_is_left_out(name: str) -> None:
    """Of equal outputs the others stay as they are, numbered from 1 in their order."""
    method, options = make_method(name, len(CLASSES)), options_of(name)
    outputs = outputs_by_chance(method, 1)
    config = options.DecodeConfig(seed_threshold=0.3, min_pixels=0)
    (every,) = method.decode(outputs, config)
    least = float(np.median(every.scores))
    kept = every.scores >= np.float32(least)
    assert 0 < kept.sum() < len(kept)
    (found,) = method.decode(outputs, dataclasses.replace(config, min_score=least))
    check(found)
    assert found.ids.tolist() == list(range(1, kept.sum() + 1))
    for field in ("class_ids", "scores", "boxes_xyxy", "centers_xy", "bandwidths", "embeddings"):
        rows = getattr(every, field)
        if rows is not None:
            np.testing.assert_array_equal(getattr(found, field), rows[kept], field)
    number = np.zeros(every.ids.max() + 1, np.uint16)
    number[every.ids[kept]] = found.ids
    np.testing.assert_array_equal(found.labels, number[every.labels])

    (nothing,) = method.decode(outputs, dataclasses.replace(config, min_score=1.0))
    assert len(nothing) == 0 and not nothing.labels.any()


@every_method
@pytest.mark.parametrize("case", ["no object", "all ignored", "one object"])
def test_loss_and_gradients_are_finite(name: str, case: str) -> None:
    method = make_method(name, len(CLASSES))
    outputs = {k: v.requires_grad_() for k, v in outputs_by_chance(method, 1).items()}
    labels = torch.zeros(1, *SIZE, dtype=torch.int64)
    if case == "one object":
        labels[0, 10:30, 20:50] = 1
    classes = [torch.ones(int(case == "one object"), dtype=torch.int64)]
    ignore = torch.full_like(labels, case == "all ignored", dtype=torch.bool)
    terms = method.loss(outputs, Targets(labels, classes, ignore), options_of(name).LossConfig())
    terms["total"].backward()
    assert all(torch.isfinite(term).all() for term in terms.values())
    assert all(v.grad is None or torch.isfinite(v.grad).all() for v in outputs.values())
    if case == "all ignored":
        assert float(terms["total"].detach()) == pytest.approx(0, abs=1e-6)


@every_method
def test_weights_of_any_method_run_in_the_pipeline(name: str, tmp_path: Path) -> None:
    """The word in the checkpoint is all that tells."""
    torch.manual_seed(0)
    method = make_method(name, len(CLASSES))
    network = ERFNet(method.heads, temporal=method.temporal)
    method.initialise(network)
    path = tmp_path / "w.safetensors"
    save_checkpoint(Checkpoint(network.state_dict(), CLASSES, name), path)
    assert load_checkpoint(path).method_name == name
    pipeline = Pipeline(merge(Config(), {"weights": str(path), "runtime.name": "torch"}))
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    (first,) = pipeline.process([Frame(image)])
    check(first.instances)
    pipeline.reset()
    (again,) = pipeline.process([Frame(image)])
    assert np.array_equal(first.instances.labels, again.instances.labels)


def test_an_unknown_method_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match=r"'neven' is unknown; known: spatial_embedding"):
        make_method("neven", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@every_method
def test_decoding_on_the_gpu_finds_what_the_cpu_does(name: str) -> None:
    method = make_method(name, len(CLASSES))
    outputs = outputs_by_chance(method, 1)
    config = options_of(name).DecodeConfig(seed_threshold=0.3, min_pixels=3)
    (here,) = method.decode(outputs, config)
    (there,) = method.decode({k: v.cuda() for k, v in outputs.items()}, config)
    differing = (here.labels != there.labels).mean()
    assert differing < 0.01, "only pixels on a border may change sides"
