"""`python -m instaseg_ros.synthetic_street OUT`: write a sequence, by default the demo's."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from instaseg_ros.errors import InstasegError
from instaseg_ros.synthetic_street.dataset import SyntheticStreet
from instaseg_ros.synthetic_street.export import write_bag, write_png_folder

DEMO_SEQUENCE = 98  # all five classes, by day


def main() -> int:
    parser = argparse.ArgumentParser(prog="synthetic_street", description=__doc__)
    parser.add_argument("out", type=Path, help="a .mcap file, or a folder for PNG files")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--split", default="val", help="train or val")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sequence", type=int, default=DEMO_SEQUENCE)
    parser.add_argument("--frames", type=int, default=60, help="frames of the sequence, at 10 Hz")
    parser.add_argument(
        "--jpeg", type=int, default=70, help="JPEG quality in a bag; 0: raw images, with depth"
    )
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    try:
        street = SyntheticStreet(
            tuple(args.size),
            split=args.split,
            seed=args.seed,
            sequences=args.sequence + 1,
            frames_per_sequence=args.frames,
        )
        frames = range(args.sequence * args.frames, (args.sequence + 1) * args.frames)
        if args.out.suffix == ".mcap":
            write_bag(street, args.out, frames, args.jpeg or None, args.overwrite)
        else:
            write_png_folder(street, args.out, frames, args.overwrite)
    except (InstasegError, OSError) as error:
        print(f"synthetic_street: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
