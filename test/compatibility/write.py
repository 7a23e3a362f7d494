"""Writes the files that this version's users have:

    python test/compatibility/write.py

makes test/compatibility/VERSION/, again and again until the changelog has that version; from then
on it is never changed. `test_compatibility.py` reads those of every version.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "helpers"), str(HERE.parent / "project")]

from compatible import SETTINGS, headers, interface, kept_parameters, small_profiles  # noqa: E402
from dataset_layouts import street_samples, write_label_images  # noqa: E402
from fleet_runs import write_hand_run  # noqa: E402
from small_networks import untrained_checkpoint  # noqa: E402
from test_combinations import PICTURES, contrasted  # noqa: E402

from instaseg_ros import __version__, cli  # noqa: E402
from instaseg_ros.checkpoint import Checkpoint, save_checkpoint  # noqa: E402
from instaseg_ros.recordings.bags import BagWriter  # noqa: E402
from instaseg_ros.recordings.message_types import make_header  # noqa: E402
from instaseg_ros.recordings.result_messages import overlay_message  # noqa: E402


def main() -> None:
    folder = HERE / __version__
    if folder.exists():
        changelog = (HERE.parents[1] / "CHANGELOG.rst").read_text(encoding="utf-8")
        if re.search(rf"^{re.escape(__version__)}\b", changelog, re.MULTILINE):
            sys.exit(f"{__version__} is released: its files are never changed")
        shutil.rmtree(folder)
    folder.mkdir()
    os.chdir(folder)  # results name their inputs
    with small_profiles():
        save_checkpoint(weights(), "weights.safetensors", torch.float16)
        Path("headers.json").write_text(json.dumps(headers(), indent=1) + "\n")
        Path("interface.json").write_text(json.dumps(interface(), indent=1) + "\n")
        Path("parameters.yaml").write_text(kept_parameters())
        cv2.imwrite("image.png", PICTURES[0][..., ::-1])
        pack()
        options = ["--weights", "weights.safetensors", *SETTINGS]
        run("evaluate", "packed", "--json", "evaluation.json", *options)
        label(PICTURES[0], options)
    write_hand_run(Path("rows"))


def weights() -> Checkpoint:
    """A network that finds something in the pictures, of few different numbers, so that it takes
    little room in the repository."""
    made = untrained_checkpoint("small", ("person", "rider", "car"))
    tensors = {}
    for name, tensor in made.tensors.items():
        if tensor.ndim == 4:
            step = tensor.std() * 1.2
            tensor = (tensor / step).trunc().clamp(-1, 1) * 2 * step
        tensors[name] = tensor
    notes = {"licence": "Apache-2.0", "made": "by chance, for a test"}
    decode = {"seed_threshold": 0.5, "foreground_threshold": 0.5, "min_pixels": 12}
    return replace(contrasted(replace(made, tensors=tensors)), decode=decode, notes=notes)


def pack() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        samples = street_samples(4)
        write_label_images(Path(scratch), samples[:2], "train")
        write_label_images(Path(scratch), samples[2:], "val")
        run("pack", scratch, "packed")


def label(picture: np.ndarray, options: list[str]) -> None:
    """labelled.mcap and labels/, as `replay` writes them of one image."""
    with tempfile.TemporaryDirectory() as scratch:
        bag = Path(scratch, "in.mcap")
        writer = BagWriter(bag)
        writer.add_topic("/image", "sensor_msgs/msg/Image")
        header = make_header(12_000_000_000, "camera")
        writer.write("/image", overlay_message(writer.msgs, header, picture), 12_000_000_000)
        writer.close()
        for output in ("labelled.mcap", "labels"):
            run("replay", str(bag), "-o", output, *options)


def run(*words: str) -> None:
    if cli.main(words):
        sys.exit(f"failed: {' '.join(words)}")


if __name__ == "__main__":
    main()
