"""Makes views on the device, for a whole batch at once, from a decoded dataset stored there.

Random numbers are drawn on the host, by the same generator and in the same order as in
`augment.random_view`; only the noise is generated on the device. Views differ from the host's by
OpenCV's rounding of positions to 1/32 of a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad
from tqdm import tqdm

from instaseg_ros.config import AugmentConfig, TrainConfig
from instaseg_ros.datasets import semantic_names
from instaseg_ros.errors import ConfigError
from instaseg_ros.methods import Targets
from instaseg_ros.training.augment import random_color, random_window, shrinking_blur
from instaseg_ros.training.cache import Kept
from instaseg_ros.training.data import Batch, shown
from instaseg_ros.training.memory import available_bytes
from instaseg_ros.training.views import ObjectViews

MAX_IDS = 255  # objects per image: labels are bytes here
MAX_INSTANCES = 64  # per view: the largest
IGNORED = 128  # bit of the plane whose other bits are the dense class
PIXEL_BYTES = 5
BLUR_REACH = 5  # pixels: OpenCV's Gaussian of the largest deviation has 11 taps
SPREAD = 64  # see `binned_loss`
# Three points with these weights approximate a Gaussian of deviation 1 (Gauss-Hermite).
TAPS, TAP_WEIGHTS = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)


class Resident(NamedTuple):
    """A dataset on the device: N images, each padded to the largest size.

    images: (N, H, W, 3) uint8. labels: (N, H, W) uint8, 1..255 instances. rest: (N, H, W) uint8,
    the dense class, and IGNORED on ignored pixels. sizes: (N, 2) int64, height and width.
    classes: (N, 256) int64 by label, -1 for unused labels.
    """

    images: Tensor
    labels: Tensor
    rest: Tensor
    sizes: Tensor
    classes: Tensor


class Random(NamedTuple):
    """The random choices for the views of a batch, on the device.

    image: (B,) int64. numbers: (B, 14) float32: the matrix from pixels of a view to those of its
    image (6), deviation of the smoothing there, saturation, contrast, gain (3), blur, noise.
    shrunk, blurred, noisy: int64, which views are.
    """

    image: Tensor
    numbers: Tensor
    shrunk: Tensor
    blurred: Tensor
    noisy: Tensor


def resident(dataset: Kept, device: torch.device) -> Resident:
    """Copy the dataset to a device. Raises ConfigError if it does not fit."""
    sizes = np.array([dataset.size(index) for index in range(len(dataset))])
    shape = (len(dataset), *sizes.max(0).tolist())
    needed = int(np.prod(shape)) * PIXEL_BYTES
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free * 0.8:
        raise ConfigError(
            f"train.cache: {len(dataset)} images of {shape[1]} x {shape[2]} take "
            f"{needed / 1e9:.1f} GB on {device}, which has {free / 1e9:.1f} GB left, and the "
            "network needs some; set it to memory"
        )
    on_it = {"dtype": torch.uint8, "device": device}
    images = torch.zeros(*shape, 3, **on_it)  # type: ignore[call-overload]
    labels, rest = (torch.zeros(shape, **on_it) for _ in range(2))  # type: ignore[call-overload]
    classes = torch.full((shape[0], MAX_IDS + 1), -1)
    for index in tqdm(range(len(dataset)), "uploading", leave=False, unit="image"):
        height, width = dataset.size(index)
        sample = dataset[index]
        if len(sample.ids) > MAX_IDS or (
            sample.semantic is not None and sample.semantic.max() > 127
        ):
            raise ConfigError(
                f"train.cache: device allows at most {MAX_IDS} objects per image and 127 dense "
                f"classes, image {index} has more; set it to memory"
            )
        number = np.zeros(1 << 16, np.uint8)
        number[sample.ids] = np.arange(1, len(sample.ids) + 1)
        flags = np.zeros((height, width), np.uint8)
        for ignored in (sample.ignore, sample.crowd):
            if ignored is not None:
                flags[ignored > 0] = IGNORED
        if sample.semantic is not None:
            flags |= sample.semantic
        planes = (images, sample.frame.image), (labels, number[sample.labels]), (rest, flags)
        for there, here in planes:
            there[index, :height, :width] = torch.from_numpy(here).to(device)
        classes[index, 1 : len(sample.ids) + 1] = torch.from_numpy(sample.class_ids)
    return Resident(images, labels, rest, torch.from_numpy(sizes).to(device), classes.to(device))


def draw(views: ObjectViews, indices: range, device: torch.device) -> Random:
    """The random choices of `views[index]` for each of `indices`."""
    config, dataset = views.config, views.dataset
    size = config.crop_height, config.crop_width
    assert isinstance(dataset, Kept)
    images, rows = [], []
    for index in indices:
        image, center, rng = views.chosen(index)
        row, color = _drawn(dataset.size(image), center, size, config.augment, rng)
        images.append(image)
        rows.append([*row, *color])
    numbers = torch.from_numpy(np.array(rows, np.float32))
    some = (torch.nonzero(numbers[:, k]).squeeze(1) for k in (6, 12, 13))
    drawn = Random(torch.tensor(images), numbers, *some)
    if device.type == "cuda":
        drawn = Random(*(part.pin_memory() for part in drawn))
    return Random(*(part.to(device, non_blocking=True) for part in drawn))


def _drawn(
    source: tuple[int, int],
    center: tuple[float, float] | None,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> tuple[list[float], list[float]]:
    scale, matrix = random_window(source, center, size, config, rng)
    color = random_color(config, rng)
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    # A blur of deviation 0 changes nothing, nor does a saturation of 1.
    saturation = 1.0 if color.saturation is None else color.saturation
    return [*back.ravel(), shrinking_blur(scale)], [
        *(saturation, color.contrast, *color.gain),
        *(color.blur, color.noise),
    ]


def make_batch(
    data: Resident,
    drawn: Random,
    config: TrainConfig,
    generator: torch.Generator | None = None,
    semantic: bool = True,
) -> Batch:
    """Make the views, with `Targets.class_ids` as (B, MAX_INSTANCES), padded with -1.

    generator: for the noise.
    """
    x, y = _source_places(drawn.numbers, config.crop_height, config.crop_width)
    images = _colored(_sampled(data, drawn, x, y), drawn, generator)
    column, row = (torch.floor(p + 0.5).long() for p in (x, y))
    inside = _inside(data.sizes[drawn.image], column, row)
    place = _place(data, drawn.image, column, row, inside)
    labels = data.labels.view(-1)[place].long() * inside
    rest = data.rest.view(-1)[place] * inside
    labels, class_ids, lost = _numbered(
        labels, data.classes[drawn.image], max(1, config.min_object_px)
    )
    ignore = ~inside | (rest >= IGNORED) | lost
    targets = Targets(
        labels,
        class_ids,  # type: ignore[arg-type]
        ignore,
        semantic=(rest & (IGNORED - 1)).long() if semantic else None,
    )
    return Batch(images.permute(0, 3, 1, 2), targets)


def _source_places(numbers: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The image position x and y, (B, H, W) float32 each, of every pixel of a view."""
    column = torch.arange(width, device=numbers.device)
    row = torch.arange(height, device=numbers.device)[:, None]
    m = numbers[:, :6, None, None]
    return (
        m[:, 0] * column + m[:, 1] * row + m[:, 2],
        m[:, 3] * column + m[:, 4] * row + m[:, 5],
    )


def _inside(sizes: Tensor, column: Tensor, row: Tensor) -> Tensor:
    height, width = (sizes[:, k, None, None] for k in (0, 1))
    return (column >= 0) & (column < width) & (row >= 0) & (row < height)


def _place(data: Resident, image: Tensor, column: Tensor, row: Tensor, inside: Tensor) -> Tensor:
    """The index of pixels among those of all images, 0 for pixels outside."""
    _, height, width = data.labels.shape
    return ((image[:, None, None] * height + row) * width + column) * inside


def _sampled(data: Resident, drawn: Random, x: Tensor, y: Tensor) -> Tensor:
    """(B, H, W, 3) float32, whole numbers: bilinear, smoothed if a view shrinks its image."""
    images = data.images[drawn.image].permute(0, 3, 1, 2).float()  # 0 beyond an image's own size
    sampled = _bilinear(images, x, y)
    some = drawn.shrunk
    if len(some):
        x, y, images = x[some], y[some], images[some]
        sigma = drawn.numbers[some, 6, None, None]
        height, width = data.sizes[drawn.image[some]][:, :, None, None].unbind(1)
        total = torch.zeros((), device=x.device)
        for t in range(3):
            for u in range(3):
                at_x, at_y = (
                    torch.where(  # smoothing stays inside, like OpenCV's mirrored border
                        (p >= 0) & (p <= n - 1), (p + TAPS[k] * sigma).clamp(0).minimum(n - 1), p
                    )
                    for p, n, k in ((x, width, t), (y, height, u))
                )
                total = total + TAP_WEIGHTS[t] * TAP_WEIGHTS[u] * _bilinear(images, at_x, at_y)
        sampled[some] = total
    return torch.floor(sampled.permute(0, 2, 3, 1) + 0.5).contiguous()


def _bilinear(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(B, 3, H, W): images (B, 3, h, w) at x and y (B, H, W), in pixels; 0 around them."""
    last_row, last_column = (n - 1 for n in images.shape[2:])
    place = torch.stack([x * (2 / last_column) - 1, y * (2 / last_row) - 1], 3)
    return grid_sample(images, place, align_corners=True)


def _colored(values: Tensor, drawn: Random, generator: torch.Generator | None) -> Tensor:
    """`augment.photometric` for (B, H, W, 3) float32; returns uint8."""
    numbers = drawn.numbers[:, 7:, None, None, None]
    grey = values.mean(3, keepdim=True)
    values = grey + (values - grey) * numbers[:, 0]
    middle = values.mean((1, 2, 3), keepdim=True)
    values = middle + (values - middle) * numbers[:, 1]
    values = values * drawn.numbers[:, None, None, 9:12]
    if len(some := drawn.blurred):
        values[some] = _blurred(values[some], drawn.numbers[some, 12])
    if len(some := drawn.noisy):
        shape = len(some), *values.shape[1:]
        noise = torch.randn(shape, generator=generator, device=values.device)
        values[some] += noise * numbers[some, 6]
    return (values + 0.5).clamp(0, 255).to(torch.uint8)


def _blurred(values: Tensor, sigma: Tensor) -> Tensor:
    """(B, H, W, 3) smoothed like OpenCV, each with its deviation (B,); unchanged for 0."""
    offset = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=values.device)
    taps = torch.floor(sigma * 8 + 1.5).long() | 1  # OpenCV's number of taps
    kernel = torch.exp(-offset.square() / (2 * sigma[:, None].clamp(min=1e-3).square()))
    kernel = kernel * (offset.abs() <= taps[:, None] // 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]
    planes = values.permute(0, 3, 1, 2)
    _, _, height, width = planes.shape
    wide = pad(planes, [BLUR_REACH] * 4, mode="reflect")
    wide = sum(kernel[:, k] * wide[:, :, k : k + height] for k in range(len(offset)))  # type: ignore[assignment]
    wide = sum(kernel[:, k] * wide[..., k : k + width] for k in range(len(offset)))  # type: ignore[assignment]
    return wide.permute(0, 2, 3, 1)


def _numbered(labels: Tensor, classes: Tensor, least_px: int) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (B, H, W) with the instances of at least `least_px` pixels numbered 1..K, at most the
    MAX_INSTANCES largest; their classes (B, MAX_INSTANCES), padded with -1; and where other
    instances are (B, H, W)."""
    n_pixels = labels[0].numel()
    flat = labels.flatten(1)
    beyond = MAX_IDS + 1 + torch.arange(n_pixels, device=labels.device) % SPREAD
    place = torch.where(
        flat > 0, flat, beyond
    )  # most pixels are background, whose additions would queue
    pixels = torch.zeros(len(flat), MAX_IDS + 1 + SPREAD, dtype=torch.int64, device=labels.device)
    pixels = pixels.scatter_add(1, place, torch.ones_like(flat))[:, : MAX_IDS + 1]
    least = pixels.topk(MAX_INSTANCES, 1).values[:, -1:].clamp(min=least_px)
    kept = pixels >= least
    number = kept.cumsum(1) * kept
    number = number * (number <= MAX_INSTANCES)  # ties in size may add more
    there = torch.where(number > 0, number - 1, MAX_INSTANCES)
    class_ids = torch.full((len(flat), MAX_INSTANCES + 1), -1, device=labels.device)
    class_ids = class_ids.scatter(1, there, classes)[:, :MAX_INSTANCES]
    own = number.gather(1, flat).view_as(labels)
    return own, class_ids, (labels > 0) & (own == 0)


def device_batches(
    views: ObjectViews,
    config: TrainConfig,
    first_step: int,
    rank: int,
    size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Like `data.training_batches`, for a dataset that is first copied to the device."""
    assert isinstance(views.dataset, Kept)
    data = resident(views.dataset, device)
    semantic = bool(semantic_names(views.dataset))
    generator = torch.Generator(device)  # only for the noise
    for step in count(first_step) if config.seconds else range(first_step, config.steps):
        indices = shown(config, step, rank, size)
        generator.manual_seed(config.seed * 1_000_003 + indices.start)
        drawn = draw(views, indices, device)
        yield make_batch(data, drawn, config, generator, semantic)
