"""Images on their way to an NVIDIA GPU, while it still works on those before."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from instaseg_ros.runtimes.recent import Recent

SLOTS = 2  # frames on their way to the GPU
STRIPES = 4  # of an image: the GPU fetches the first while the host still copies the last


class Uploaded(NamedTuple):
    """Images on their way to the GPU."""

    pixels: Tensor  # (B, H, W, 3) uint8 on the GPU, once `arrived`
    arrived: Any  # torch.cuda.Event
    taken: Any  # torch.cuda.Event: the pixels have been read, and may be overwritten

    def await_in_stream(self) -> Tensor:
        """The pixels, for work that is started on the current stream from now on."""
        stream = torch.cuda.current_stream(self.pixels.device)
        stream.wait_event(self.arrived)
        self.pixels.record_stream(stream)  # the allocator knows the stream that fills them alone
        return self.pixels


class Uploads:
    """Brings images to a device; at most SLOTS of a shape may be waiting to be used."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots = Recent(lambda shape: _Slots(shape, device))
        self._lock = threading.Lock()

    def start(self, images: NDArray[np.uint8], mirrored: bool = False) -> Uploaded:
        """Start to bring images (B, H, W, 3); they may change when this returns.

        mirrored: and their mirror images, as (2 B, H, W, 3), which are made there.
        """
        with self._lock, torch.cuda.device(self.device):
            return self._slots((*images.shape, 1 + mirrored)).start(images)


class _Slots:
    """Pinned and device memory for images of one shape, used in turn.

    shape: B, H, W, 3 and 1, or 2 where the mirror images lie behind the images.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        *images, copies = shape
        self.stream = torch.cuda.Stream(device)
        self.pinned = [
            torch.empty(images, dtype=torch.uint8, pin_memory=True) for _ in range(SLOTS)
        ]
        with torch.cuda.stream(self.stream):  # what lay there before is done with on this one
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
        slot.arrived.synchronize()  # else this pinned memory is still being read
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
