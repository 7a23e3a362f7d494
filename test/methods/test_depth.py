"""Self-supervised depth: a rendered wall and a camera that moves past it, all known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from instaseg_ros.methods.depth import (
    Clips,
    EgoMotion,
    depth_loss,
    photometric_error,
    project,
    rigid,
    sample,
    smoothness,
    ssim,
)

SIZE = (48, 64)
K = torch.tensor([[50.0, 0, 30], [0, 52.0, 22], [0, 0, 1]], dtype=torch.float64)
NORMAL, DISTANCE = torch.tensor([0.2, -0.1, 1.0], dtype=torch.float64), 8.0  # n . X = DISTANCE


def wall(pose: Tensor) -> tuple[Tensor, Tensor]:
    """A painted wall from a camera (4, 4) to world: image (3, H, W), inverse depth (1, H, W)."""
    height, width = SIZE
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).double().flatten(1)
    rays = pose[:3, :3] @ torch.linalg.inv(K) @ pixels
    depth = (DISTANCE - NORMAL @ pose[:3, 3]) / (NORMAL @ rays)
    points = pose[:3, 3:] + rays * depth
    colours = [torch.sin(k * points[0] + (2 - k) * points[1] + k) for k in (0.7, 1.3, 1.9)]
    return 0.5 + 0.4 * torch.stack(colours).unflatten(1, SIZE), (1 / depth).reshape(1, *SIZE)


def drive() -> tuple[Clips, Tensor]:
    """Three frames, and their true inverse depths (1, 3, 1, H, W)."""
    turn = torch.tensor([[0, 0, 0], [0.01, -0.02, 0.005], [0.0, 0.03, 0.01]], dtype=torch.float64)
    shift = torch.tensor([[0, 0, 0], [0.4, 0.1, 0.3], [0.9, 0, 0.8]], dtype=torch.float64)
    poses = rigid(turn, shift)
    images, inverse = zip(*map(wall, poses), strict=True)
    motion = torch.linalg.inv(poses[1:]) @ poses[:-1]
    return Clips(torch.stack(images)[None], motion[None], K.expand(1, 3, 3, 3)), torch.stack(
        inverse
    )[None]


def test_the_true_depth_and_motion_explain_the_pictures() -> None:
    clips, inverse = drive()
    photometric, smooth = depth_loss(inverse, clips)
    assert photometric < 1e-3
    assert 0 < smooth < 0.1
    for wrong in (inverse * 1.5, inverse / 1.5, inverse.flip(3)):
        assert depth_loss(wrong, clips)[0] > 3 * photometric
    still = clips.motion.clone()
    still[..., :3, 3] *= 0.5
    assert depth_loss(inverse, clips._replace(motion=still))[0] > 3 * photometric
    scaled = clips.motion.clone()  # what pictures cannot tell: the scale of the world
    scaled[..., :3, 3] *= 3
    again, _ = depth_loss(inverse / 3, clips._replace(motion=scaled))
    assert again == pytest.approx(float(photometric), abs=1e-9)


def test_the_loss_is_least_at_the_true_depth_and_falls_towards_it() -> None:
    clips, inverse = drive()
    scales = (0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.4)
    factor = torch.tensor(scales, dtype=torch.float64, requires_grad=True)
    losses = torch.stack([depth_loss(inverse * f, clips)[0] for f in factor])
    losses.sum().backward()
    assert scales[int(losses.argmin())] == 1.0
    assert factor.grad is not None
    assert (factor.grad[1:3] < 0).all() and (factor.grad[4:6] > 0).all()


def test_what_stands_still_in_the_picture_is_left_out() -> None:
    """Auto-mask: three times the same frame explains itself without any depth."""
    clips, inverse = drive()
    same = clips._replace(images=clips.images[:, :1].expand(-1, 3, -1, -1, -1))
    photometric, _ = depth_loss(inverse.requires_grad_(), same)
    assert photometric == 0
    photometric.backward()
    assert inverse.grad is not None and not inverse.grad.any()


def test_a_camera_that_turned_away_leaves_no_loss_and_no_nan() -> None:
    clips, inverse = drive()
    back = rigid(torch.tensor([[0, np.pi, 0]] * 2).double(), torch.zeros(2, 3).double())
    photometric, smooth = depth_loss(inverse.requires_grad_(), clips._replace(motion=back[None]))
    (photometric + smooth).backward()
    assert photometric == 0 and torch.isfinite(inverse.grad).all()


def test_pixels_go_where_geometry_sends_them() -> None:
    """Focal 50: a metre to the right at 10 m is five pixels to the left."""
    k = torch.tensor([[[50.0, 0, 4], [0, 50.0, 3], [0, 0, 1]]])
    motion = rigid(torch.zeros(1, 3), torch.tensor([[-1.0, 0, 0]]))
    where = project(torch.full((1, 1, 7, 9), 0.1), motion, k)
    assert torch.allclose(where[0, :2, 2, 6], torch.tensor([1.0, 2.0]), atol=1e-4)
    values, seen = sample(torch.arange(63.0).reshape(1, 1, 7, 9), where)
    assert seen[0, 0, 2].tolist() == 5 * [False] + 4 * [True]
    assert float(values[0, 0, 2, 6]) == pytest.approx(2 * 9 + 1, abs=1e-3)
    nearer = project(torch.full((1, 1, 7, 9), 0.1), rigid(torch.zeros(1, 3), -motion[:, :3, 3]), k)
    assert float(nearer[0, 0, 2, 2]) == pytest.approx(7, abs=1e-4)


def test_photometric_error_by_hand() -> None:
    """Flat images a and b: SSIM is (2 a b + C1) / (a^2 + b^2 + C1)."""
    a, b = torch.full((1, 3, 5, 5), 0.5), torch.full((1, 3, 5, 5), 0.7)
    likeness = (2 * 0.35 + 1e-4) / (0.25 + 0.49 + 1e-4)
    assert torch.allclose(ssim(a, b), torch.tensor(likeness), atol=1e-3)
    expected = 0.85 * (1 - likeness) / 2 + 0.15 * 0.2
    assert torch.allclose(photometric_error(a, b), torch.tensor(expected), atol=1e-3)
    assert not photometric_error(a, a).any()


def test_smoothness_by_hand() -> None:
    """Slope 1 across, mean 2, so 0.5; an edge of the picture lets it be steep."""
    inverse = torch.tensor([1.0, 2, 3]).expand(1, 1, 4, 3)
    image = torch.zeros(1, 3, 4, 3)
    assert float(smoothness(inverse, image)) == pytest.approx(0.5)
    image[..., 2] = 1
    assert float(smoothness(inverse, image)) == pytest.approx((0.5 + 0.5 * np.exp(-1)) / 2)


def test_gradients_are_those_of_the_formulas() -> None:
    clips, inverse = drive()
    part = (slice(None), slice(None), slice(None), slice(20, 26), slice(20, 27))
    small = clips._replace(images=clips.images[part])
    raw = (inverse[part] * 1.02).clone().requires_grad_()
    motion = clips.motion.clone().requires_grad_()

    def of(depth: Tensor, moved: Tensor) -> Tensor:
        return sum(depth_loss(depth, small._replace(motion=moved)))  # type: ignore[return-value]

    assert torch.autograd.gradcheck(
        of, (raw, motion), eps=1e-7, atol=1e-4, rtol=1e-2, fast_mode=True
    )


def test_rotations_are_rotations() -> None:
    quarter = rigid(torch.tensor([[0.0, 0, np.pi / 2]]), torch.tensor([[1.0, 2, 3]]))[0]
    point = quarter @ torch.tensor([1.0, 0, 0, 1])
    assert torch.allclose(point, torch.tensor([1.0, 3, 3, 1]), atol=1e-6)


def test_a_fresh_network_sees_hardly_any_motion() -> None:
    torch.manual_seed(0)
    network = EgoMotion()
    motion = network(torch.rand(2, 3, 3, 64, 96), K.float().expand(2, 3, 3, 3))
    assert motion.shape == (2, 2, 4, 4)
    assert (motion - torch.eye(4)).abs().max() < 0.1
    motion.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
