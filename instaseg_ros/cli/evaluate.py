"""`instaseg evaluate DATA`: measure weights on a dataset or on recordings, and show where accuracy
is lost."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instaseg_ros.cli import BEYOND_LIMIT, add_config_options, config_from, size_from
from instaseg_ros.errors import ConfigError, require
from instaseg_ros.samples import STREET_LEAST_PX, SYNTHETIC

if TYPE_CHECKING:
    from instaseg_ros.datasets import Dataset
    from instaseg_ros.evaluation.limits import Checked

SYNTHETIC_FRAMES, SYNTHETIC_SIZE = 200, "512x1024"
SYNTHETIC_TRACKED = 20  # frames per sequence with --tracking: two seconds

log = logging.getLogger(__name__)


def add_data_options(parser: argparse.ArgumentParser, recordings: bool = False) -> None:
    """What is labelled and counted; `check_data` and `dataset_from` read it. recordings: several
    of them may be given."""
    if recordings:
        parser.add_argument(
            "data",
            metavar="DATA",
            nargs="+",
            help="`synthetic`, the path of a dataset, or one or more recordings with truth",
        )
    else:
        parser.add_argument("data", metavar="DATA", help="`synthetic`, or the path of a dataset")
    parser.add_argument(
        "--split",
        default=None if recordings else "val",
        help="a split of the dataset (default: val); if it has none, val is the part that training "
        "holds out, and `all` is everything" + (" (default for recordings)" * recordings),
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="use at most this many frames, spread over the dataset; synthetic: four of each "
        f"sequence, default {SYNTHETIC_FRAMES}",
    )
    parser.add_argument(
        "--size", metavar="HxW", help=f"size of synthetic frames, default {SYNTHETIC_SIZE}"
    )
    parser.add_argument(
        "--min-pixels",
        type=float,
        metavar="PX",
        help="leave out smaller true objects; default: on streets 100 pixels of a 1024x2048 frame, "
        f"scaled to the frame's size (synthetic: {STREET_LEAST_PX}), otherwise none",
    )


EXAMPLES = """
instaseg evaluate synthetic
instaseg evaluate cityscapes/ --weights mine.safetensors --report report/ --worst 20
instaseg evaluate synthetic --tracking --fail-under ap50=0.8,id_switches=5
instaseg evaluate drives/*.mcap -o runs/monday      # recordings, with rows to query
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data_options(parser, recordings=True)
    add_recording_options(parser)
    parser.add_argument(
        "--coco", action="store_true", help="also compute COCO's mask AP (extra `coco`)"
    )
    parser.add_argument(
        "--tracking",
        action="store_true",
        help="follow objects through the dataset's sequences: HOTA, MOTSA, id switches; "
        f"--frames are the first, synthetic: {SYNTHETIC_TRACKED} of each sequence",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the numbers to this file"
    )
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write a report to DIR/report.html"
    )
    parser.add_argument(
        "--worst",
        type=int,
        default=0,
        metavar="N",
        help="save the N frames that cost the most AP in the report's folder; of recordings: list "
        "the N worst moments in the report",
    )
    parser.add_argument(
        "--fail-under",
        metavar="NAME=NUMBER,...",
        help=f"exit with code {BEYOND_LIMIT} unless each of these numbers is at least so high "
        "(ap50, pq, HOTA) or at most so high (p99_ms, dropped, id_switches); an unknown name lists "
        "or hints at the known ones",
    )
    add_config_options(parser)


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recordings")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="RUN",
        help="keep the numbers, and rows for `instaseg query`, in this folder; recordings that are "
        "in it already are not done again (extra `query`)",
    )
    group.add_argument(
        "--truth",
        nargs="+",
        metavar="REC",
        help="the recordings that have the truth, one for each; default: the same",
    )
    group.add_argument(
        "--tolerance-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="how far the stamps of image and truth may be apart (default: equal)",
    )
    group.add_argument(
        "--predictions",
        nargs="+",
        metavar="REC",
        help="labelled recordings, one for each: what a robot said, instead of results made now",
    )
    group.add_argument(
        "--labels", metavar="TOPIC", help="of --predictions, where several cameras were labelled"
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="evaluate by N processes, each with a GPU or cores of its own (extra `scale`); "
        "default: by this one, on a cluster by one for each GPU",
    )
    group.add_argument(
        "--ray", metavar="ADDRESS", help="on the Ray cluster at this address, or at `auto`"
    )
    group.add_argument("--topic", help="image topic, for recordings that have several")
    group.add_argument(
        "--depth", metavar="TOPIC", help="depth images, for numbers by the distance of objects"
    )


def run(args: argparse.Namespace) -> int:
    from instaseg_ros.evaluation.limits import check_limits, parse_limits

    limits = parse_limits(args.fail_under, args.tracking) if args.fail_under is not None else []
    if _are_recordings(args):
        _check(args)
        from instaseg_ros.cli.evaluate_recordings import run_recordings

        return exit_code_of(*run_recordings(args, limits))
    args.data, args.split = args.data[0], args.split or "val"
    _check(args)
    from tqdm import tqdm

    from instaseg_ros.config import merge
    from instaseg_ros.contract import plain_json, written
    from instaseg_ros.datasets import spread
    from instaseg_ros.evaluation.metrics.tracking import tracking_line
    from instaseg_ros.evaluation.report.build import PAGE, write_report
    from instaseg_ros.evaluation.run import evaluate, match_classes, numbers, summary_of
    from instaseg_ros.evaluation.summary import table
    from instaseg_ros.files import OutputFile
    from instaseg_ros.pipeline import Pipeline

    dataset = dataset_from(args, args.tracking)
    config = config_from(args)
    if args.tracking:
        config = merge(config, {"tracking.enabled": True})
    json = OutputFile(args.json, overwrite=True) if args.json else None
    report = None
    if args.report:
        for package in ("matplotlib.figure", "jinja2"):
            require(package, "plots", "the report")
        report = OutputFile(args.report, overwrite=True, marker=PAGE)
    pipeline = Pipeline(config)
    for remark in match_classes(dataset.class_names, pipeline.class_names).remarks:
        log.warning("%s", remark)
    wanted = args.frames or len(dataset)
    indices = list(range(len(dataset)))[:wanted] if args.tracking else spread(len(dataset), wanted)
    shown = tqdm(indices, unit="frame", disable=None)
    keep = report is not None
    found = evaluate(pipeline, dataset, shown, args.min_pixels, args.coco, args.tracking, keep)
    summary = summary_of(found)
    print(table(summary))
    if args.coco:
        print("COCO: " + ", ".join(f"{name} {v:.3f}" for name, v in summary["coco"].items()))
    if args.tracking:
        print(tracking_line(summary["tracking"]))
    facts = {
        **written("evaluation"),
        "data": args.data,
        "split": args.split,
        **numbers(found, summary, pipeline),
    }
    print(f"{facts['ms_per_frame']:.1f} ms per frame, {facts['images']} frames")
    if json:
        json.part.write_text(plain_json(facts), encoding="utf-8")
        json.commit()
    if report:
        where = args.data if args.data == SYNTHETIC else Path(args.data).resolve().name
        title = f"{where}, {args.split}: AP {summary['ap']:.3f}"
        write_report(found, summary, pipeline, title, report, args.worst)
        print(f"report: {args.report / PAGE}")
    return exit_code_of(check_limits(limits, facts))


def exit_code_of(checked: Sequence[Checked], incomplete: bool = False) -> int:
    """Says which limits of --fail-under are broken. incomplete: some recordings were not evaluated,
    of which the limits tell nothing, whether kept or broken."""
    for one in checked:
        if not one.kept:
            print(f"--fail-under: {one}", file=sys.stderr)
    if incomplete:
        return 1
    return 0 if all(one.kept for one in checked) else BEYOND_LIMIT


def _are_recordings(args: argparse.Namespace) -> bool:
    """Whether the data are recordings. Raises ConfigError for options that do not fit the data."""
    from instaseg_ros.datasets import RECORDING, kind_of
    from instaseg_ros.fleet.remote import is_url

    kinds = {
        data: SYNTHETIC
        if data == SYNTHETIC
        else RECORDING
        if is_url(data)
        else kind_of(Path(data)).name
        for data in args.data
    }
    others = [data for data, kind in kinds.items() if kind != RECORDING]
    if not others:
        return True
    if len(args.data) > 1:
        raise ConfigError(
            f"several of DATA: expected recordings only, got {others[0]} ({kinds[others[0]]})"
        )
    options = {
        "--output": args.output,
        "--truth": args.truth,
        "--tolerance-ms": args.tolerance_ms,
        "--predictions": args.predictions,
        "--labels": args.labels,
        "--topic": args.topic,
        "--depth": args.depth,
        "--workers": args.workers,
        "--ray": args.ray,
    }
    if given := [option for option, value in options.items() if value]:
        raise ConfigError(
            f"{', '.join(given)}: for recordings, which {others[0]} is not ({kinds[others[0]]})"
        )
    return False


def check_data(args: argparse.Namespace) -> None:
    if args.frames is not None and args.frames < 1:
        raise ConfigError(f"--frames: expected at least 1, got {args.frames}")
    if args.size and args.data != SYNTHETIC:
        raise ConfigError(
            "--size is for synthetic frames; for a dataset, set input.height and input.width"
        )


def _check(args: argparse.Namespace) -> None:
    check_data(args)
    if args.worst < 0:
        raise ConfigError(f"--worst: expected at least 0, got {args.worst}")
    if args.worst and not args.report:
        raise ConfigError("--worst: choose a folder for the pictures with --report DIR")
    if args.coco:
        from instaseg_ros.evaluation.metrics.coco import require_pycocotools

        require_pycocotools()


def dataset_from(args: argparse.Namespace, tracking: bool = False) -> Dataset:
    from instaseg_ros.datasets import Sequences, kind_name, open_dataset
    from instaseg_ros.synthetic_street import held_out_street

    if args.data != SYNTHETIC:
        dataset = open_dataset(args.data, args.split)
        if tracking and not isinstance(dataset, Sequences):
            raise ConfigError(
                f"--tracking: expected a dataset of sequences in which ids last (synthetic, KITTI "
                f"MOTS, a recording), got {args.data}: {kind_name(dataset)}, single images"
            )
        return dataset
    if args.split != "val":
        raise ConfigError(f"--split: the synthetic street has only val, got {args.split}")
    size = size_from(args.size or SYNTHETIC_SIZE)
    frames = args.frames or SYNTHETIC_FRAMES
    if tracking:
        return held_out_street(frames, size, SYNTHETIC_TRACKED)
    return held_out_street(frames, size)
