"""Views made on the device against those of the host; the functions run on a CPU too."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import dataset_layouts
import pytest
import torch
from disc_images import QUICK, write_discs

from instaseg_ros.config import AugmentConfig, Config, TrainConfig, merge
from instaseg_ros.datasets import open_dataset
from instaseg_ros.errors import ConfigError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training import device_views
from instaseg_ros.training.cache import kept
from instaseg_ros.training.data import Batch, to_batch
from instaseg_ros.training.device_views import draw, make_batch, resident
from instaseg_ros.training.objects import object_index
from instaseg_ros.training.trainer import train
from instaseg_ros.training.views import ObjectViews

CPU = torch.device("cpu")
STILL = AugmentConfig(scale_low=1, scale_high=1, flip=0, color=0, blur=0, noise=0)
COUNT = 24


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Eight frames of a street with groups, void and dense classes, two of them smaller."""
    root = tmp_path_factory.mktemp("city")
    for number, size in enumerate(((128, 192), (96, 160))):
        made = SyntheticStreet(size, sequences=3 - 2 * number, frames_per_sequence=2, seed=4)
        dataset_layouts.write_cityscapes(
            root / str(number), [made[i] for i in range(6 - 4 * number)]
        )
    return [kept(open_dataset(root / str(number), "all")) for number in (0, 1)], root


def both(
    street: Any,
    augment: AugmentConfig,
    which: int = 0,
    device: torch.device = CPU,
    **options: Any,
) -> tuple[Batch, Batch]:
    """The same views of the host and of the device."""
    data, root = street[0][which], street[1]
    config = dataclasses.replace(
        TrainConfig(), crop_height=64, crop_width=96, augment=augment, seed=7, **options
    )
    views = ObjectViews(data, object_index(data, root / f"objects{which}.npz"), config)
    host = to_batch([views[i] for i in range(COUNT)], config.min_object_px)
    drawn = draw(views, range(COUNT), device)
    noise = torch.Generator(device).manual_seed(0)
    return host, make_batch(resident(data, device), drawn, config, noise)


def classes_of(batch: Batch) -> list[list[int]]:
    return [[c for c in row.tolist() if c >= 0] for row in batch.targets.class_ids]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"flip": 0.5, "turn": True}])
def test_views_of_whole_pixels_are_the_same(
    street: Any, changes: dict[str, Any], which: int
) -> None:
    host, device = both(street, dataclasses.replace(STILL, **changes), which, min_object_px=5)
    assert torch.equal(device.images, host.images) and device.images.dtype == torch.uint8
    assert device.images.is_contiguous(memory_format=torch.channels_last)
    for name in ("labels", "ignore", "semantic"):
        one, other = (getattr(batch.targets, name) for batch in (device, host))
        assert torch.equal(one, other) and one.dtype == other.dtype, name
    assert classes_of(device) == classes_of(host)


@pytest.mark.parametrize(
    ("changes", "mean_difference"),
    [
        ({"scale_low": 1.0, "scale_high": 2.0}, 0.6),
        ({"scale_low": 0.5, "scale_high": 0.65}, 1.0),
        ({"color": 0.6}, 0.01),
        ({"blur": 1.0}, 0.01),
        ({"color": 0.3, "blur": 0.5, "scale_low": 0.5, "scale_high": 2.0, "flip": 0.5}, 1.0),
    ],
)
def test_views_differ_by_the_rounding_of_opencv(
    street: Any, changes: dict[str, Any], mean_difference: float
) -> None:
    host, device = both(street, dataclasses.replace(STILL, **changes))
    difference = (device.images.int() - host.images.int()).abs().float()
    assert difference.mean() < mean_difference
    unlike = (device.targets.semantic != host.targets.semantic).float().mean()  # type: ignore[union-attr]
    assert unlike < 0.005
    assert (device.targets.ignore != host.targets.ignore).float().mean() < 0.005


def test_noise_has_the_deviation_that_the_host_drew(street: Any) -> None:
    """As far as it is not cut off where an image is black or white."""
    still, _ = both(street, STILL)
    host, device = both(street, dataclasses.replace(STILL, noise=1.0))
    grey = (still.images > 40) & (still.images < 215)
    for index in range(COUNT):
        ours, theirs = (
            (batch.images[index].float() - still.images[index])[grey[index]].std()
            for batch in (device, host)
        )
        assert ours.item() == pytest.approx(theirs.item(), rel=0.05)


def test_the_largest_instances_are_kept_and_the_rest_ignored(
    street: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = both(street, STILL)
    monkeypatch.setattr(device_views, "MAX_INSTANCES", 2)
    _, device = both(street, STILL)
    more = 0
    for index in range(COUNT):
        known, own = host.targets.labels[index], device.targets.labels[index]
        sizes = torch.bincount(known.flatten())[1:]
        assert own.max() == min(2, len(sizes)) and device.targets.class_ids.shape == (COUNT, 2)  # type: ignore[attr-defined]
        left = torch.bincount(known[own > 0])[1:]
        assert left.sum() == sizes.sort(descending=True).values[:2].sum()
        assert device.targets.ignore[index][(known > 0) & (own == 0)].all()
        more += len(sizes) > 2
    assert more > 3


def test_what_does_not_fit_on_the_device_is_told(
    street: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_views, "available_bytes", lambda: 1000)
    with pytest.raises(ConfigError, match=r"train\.cache: 6 images of 128 x 192 take 0\.0 GB"):
        resident(street[0][0], CPU)


def losses(path: Path) -> list[dict[str, float]]:
    with (path / "log.csv").open() as file:
        return [
            {k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)
        ]


def test_a_run_learns_the_same_from_the_device(tmp_path: Path) -> None:
    data = write_discs(tmp_path / "data", 6)
    still = {f"train.augment.{name}": value for name, value in dataclasses.asdict(STILL).items()}
    config = merge(
        Config(), {**QUICK, **still, "train.dataset": str(data), "train.lovasz": "binned"}
    )
    for cache in ("memory", "device"):
        train(merge(config, {"train.cache": cache}), tmp_path / cache)
    for one, other in zip(losses(tmp_path / "device"), losses(tmp_path / "memory"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("changes", [{"train.lovasz": "exact"}, {"method.name": "discriminative"}])
def test_only_the_batched_loss_takes_what_the_device_makes(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = merge(Config(), {"train.cache": "device", "train.dataset": "absent", **changes})
    with pytest.raises(ConfigError, match=r"train\.cache: device is for method spatial_embedding"):
        train(config, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_views_made_on_a_gpu_are_those_made_on_a_cpu(street: Any) -> None:
    augment = dataclasses.replace(STILL, color=0.3, blur=0.5, scale_low=0.5, scale_high=2, flip=0.5)
    _, expected = both(street, augment)
    _, found = both(street, augment, device=torch.device("cuda"))
    assert found.images.is_cuda and found.images.dtype == torch.uint8
    unlike = (found.images.cpu().int() - expected.images.int()).abs()
    assert unlike.max() <= 3 and unlike.float().mean() < 0.01
    for name in ("labels", "ignore", "semantic"):
        one, other = (getattr(batch.targets, name) for batch in (found, expected))
        assert (one.cpu() != other).float().mean() < 1e-3, name
    assert classes_of(found) == classes_of(expected)
    _, noisy = both(street, dataclasses.replace(STILL, noise=1.0), device=torch.device("cuda"))
    assert noisy.images.float().std() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("cache", ["none", "device"])
def test_a_run_trains_validates_and_goes_on_on_a_gpu(tmp_path: Path, cache: str) -> None:
    data = write_discs(tmp_path / "data", 6)
    settings = {"train.dataset": str(data), "train.cache": cache, "runtime.device": "cuda"}
    config = merge(Config(), {**QUICK, **settings})
    run = tmp_path / "run"
    for steps in (4, 8):
        train(merge(config, {"train.steps": steps}), run)
    rows = losses(run)
    assert [row["step"] for row in rows] == [*range(1, 9)]
    assert all(math.isfinite(row["total"]) for row in rows)
    assert (run / "weights.safetensors").is_file() and (run / "validation.csv").is_file()
