"""Copies images to an NVIDIA GPU through pinned memory, in stripes."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.runtimes.recent import Recent

SLOTS = 2  # frames on their way to the GPU
STRIPES = 4  # per image: the GPU fetches the first while the host still copies the last


class Uploaded(NamedTuple):
    """Images that are being copied to the GPU."""

    pixels: Tensor  # (B, H, W, 3) uint8 on the GPU, once `arrived`
    arrived: Any  # torch.cuda.Event
    taken: Any  # torch.cuda.Event: the pixels have been read and may be overwritten

    def await_in_stream(self) -> Tensor:
        """The pixels, for work started on the current stream from now on."""
        stream = torch.cuda.current_stream(self.pixels.device)
        stream.wait_event(self.arrived)
        self.pixels.record_stream(stream)  # the allocator only knows the stream that fills them
        return self.pixels


class Uploads:
    """Copies images to a device; at most SLOTS of a shape may be waiting to be used."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots = Recent(lambda shape: _Slots(shape, device))
        self._lock = threading.Lock()

    @torch.inference_mode()  # whatever mode its callers are in: memory made in it is written again
    def start(self, images: NDArray[np.uint8], mirrored: bool = False) -> Uploaded:
        """Start to copy images (B, H, W, 3); they may change when this returns.

        mirrored: append their mirror images, made on the device, as (2 B, H, W, 3).
        """
        with self._lock, torch.cuda.device(self.device):
            return self._slots((*images.shape, 1 + mirrored)).start(images)


class _Slots:
    """Pinned and device memory for images of one shape, used in turn.

    shape: B, H, W, 3 and 1, or 2 if mirror images follow the images.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        *images, copies = shape
        self.stream = torch.cuda.Stream(device)
        self.pinned = [
            torch.empty(images, dtype=torch.uint8, pin_memory=True) for _ in range(SLOTS)
        ]
        with torch.cuda.stream(self.stream):  # earlier uses of this memory end on this stream
            self.slots = [
                Uploaded(
                    torch.empty(
                        (copies * images[0], *images[1:]), dtype=torch.uint8, device=device
                    ),
                    torch.cuda.Event(),
                    torch.cuda.Event(),
                )
                for _ in range(SLOTS)
            ]
        self.next = 0

    def start(self, images: NDArray[np.uint8]) -> Uploaded:
        slot, pinned = self.slots[self.next], self.pinned[self.next]
        self.next = (self.next + 1) % SLOTS
        slot.arrived.synchronize()  # until then this pinned memory is being read
        batch, height = images.shape[:2]
        stripe = max(1, height // STRIPES)
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(slot.taken)
            source = torch.from_numpy(np.ascontiguousarray(images))
            for top in range(0, height, stripe):
                rows = slice(top, top + stripe)
                for image in range(batch):
                    pinned[image, rows].copy_(source[image, rows])
                    slot.pixels[image, rows].copy_(pinned[image, rows], non_blocking=True)
            if len(slot.pixels) > batch:
                slot.pixels[batch:] = slot.pixels[:batch].flip(2)
            slot.arrived.record()
        return slot
