"""What other cameras and weather would do to an image, on rendered frames and on recorded ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from instaseg_ros.config import AugmentConfig, TrainConfig
from instaseg_ros.errors import ConfigError
from instaseg_ros.synthetic_street import SyntheticStreet
from instaseg_ros.training.augment import random_view
from instaseg_ros.training.camera_effects import camera_effects
from instaseg_ros.training.source import open_source
from instaseg_ros.training.views import EndlessStreet

SIZE = (64, 128)


def config(camera: float, variation: float = 0.0) -> TrainConfig:
    return TrainConfig(
        crop_height=SIZE[0],
        crop_width=SIZE[1],
        variation=variation,
        clip_frames=2,
        augment=AugmentConfig(camera=camera),
    )


def test_strength_0_is_the_image_itself_and_draws_nothing() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    rng = np.random.default_rng(3)
    assert camera_effects(image, 0.0, rng) is image
    assert rng.random() == np.random.default_rng(3).random()


def test_brightness_colour_sharpness_and_noise_vary_but_shapes_stay() -> None:
    scene = np.full((128, 256, 3), 90, np.uint8)
    scene[30:100, 60:200] = (150, 120, 130)
    scene[50:70, 100:140] = (40, 60, 30)
    results = [camera_effects(scene, 1.0, np.random.default_rng(i)) for i in range(60)]
    means = np.array([r.mean() for r in results])
    assert all(r.shape == scene.shape and r.dtype == np.uint8 for r in results)
    assert means.min() < 60 and means.max() > 140  # night to glare
    tints = np.array([r.reshape(-1, 3).mean(0) for r in results]) / means[:, None]
    assert tints.std(0).min() > 0.03
    flat = [float(r[5:25, 10:50].std()) for r in results]
    assert min(flat) < 2 and max(flat) > 4  # clean to noisy
    upright = 0
    for result in results:  # the bright field is where it was, in nearly all
        grey = cv2.GaussianBlur(result.astype(np.float32).mean(2), (0, 0), 3)
        upright += bool(grey[80:95, 80:180].mean() > grey[108:122, 80:180].mean())
    assert upright >= 54


@pytest.mark.parametrize("variation", [0.0, 0.5, 1.0])
def test_rendered_views_depend_on_seed_and_index_and_keep_their_labels(variation: float) -> None:
    plain, seen = EndlessStreet(config(0.0, variation)), EndlessStreet(config(1.0, variation))
    changed = []
    for index in range(4):
        for before, after, again in zip(plain[index], seen[index], seen[index], strict=True):
            np.testing.assert_array_equal(before.labels, after.labels)
            np.testing.assert_array_equal(before.ids, after.ids)
            np.testing.assert_array_equal(after.frame.image, again.frame.image)
            difference = np.abs(before.frame.image.astype(int) - after.frame.image)
            changed.append(float(difference.mean()))
    assert np.mean(changed) > 5


def test_without_options_rendered_views_are_the_streets() -> None:
    street = SyntheticStreet(SIZE, depth=False)
    for index in range(3):
        direct = street.training_clip(np.random.default_rng([0, index]), 2, SIZE[0])
        for one, other in zip(direct, EndlessStreet(config(0.0))[index], strict=True):
            np.testing.assert_array_equal(one.frame.image, other.frame.image)


def test_recorded_views_take_it_after_their_own_changes() -> None:
    sample = SyntheticStreet(SIZE, sequences=1, frames_per_sequence=1, depth=False)[0]
    views = [
        random_view(
            sample, (60.0, 30.0), (48, 64), AugmentConfig(camera=camera), np.random.default_rng(1)
        )
        for camera in (0.0, 1.0)
    ]
    np.testing.assert_array_equal(views[0].labels, views[1].labels)
    assert (views[0].frame.image != views[1].frame.image).any()


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    recorded = str(tmp_path)
    with pytest.raises(ConfigError, match=r"train\.variation.*rendered street"):
        open_source(TrainConfig(dataset=recorded, variation=1.0), tmp_path)
    on_device = TrainConfig(dataset=recorded, cache="device", augment=AugmentConfig(camera=0.5))
    with pytest.raises(ConfigError, match=r"train\.augment\.camera.*expected 0"):
        open_source(on_device, tmp_path)
