#!/usr/bin/env python3
r"""Makes a small animated WebP of a video, such as docs/street.webp:

instaseg replay instaseg_ros/demo_data/street.mcap -o street.mp4 --set tracking.enabled=true \
    --set input.scale=0.5
python tools/animation.py street.mp4 docs/street.webp
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=800, help="pixels")
    parser.add_argument("--crop", type=float, default=0.85, help="share of the rows, from the top")
    parser.add_argument("--quality", type=int, default=50, help="0 to 100")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second")
    args = parser.parse_args()
    animation = cv2.Animation()
    animation.frames = [smaller(frame, args.width, args.crop) for frame in frames_of(args.video)]
    animation.durations = [round(1000 / args.rate)] * len(animation.frames)
    cv2.imwriteanimation(str(args.out), animation, [cv2.IMWRITE_WEBP_QUALITY, args.quality])
    print(f"{args.out}: {len(animation.frames)} frames, {args.out.stat().st_size / 1e6:.2f} MB")


def frames_of(video: Path) -> Iterator[np.ndarray]:
    """(H, W, 3) uint8 BGR."""
    capture = cv2.VideoCapture(str(video))
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def smaller(frame: np.ndarray, width: int, crop: float) -> np.ndarray:
    kept = frame[: round(frame.shape[0] * crop)]
    height = round(kept.shape[0] * width / kept.shape[1])
    return cv2.resize(kept, (width, height), interpolation=cv2.INTER_AREA)


if __name__ == "__main__":
    main()
