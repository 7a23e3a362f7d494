"""Offers the generator as a dataset: held-out sequences, and endless training frames."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from instaseg_ros.errors import InputError
from instaseg_ros.frames import Frame
from instaseg_ros.samples import STREET_LEAST_PX, Sample, present_ids
from instaseg_ros.synthetic_street.camera import Camera
from instaseg_ros.synthetic_street.render import render
from instaseg_ros.synthetic_street.scene import Scene, make_scene
from instaseg_ros.synthetic_street.traffic import CLASS_NAMES

_SPLITS = {"train": 1, "val": 2}
_FRAME_RATE_HZ = 10
_scene = lru_cache(maxsize=4)(make_scene)  # of the sequence being read


class SyntheticStreet:
    """Seeded driving sequences.

    size: (H, W) pixels of a frame. Frame `i` is frame i % frames_per_sequence of sequence i //
    frames_per_sequence. Splits never share a seed. Equal arguments give equal samples.

    variation: streets with far more variation of surfaces, shapes, clutter and crowds, to learn for
    real ones; training frames then also vary in focal length, and most show an object.
    """

    class_names: tuple[str, ...] = CLASS_NAMES
    least_px = STREET_LEAST_PX  # for any size

    def __init__(
        self,
        size: tuple[int, int] = (256, 512),
        *,
        split: str = "train",
        sequences: int = 20,
        frames_per_sequence: int = 60,
        seed: int = 0,
        depth: bool = True,
        variation: bool = False,
    ) -> None:
        if split not in _SPLITS:
            raise InputError(f"split: expected one of {', '.join(_SPLITS)}, got {split!r}")
        if min(*size, sequences, frames_per_sequence) < 1:
            raise InputError(
                "size, sequences and frames_per_sequence must be positive, got "
                f"{size}, {sequences}, {frames_per_sequence}"
            )
        self.size, self.sequences, self.frames_per_sequence = size, sequences, frames_per_sequence
        self._key, self._depth = (_SPLITS[split], seed), depth
        self._variation = variation

    def __len__(self) -> int:
        return self.sequences * self.frames_per_sequence

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        scene, step = self._scene_of(index)
        return self._sample(scene, step, Camera.of_size(*self.size))

    def middles(self, index: int) -> dict[int, np.ndarray]:
        """Where the middle of each whole object of a frame is, by label, also of hidden ones: (3,)
        float64 metres in the camera's optical frame. It is that of a box around the object."""
        scene, step = self._scene_of(index)
        time_s = step / _FRAME_RATE_HZ
        from_world = np.linalg.inv(scene.pose(time_s))
        found = {}
        for label, thing in enumerate(scene.things, 1):
            corners = thing.mesh(time_s, 0.0).vertices.reshape(-1, 3)
            middle = (corners.min(0) + corners.max(0)) / 2
            x, z = thing.position(time_s)
            c, s = math.cos(thing.yaw), math.sin(thing.yaw)
            world = np.array(
                [
                    c * middle[0] + s * middle[2] + x,
                    -(middle[1] + thing.base),
                    c * middle[2] - s * middle[0] + z,
                ]
            )
            found[label] = from_world[:3, :3] @ world + from_world[:3, 3]
        return found

    def training_sample(self, rng: np.random.Generator, rows: int | None = None) -> Sample:
        """A frame of `size` from a new scene: half the time the whole view, else a window of the
        view at twice the resolution, either zoomed by 0.8 to 1.3.

        rows: render only this many of its rows, around the horizon.
        """
        return self.training_clip(rng, 1, rows)[0]

    def training_clip(
        self, rng: np.random.Generator, frames: int, rows: int | None = None
    ) -> list[Sample]:
        """`frames` consecutive frames of one scene and window; see `training_sample`."""
        height, width = self.size
        seed = (*self._key, 1, int(rng.integers(2**62)))
        scene = make_scene(seed, (frames - 1) / _FRAME_RATE_HZ, self._variation)
        if self._variation:
            camera = _varied_camera(scene, (rows or height, width), rng)
            return [self._sample(scene, step, camera) for step in range(frames)]
        zoom = float(np.exp(rng.uniform(np.log(0.8), np.log(1.3))))
        if rng.random() < 0.5:
            whole, spare = Camera.of_size(height, width), 1 - 1 / zoom
            camera = whole.window(
                height * spare * rng.uniform(0.3, 0.7),
                width * spare * rng.random(),
                height,
                width,
                zoom,
            )
        else:
            whole, part = Camera.of_size(2 * height, 2 * width), 1 / zoom
            top = rng.uniform(0.25, 0.75) * (2 - part) * height
            camera = whole.window(top, rng.random() * (2 - part) * width, height, width, zoom)
        if rows is not None and rows < height:
            above = camera.cy - rows * rng.uniform(0.3, 0.7)
            camera = camera.window(min(max(0.0, above), height - rows), 0.0, rows, width)
        return [self._sample(scene, step, camera) for step in range(frames)]

    def files(self, index: int) -> tuple[Path, ...]:
        return ()

    def sequence(self, index: int) -> str:
        return f"{index // self.frames_per_sequence:04d}"

    def _scene_of(self, index: int) -> tuple[Scene, int]:
        """The scene of a frame, and the number of the frame in it."""
        sequence, step = divmod(index, self.frames_per_sequence)
        duration_s = self.frames_per_sequence / _FRAME_RATE_HZ
        return _scene((*self._key, 0, sequence), duration_s, self._variation), step

    def _sample(self, scene: Scene, step: int, camera: Camera) -> Sample:
        time_s = step / _FRAME_RATE_HZ
        view = render(scene, time_s, camera, grain_seed=len(scene.things))
        ids = present_ids(view.labels)
        class_of = np.array([0, *(thing.class_id for thing in scene.things)], np.int64)
        frame = Frame(
            image=view.image,
            stamp_ns=step * 1_000_000_000 // _FRAME_RATE_HZ,
            frame_id="camera",
            depth=view.depth if self._depth else None,
            intrinsics=camera.matrix,
        )
        return Sample(frame, view.labels, ids, class_of[ids], view.ignore, scene.pose(time_s))


def _varied_camera(scene: Scene, size: tuple[int, int], rng: np.random.Generator) -> Camera:
    """A camera of 0.5 to 5 window widths of focal length whose window (H, W) shows an object, or
    in a fifth of the cases any place around the horizon."""
    height, width = size
    focal = width * float(np.exp(rng.uniform(np.log(0.5), np.log(5.0))))
    aspect = float(np.exp(rng.normal(0, 0.04)))
    x, y = rng.uniform(-0.35, 0.35), rng.uniform(-0.08, 0.12)  # as a tangent
    if rng.random() < 0.8:
        pose = scene.pose(0.0)
        places = np.array([(t.x, -1.0, t.z) for t in scene.things]).reshape(-1, 3) - pose[:3, 3]
        across, down, ahead = (places @ pose[:3, :3]).T
        least = max(4.0, 2 + 2.5 * focal / width)  # nearer ones fill the window
        near = (ahead > least) & (ahead < 45) & (np.abs(across) < 0.8 * ahead)
        if near.any():
            chosen = int(rng.choice(np.flatnonzero(near)))
            x, y = across[chosen] / ahead[chosen], down[chosen] / ahead[chosen]
    left, top = rng.uniform(0.15, 0.85) * width, rng.uniform(0.25, 0.75) * height
    fx, fy = focal * float(rng.choice([-1, 1])), focal * aspect  # half of the frames are mirrored
    return Camera(height, width, fx, fy, left - x * fx, top - y * fy)


def held_out_street(
    frames: int, size: tuple[int, int], per_sequence: int = 4, depth: bool = False
) -> SyntheticStreet:
    """Held-out sequences with at least `frames` frames of `size` (H, W), `per_sequence` of each."""
    return SyntheticStreet(
        size=size,
        split="val",
        sequences=-(-frames // per_sequence),
        frames_per_sequence=per_sequence,
        depth=depth,
    )
