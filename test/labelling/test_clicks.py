"""One click, one mask: in each method's own way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from label_sessions import DISCS, SIZE, disc_labels, disc_seeds, outputs_of

from instaseg_ros.config import Config
from instaseg_ros.labelling.clicks import METHODS, less, seeds_of
from instaseg_ros.labelling.regions import component_at
from instaseg_ros.methods import box_regression, metric_learning
from instaseg_ros.methods.spatial_embedding import pixel_grid
from instaseg_ros.preprocess import Geometry

FOREGROUND = 6.0  # logit of a class on its objects


def dense(labels: np.ndarray) -> torch.Tensor:
    """(1, 3, H, W) logits of background and two classes; the last object has the second."""
    semantic = torch.zeros(1, 3, *labels.shape)
    semantic[0, 0] = FOREGROUND
    for number in range(1, int(labels.max()) + 1):
        mask = torch.from_numpy(labels == number)
        semantic[0, 0][mask] = 0
        semantic[0, 1 + int(number == labels.max())][mask] = FOREGROUND
    return semantic


def all_outputs(labels: np.ndarray) -> dict[str, dict[str, torch.Tensor]]:
    """Perfect outputs of every method."""
    apart = torch.zeros(1, 4, *labels.shape)
    box = torch.zeros(1, 4, *labels.shape)
    height, width = labels.shape
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    position = torch.stack([x, y])
    for number in range(1, int(labels.max()) + 1):
        mask = torch.from_numpy(labels == number)
        apart[0, number - 1][mask] = 3.0
        cx, cy, radius = DISCS[number - 1]
        true = torch.tensor([cx + 0.5, cy + 0.5, 2.0 * radius, 2.0 * radius])[:, None]
        own = position[:, mask]
        box[0][:, mask] = box_regression.raw_outputs(true.expand(4, own.shape[1]), own)
    # Its embedding has the position in two channels: that of the object's centre in each pixel.
    masks = torch.zeros(1, len(metric_learning.TAUS), 3, *labels.shape)
    masks[0, 1] = 2 * dense(labels)[0]
    similar = apart.clone()
    similar[0, :2] -= position - 0.5
    similar[0, :2] /= metric_learning.POSITION_PX
    similar[0, 2:] *= 2
    by_embedding = {"embedding": apart, "semantic": dense(labels)}
    return {
        "spatial_embedding": outputs_of(labels),
        "discriminative": by_embedding,
        "spatio_temporal": by_embedding,
        "metric_learning": {
            "embedding": torch.cat([_centred(labels), apart], 1),
            "masks": masks.flatten(1, 2),
        },
        "box_regression": {"box": box, "semantic": dense(labels)},
    }


def _centred(labels: np.ndarray) -> torch.Tensor:
    """(1, 2, H, W): what takes each pixel's position to 0, in units of the embedding."""
    height, width = labels.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return -torch.stack([x, y])[None] / metric_learning.POSITION_PX


@pytest.mark.parametrize("name", METHODS)
def test_a_click_gives_the_object_and_its_class(name: str) -> None:
    labels = disc_labels()
    config = Config().for_method(name)
    seeds = seeds_of(name, all_outputs(labels)[name], config, Geometry(SIZE, SIZE))
    assert seeds is not None and seeds.how
    for number, (x, y, radius) in enumerate(DISCS, 1):
        mask = seeds.mask(seeds.distance(x + radius / 2, y + 0.5), 1)
        np.testing.assert_array_equal(mask, labels == number)
        assert seeds.class_at(x, y) == int(number == len(DISCS))


def test_a_method_of_others_has_no_answer() -> None:
    assert seeds_of("connected_components", {}, Config(), Geometry(SIZE, SIZE)) is None


def test_a_width_moves_the_border() -> None:
    labels = disc_labels()
    outputs = outputs_of(labels, radius_px=8)
    outputs["offset"].zero_()  # every pixel stays where it is, so that a cluster is an ellipse
    outputs["seed"].fill_(FOREGROUND)
    seeds = seeds_of("spatial_embedding", outputs, Config(), Geometry(SIZE, SIZE))
    assert seeds is not None
    distance = seeds.distance(40, 24)
    for width in (0.5, 1, 1.5):
        heights = np.flatnonzero(seeds.mask(distance, width)[:, 40])
        assert len(heights) == pytest.approx(2 * 8 * width, abs=1)
    grid = pixel_grid(*SIZE)  # the formula of the paper, once more by hand
    scale = torch.exp(10 * outputs["bandwidth"][0, :, 24, 40])[:, None, None]
    phi = torch.exp(-(scale * (grid - grid[:, 24, 40, None, None]) ** 2).sum(0))
    np.testing.assert_array_equal(seeds.mask(distance, 1), (phi > 0.5).numpy())


def test_a_click_on_background_is_answered_too() -> None:
    seeds = disc_seeds()
    assert not seeds.foreground[seeds.pixel(2, 2)]
    mask = seeds.mask(seeds.distance(2, 2), 1)
    assert mask[2, 2] and not mask[24, 44]


def test_clicks_are_in_pixels_of_the_camera() -> None:
    small = disc_labels()
    geometry = Geometry((2 * SIZE[0], 2 * SIZE[1]), SIZE)
    seeds = seeds_of("spatial_embedding", outputs_of(small), Config(), geometry)
    assert seeds is not None
    x, y, _ = DISCS[1]
    mask = seeds.mask(seeds.distance(2 * x, 2 * y), 1)
    assert mask.shape == geometry.camera
    np.testing.assert_array_equal(mask, np.kron(small == 2, np.ones((2, 2), bool)))
    np.testing.assert_array_equal(seeds.at_network(mask), small == 2)
    assert seeds.pixel(-50, -50) == 0 and seeds.pixel(1e6, 1e6) == SIZE[0] * SIZE[1] - 1


def test_taking_away_leaves_the_rest_of_the_object() -> None:
    seeds, labels = disc_seeds(), disc_labels()
    both = (labels == 1) | (labels == 2)
    both[24, 20:44] = True  # two objects taken for one
    x, y, _ = DISCS[1]
    gone = less(seeds, both, x, y, 1)
    assert gone is not None
    left = both.copy()
    left[gone.box][gone.mask] = False
    assert not left[labels == 2].any() and left[labels == 1].all()
    part = component_at(both, x, y)
    assert part is not None and part.mask.sum() > gone.mask.sum()
    assert less(seeds, both, 2, 2, 1) is None  # no pixel of the object
