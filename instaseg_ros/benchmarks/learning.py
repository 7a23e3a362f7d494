"""Measures `instaseg label --learn`: `python -m instaseg_ros.benchmarks.learning DATA -o FOLDER`.

The simulated annotator of `benchmarks.clicks` labels ten frames of the split `train`, from what the
network proposes, with clicks, wheel and brush. After five and after ten of them the weights learn,
as they do behind the page. Printed are the clicks that objects of other frames (`val`) need with
the weights of each stage, and the AP there after training on ten frames with the annotator's masks,
beside that after ten frames of the truth. What is done stays in FOLDER, where a killed run goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instaseg_ros.benchmarks.clicks import (
    STARTS,
    TARGETS,
    count,
    looked_at,
    masks_to,
    proposal_for,
    table,
)
from instaseg_ros.datasets import Dataset, Sample, open_dataset, spread
from instaseg_ros.errors import InstasegError
from instaseg_ros.files import write_whole
from instaseg_ros.labelling.editing import CLICK, GIVEN, Drawing, Object
from instaseg_ros.labelling.frames import Origin
from instaseg_ros.labelling.label_image_store import LabelImageStore
from instaseg_ros.labelling.learning import EVERY, Learner
from instaseg_ros.labelling.trial import DATA, Result, Settings
from instaseg_ros.pipeline import Pipeline
from instaseg_ros.tables import text_table

FRAMES = 2 * EVERY
ANNOTATOR = STARTS[-1]
COUNTED = (STARTS[1], ANNOTATOR)


def annotated(pipeline: Pipeline, sample: Sample, target: float) -> Drawing:
    """A frame as the annotator leaves it: each object has its IoU, or as much as MOST_CLICKS
    bring."""
    seeds, proposed = looked_at(pipeline, sample)
    labels, objects = np.zeros_like(sample.labels), {}
    for number, class_id in zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True):
        truth = np.asarray(sample.labels == number)
        own = proposal_for(truth, proposed)
        _, mask = masks_to(seeds, truth, own, ANNOTATOR)[target]
        labels[mask & (labels == 0)] = number
        objects[number] = Object(class_id, CLICK)
    return Drawing(labels, objects, _ignored(sample))


def true(sample: Sample) -> Drawing:
    """A frame with its truth."""
    pairs = zip(sample.ids.tolist(), sample.class_ids.tolist(), strict=True)
    objects = {number: Object(class_id, GIVEN) for number, class_id in pairs}
    return Drawing(sample.labels.copy(), objects, _ignored(sample))


def _ignored(sample: Sample) -> np.ndarray | None:
    masks = [sample.ignore, None if sample.crowd is None else sample.crowd > 0]
    there = [mask for mask in masks if mask is not None]
    return np.logical_or.reduce(there) if there else None


def save(store: LabelImageStore, drawings: Sequence[Drawing], samples: Sequence[Sample]) -> None:
    """Add frames to a dataset."""
    there = len(store.objects())
    for number, (drawing, sample) in enumerate(zip(drawings, samples, strict=True), there):
        store.save(number, sample.frame, Origin(f"frame {number}"), drawing)


def learned(
    folder: Path, settings: Settings, samples: Sequence[Sample], names: Sequence[str]
) -> list[str]:
    """The weights after each EVERY frames that are labelled with the weights until then."""
    stages = [settings.start]
    store = LabelImageStore(folder, names)
    try:
        learner = Learner(store, settings, lambda: None)
        for first in range(0, len(samples), EVERY):
            part = samples[first : first + EVERY]
            kept = folder.with_name(f"{folder.name}_{first + len(part)}.safetensors")
            if len(store.objects()) <= first:
                pipeline = Pipeline(settings.config(learner.weights))
                drawings = [annotated(pipeline, one, TARGETS[0]) for one in part]
                save(store, drawings, part)
            if not kept.is_file() and learner.attempt():
                print(f"after {first + len(part)} frames: {learner.line}", flush=True)
                if learner.weights != settings.start:
                    write_whole(kept, Path(learner.weights).read_bytes())
            stages.append(str(kept.resolve()) if kept.is_file() else stages[-1])
    finally:
        store.close()
    return stages


def trained(
    folder: Path,
    settings: Settings,
    drawings: Sequence[Drawing],
    samples: Sequence[Sample],
    others: Sequence[Sample],
    names: Sequence[str],
) -> Result:
    """What training on some frames brings on others."""
    trial = folder / "trial"
    if not trial.is_dir():
        store = LabelImageStore(folder / "mine", names)
        save(store, [*drawings, *map(true, others)], [*samples, *others])
        known = [*store.objects()]
        part = folder / "part"
        part.mkdir()
        parts = {"train": known[: len(samples)], "val": known[len(samples) :]}
        store.copy(part / DATA, parts)
        store.close()
        settings.write(part)
        part.rename(trial)
    if Result.read(trial) is None:
        command = [sys.executable, "-m", "instaseg_ros.labelling.trial", str(trial)]
        with (
            (trial / "output.txt").open("ab") as output,
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=output) as process,
        ):
            process.wait()
    result = Result.read(trial)
    if result is None:
        raise InstasegError(f"no result: see {trial / 'output.txt'}")
    return result


def samples_of(dataset: Dataset, frames: int) -> list[Sample]:
    """Frames with objects, evenly spread."""
    found = [dataset[index] for index in spread(len(dataset), frames)]
    if not all(len(sample.ids) for sample in found):
        raise InstasegError("expected frames with objects: choose another number of frames")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="`synthetic`, or a dataset with the splits train and val")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--weights", default="street-synthetic-lite")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each training")
    parser.add_argument("--limit", type=int, default=6, help="frames on which clicks are counted")
    parser.add_argument("--ap-frames", type=int, default=20, help="frames of the AP")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    settings = Settings(args.weights, 60 * args.minutes)
    dataset = open_dataset(args.data, "train")
    samples, names = samples_of(dataset, FRAMES), dataset.class_names

    stages = learned(args.output / "learn", settings, samples, names)
    for labelled, weights in zip(range(0, FRAMES + 1, EVERY), stages, strict=True):
        kept = args.output / f"clicks_{labelled}.txt"
        if not kept.is_file():
            pipeline = Pipeline(settings.config(weights))
            objects = [*count(pipeline, args.data, "val", args.limit, COUNTED)]
            write_whole(kept, f"{len(objects)} objects\n{table(objects, COUNTED)}\n".encode())
        print(f"\nwith the weights after {labelled} frames: {kept.read_text()}", flush=True)

    validation = open_dataset(args.data, "val")
    others = samples_of(validation, args.ap_frames)
    pipeline = Pipeline(settings.config(args.weights))
    rows = []
    for what, target in (("the truth", None), *((f"IoU {one:.2f}", one) for one in TARGETS)):
        folder = args.output / ("truth" if target is None else f"masks_{100 * target:.0f}")
        folder.mkdir(exist_ok=True)
        drawings = []
        if not (folder / "trial").is_dir():
            drawings = [annotated(pipeline, s, target) if target else true(s) for s in samples]
        found = trained(folder, settings, drawings, samples, others, names)
        rows.append((what, found.new_ap, found.new_ap50, found.old_ap50, found.step))
        print(json.dumps({"masks": what, **found._asdict()}), flush=True)
    titles = ("ten frames with masks of", "AP", "AP50", "AP50 before", "steps")
    print(f"\n{text_table(titles, rows, ('', '.3f', '.3f', '.3f', 'd'))}")


if __name__ == "__main__":
    main()
