"""Learns depth by self-supervision (Godard et al. 2019, arXiv 1806.01260), as in Hu et al. 2019.

A frame's depth is right where its pixels, projected into a neighbouring frame by depth and camera
motion, find their own colours there. The motion is known, or learned by an `EgoMotion` network
that only training needs. Depth has one scale, the outputs' own, and moving objects are left to the
minimum over neighbours and the auto-mask: both are our choice.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, pad

SSIM_SHARE = 0.85
SMOOTHNESS = 1e-3
C1, C2 = 0.01**2, 0.03**2  # constants of SSIM (Wang et al. 2004), for values in [0, 1]


class Clips(NamedTuple):
    """Inputs of the loss for N clips of T frames.

    images: (N, T, 3, H, W) in [0, 1]. motion: (N, T - 1, 4, 4), from the coordinates of a frame's
    camera to those of the next frame's. intrinsics: (N, T, 3, 3), pixels; the centre of the first
    pixel is (0, 0).
    """

    images: Tensor
    motion: Tensor
    intrinsics: Tensor


def depth_loss(inverse_depth: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """(photometric, smoothness) of inverse depths (N, T, 1, H, W), averaged over all frames.

    Photometric: each pixel's smaller error over the previous and next frame, averaged over the
    pixels that are visible in one of them and match their projection better than the same
    coordinates there (auto-mask); 0 if there are none.
    """
    frames = inverse_depth.shape[1]
    total = count = inverse_depth.new_zeros(())
    for t in range(frames):
        errors, still = [], []
        for s in (t - 1, t + 1):
            if not 0 <= s < frames:
                continue
            motion = clips.motion[:, t] if s > t else torch.linalg.inv(clips.motion[:, s])
            where = project(inverse_depth[:, t], motion, clips.intrinsics[:, t])
            there, seen = sample(clips.images[:, s], where)
            error = photometric_error(there, clips.images[:, t])
            errors.append(error.masked_fill(~seen, torch.inf))
            still.append(photometric_error(clips.images[:, s], clips.images[:, t]))
        least, unmoved = (torch.stack(e).amin(0) for e in (errors, still))
        counted = least.detach() < unmoved  # hence finite
        total = total + torch.where(counted, least, 0).sum()
        count = count + counted.sum()
    smooth = smoothness(inverse_depth.flatten(0, 1), clips.images.flatten(0, 1))
    return total / count.clamp(min=1), smooth


def project(inverse_depth: Tensor, motion: Tensor, intrinsics: Tensor) -> Tensor:
    """Project the pixels of one camera into another: (B, 3, H, W), x and y in pixels, and the depth
    there times `inverse_depth`, which is at most 0 behind that camera.

    inverse_depth: (B, 1, H, W). motion: (B, 4, 4), from the first to the second. intrinsics:
    (B, 3, 3).
    """
    height, width = inverse_depth.shape[2:]
    pixels = _pixels(inverse_depth, height, width)
    # For a point X with inverse depth d: d (R X + t) = R ray + d t, finite at any distance.
    turned = intrinsics @ motion[:, :3, :3] @ torch.linalg.inv(intrinsics) @ pixels
    shifted = intrinsics @ motion[:, :3, 3:] * inverse_depth.flatten(2)
    there = turned + shifted
    depth = there[:, 2:]
    place = there[:, :2] / depth.clamp(min=1e-6)
    return torch.cat([place, depth], 1).unflatten(2, (height, width))


def sample(image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Sample the image (B, C, H, W) at the places from `project`; also returns (B, 1, H, W) bool,
    whether they lie inside it."""
    height, width = image.shape[2:]
    last = where.new_tensor([width - 1, height - 1])[:, None, None]
    place = where[:, :2]
    seen = ((place >= 0) & (place <= last)).all(1, keepdim=True) & (where[:, 2:] > 0)
    grid = (2 * place / last - 1).movedim(1, -1)
    values = grid_sample(image, grid, padding_mode="border", align_corners=True)
    return values, seen


def photometric_error(one: Tensor, two: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1]: 0.85 (1 - SSIM) / 2 + 0.15 L1 of images (B, C, H, W) in [0, 1]."""
    structure = ((1 - ssim(one, two)) / 2).clamp(0, 1)
    error = SSIM_SHARE * structure + (1 - SSIM_SHARE) * (one - two).abs()
    return error.mean(1, keepdim=True)


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """Structural similarity of images (B, C, H, W), in windows of 3 x 3."""
    one, two = (pad(image, (1, 1, 1, 1), mode="reflect") for image in (one, two))
    mean1, mean2 = avg_pool2d(one, 3, 1), avg_pool2d(two, 3, 1)
    variance1 = avg_pool2d(one * one, 3, 1) - mean1 * mean1
    variance2 = avg_pool2d(two * two, 3, 1) - mean2 * mean2
    covariance = avg_pool2d(one * two, 3, 1) - mean1 * mean2
    likeness = (2 * mean1 * mean2 + C1) * (2 * covariance + C2)
    return likeness / ((mean1**2 + mean2**2 + C1) * (variance1 + variance2 + C2))


def smoothness(inverse_depth: Tensor, image: Tensor) -> Tensor:
    """Mean slope of inverse depth (B, 1, H, W), relative to its mean, where the image
    (B, 3, H, W) has no edges."""
    shape = inverse_depth / inverse_depth.mean((2, 3), keepdim=True)
    total = inverse_depth.new_zeros(())
    for axis in (2, 3):
        edge = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (shape.diff(dim=axis).abs() * torch.exp(-edge)).mean()
    return total


class EgoMotion(nn.Module):
    """Estimates the camera's motion between frames: a few strided convolutions over the two images
    and the rays of their pixels, which reveal crop and zoom of a view (ours)."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3 + 3 + 2, 16, 32, 64, 128, 128)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise(widths)
        )
        self.output_conv = nn.Conv2d(widths[-1], 6, 1)

    def forward(self, images: Tensor, intrinsics: Tensor) -> Tensor:
        """(N, T, 3, H, W) and (N, T, 3, 3) to `Clips.motion`."""
        pairs = torch.cat([images[:, :-1], images[:, 1:]], 2).flatten(0, 1)
        x = torch.cat([pairs, _rays(intrinsics[:, :-1].flatten(0, 1), images.shape[-2:])], 1)
        for layer in self.layers:
            x = torch.relu(layer(x))
        turn, shift = self.output_conv(x).mean((2, 3)).split(3, 1)
        # Start with almost no motion, which depth need not explain.
        return rigid(0.01 * turn, 0.1 * shift).unflatten(0, (len(images), -1))


def rigid(turn: Tensor, shift: Tensor) -> Tensor:
    """(B, 4, 4) from rotation vectors (B, 3) in radians and translations (B, 3)."""
    x, y, z = turn.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).unflatten(1, (3, 3))
    rotation = torch.linalg.matrix_exp(cross)
    top = torch.cat([rotation, shift[:, :, None]], 2)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(top), 1, 4)
    return torch.cat([top, bottom], 1)


def _rays(intrinsics: Tensor, size: torch.Size) -> Tensor:
    """(B, 2, H, W): slopes to the right and downwards of every pixel's line of sight."""
    height, width = size
    rays = torch.linalg.inv(intrinsics) @ _pixels(intrinsics, height, width)
    return rays[:, :2].unflatten(2, (height, width))


def _pixels(like: Tensor, height: int, width: int) -> Tensor:
    """(3, H W): x, y and 1 of every pixel, on the device and of the dtype of `like`."""
    y, x = torch.meshgrid(
        torch.arange(height, device=like.device, dtype=like.dtype),
        torch.arange(width, device=like.device, dtype=like.dtype),
        indexing="ij",
    )
    return torch.stack([x, y, torch.ones_like(x)]).flatten(1)
