"""`instaseg evaluate RECORDING...`: results made now, or what a robot said, against the truth."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import instaseg_ros
from instaseg_ros.cli import config_from
from instaseg_ros.contract import plain_json
from instaseg_ros.errors import ConfigError, require

if TYPE_CHECKING:
    from instaseg_ros.evaluation.limits import Checked, Limit
    from instaseg_ros.files import OutputFile
    from instaseg_ros.fleet.evaluation import Crew, Keeping, Outcome
    from instaseg_ros.fleet.source import Source
    from instaseg_ros.fleet.work import Recipe

MINUTES_SHOWN = 10  # the worst

log = logging.getLogger(__name__)


def run_recordings(args: argparse.Namespace, limits: list[Limit]) -> tuple[list[Checked], bool]:
    """Runs the command, and compares its numbers with the limits; whether it is incomplete, as some
    recordings are broken."""
    _check(args)
    from instaseg_ros.evaluation.limits import check_limits
    from instaseg_ros.evaluation.report.build import PAGE
    from instaseg_ros.files import OutputFile, write_whole
    from instaseg_ros.fleet.evaluation import Keeping

    sources = _sources(args)
    json = OutputFile(args.json, overwrite=True) if args.json else None
    report = report_output(args.report, PAGE) if args.report else None
    args.output = args.output or args.report  # a report is made of rows
    recipe = None if args.predictions else _recipe(args)
    settings = _settings(args, recipe)
    keeping = Keeping(args.min_pixels, args.coco, args.tracking)
    outcome = _evaluated(args, sources, recipe, settings, keeping)
    numbers = _numbers(outcome, settings, args)
    _print(numbers)
    text = plain_json(numbers).encode()
    if args.output:
        from instaseg_ros.fleet.folder import SUMMARY

        write_whole(args.output / SUMMARY, text)
        print(f"{args.output}: {SUMMARY}, and rows for `instaseg query`")
    if json:
        json.part.write_bytes(text)
        json.commit()
    checked = check_limits(limits, numbers)
    if report:
        _write_report(args, outcome, numbers, recipe, checked, report)
    if outcome.broken:
        count = f"{len(outcome.broken)} of {len(sources)} recordings"
        more = ", nor held to the limits" if limits else ""
        print(f"not evaluated: {count}{more}", file=sys.stderr)
        for name, error in outcome.broken.items():
            print(f"  {name}: {error}", file=sys.stderr)
    return checked, bool(outcome.broken)


def _check(args: argparse.Namespace) -> None:
    for option, given in (("--truth", args.truth), ("--predictions", args.predictions)):
        if given and len(given) != len(args.data):
            raise ConfigError(
                f"{option}: expected one for each of the {len(args.data)} recordings, got "
                f"{len(given)}"
            )
    if not args.tolerance_ms >= 0:
        raise ConfigError(f"--tolerance-ms: expected at least 0, got {args.tolerance_ms}")
    if args.labels and not args.predictions:
        raise ConfigError("--labels: names a topic of --predictions, which are not given")
    if args.predictions and (args.weights or args.set or args.config):
        raise ConfigError("--predictions: were made before; --weights, --set and --config say how")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers: expected at least 1, got {args.workers}")
    for option, folder in (("-o", args.output), ("--report", args.report)):
        if folder and re.match("[a-z][a-z0-9+.-]*:/", str(folder)):
            raise ConfigError(f"{option}: expected a folder of this machine, got {folder}")
    if args.output or args.report:
        require("duckdb", "query", "rows that can be queried")
    if args.report:
        for package in ("matplotlib.figure", "jinja2"):
            require(package, "plots", "the report")


def _sources(args: argparse.Namespace) -> list[Source]:
    from instaseg_ros.datasets import ALL
    from instaseg_ros.datasets.parts import TRAIN, VAL
    from instaseg_ros.datasets.reading import unknown_split
    from instaseg_ros.fleet.remote import place_of
    from instaseg_ros.fleet.source import Source, names_of, where

    paths = [place_of(path) for path in args.data]
    if len({where(path) for path in paths}) < len(paths):
        raise ConfigError("DATA: expected every recording once, got one twice")
    args.split = args.split or ALL
    if args.split not in (TRAIN, VAL, ALL):
        raise unknown_split(args.data[0], args.split, (TRAIN, VAL, ALL))
    truth, predictions = (
        [place_of(path) for path in given] if given else [None] * len(paths)
        for given in (args.truth, args.predictions)
    )
    each = zip(names_of(paths), paths, truth, predictions, strict=True)
    return [
        Source(
            *names,
            topic=args.topic,
            depth=args.depth,
            labels=args.labels,
            tolerance_ms=args.tolerance_ms,
            split=args.split,
            frames=args.frames,
            in_order=args.tracking,
        )
        for names in each
    ]


def _recipe(args: argparse.Namespace) -> Recipe:
    from instaseg_ros.checkpoint import load_checkpoint
    from instaseg_ros.config import merge
    from instaseg_ros.configure import suited
    from instaseg_ros.fleet.work import Recipe

    config = suited(config_from(args))
    if args.tracking:
        config = merge(config, {"tracking.enabled": True})
    return Recipe(config, load_checkpoint(config.weights))


def _crew(args: argparse.Namespace, recipe: Recipe | None) -> AbstractContextManager[Crew]:
    """Whoever evaluates, as a context: this process, or workers."""
    from instaseg_ros.fleet.evaluation import Alone

    if args.ray or (args.workers or 1) > 1:
        from instaseg_ros.fleet.workers import RayCrew

        return RayCrew(recipe, args.workers, args.ray)
    return nullcontext(Alone(None if recipe is None else recipe.pipeline()))


def _settings(args: argparse.Namespace, recipe: Recipe | None) -> dict[str, Any]:
    """What the numbers depend on besides the recordings, for JSON."""
    from instaseg_ros.checkpoint import weights_hash

    common = {"min_pixels_asked": args.min_pixels, "with_tracking": args.tracking}
    if recipe is None:
        return {**common, "weights": None, "weights_hash": None, "config": None}
    return {
        **common,
        "version": instaseg_ros.__version__,
        "weights": recipe.config.weights,
        "weights_hash": weights_hash(recipe.checkpoint),
        "config": asdict(recipe.config),
    }


def _evaluated(
    args: argparse.Namespace,
    sources: Sequence[Source],
    recipe: Recipe | None,
    settings: dict[str, Any],
    keeping: Keeping,
) -> Outcome:
    from tqdm import tqdm

    from instaseg_ros.fleet.evaluation import evaluate_recordings

    folder = None
    with _crew(args, recipe) as crew:
        if args.output is not None:
            from instaseg_ros.fleet.folder import RunFolder

            folder = RunFolder(args.output, settings, sources)
        with tqdm(unit="frame", disable=None) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            start = time.perf_counter()
            outcome = evaluate_recordings(sources, crew, folder, keeping, progress)
            seconds = time.perf_counter() - start
    for remark in outcome.classes.remarks:
        log.warning("%s", remark)
    if outcome.new:
        each = f"{outcome.new / seconds:.1f} frames/s"
        print(f"{outcome.new} frames evaluated in {seconds:.1f} s, {each}")
    if outcome.done_before:
        print(f"done before, not again: {', '.join(outcome.done_before)}")
    return outcome


def _numbers(
    outcome: Outcome, settings: dict[str, Any], args: argparse.Namespace
) -> dict[str, Any]:
    """The evaluation for JSON."""
    from instaseg_ros.contract import written
    from instaseg_ros.evaluation.run import percentiles_ms, summary_of
    from instaseg_ros.fleet.evaluation import numbers_of

    summary = numbers_of(outcome.frames, outcome.classes.names, args.tracking)
    if args.coco:
        summary["coco"] = summary_of(outcome.found)["coco"]
    made = [frame.ms for frame in outcome.frames if frame.ms is not None]
    live = [frame.latency_ms for frame in outcome.frames if frame.latency_ms is not None]
    return {
        **written("evaluation"),
        "data": ", ".join(args.data),
        "split": args.split,
        **summary,
        "images": len(outcome.frames),
        "ms_per_frame": float(np.median(made)) if made else None,
        **percentiles_ms(live or made),
        "stage_ms": _stage_ms(outcome),
        "min_pixels": sorted({one.tracked.counts.min_pixels for one in outcome.frames}),
        "remarks": list(outcome.classes.remarks),
        "recordings": outcome.facts,
        "broken": {name: str(error) for name, error in outcome.broken.items()},
        **settings,
    }


def _stage_ms(outcome: Outcome) -> dict[str, float]:
    """Milliseconds by stage: the median of the recordings' medians; empty for recorded results."""
    each = [facts["stage_ms"] for facts in outcome.facts.values()]
    return {stage: float(np.median([one[stage] for one in each])) for stage in each[0]}


def _print(numbers: dict[str, Any]) -> None:
    from instaseg_ros.evaluation.metrics.tracking import tracking_line
    from instaseg_ros.evaluation.summary import table

    print(table(numbers))
    _print_bins("pixels", numbers["by_size"])
    _print_bins("metres", numbers.get("by_distance", []))
    _print_minutes(numbers["by_minute"])
    if "coco" in numbers:
        print("COCO: " + ", ".join(f"{name} {v:.3f}" for name, v in numbers["coco"].items()))
    if "tracking" in numbers:
        print(tracking_line(numbers["tracking"]))
    for name, facts in numbers["recordings"].items():
        if "live" in facts:
            print(f"{name}: {live_line(facts['live'])}")
    ms = numbers["ms_per_frame"]
    took = "" if ms is None else f"{ms:.1f} ms per frame, "
    count = len(numbers["recordings"])
    print(f"{took}{numbers['images']} frames of {count} recording{'s' * (count > 1)}")


def _print_bins(unit: str, bins: Sequence[dict[str, Any]]) -> None:
    from instaseg_ros.tables import text_table

    rows = [
        (
            f"{one['low']:.0f} to {one['high']:.0f}" if one["high"] else f"from {one['low']:.0f}",
            *(None if one[key] != one[key] else one[key] for key in ("ap", "ap50")),
            one["objects"],
        )
        for one in bins
    ]
    if rows:
        print("\n" + text_table((unit, "AP", "AP50", "objects"), rows, ("", ".3f", ".3f", "d")))


def _print_minutes(minutes: Sequence[dict[str, Any]]) -> None:
    from instaseg_ros.tables import text_table

    worst = sorted(minutes, key=lambda one: one["ap50"] if one["ap50"] == one["ap50"] else 2.0)
    keys = ("recording", "minute", "frames", "dropped", "objects", "found", "wrong")
    rows = [
        (*(one[k] for k in keys), one["ap50"] if one["ap50"] == one["ap50"] else None)
        for one in worst[:MINUTES_SHOWN]
    ]
    heads = (*keys, "AP50")
    print("\n" + text_table(heads, rows, ("", *("d" for _ in keys[1:]), ".3f")))
    if len(worst) > len(rows):
        print(f"(the {len(rows)} worst of {len(worst)} minutes)")


def live_line(live: dict[str, Any]) -> str:
    """What is known of a robot's pace, for people."""
    said = f"{live['dropped']} of {live['frames']} frames without a result"
    if live["latency_ms"]:
        median, p99 = live["latency_ms"]
        said += f", latency {median:.0f} ms (p99 {p99:.0f} ms) since {live['latency_from']}"
    diagnosed = live["diagnosed"]
    if diagnosed:
        counts = ", ".join(f"{name} {n}" for name, n in diagnosed["counts"].items())
        said += f"; the node counted images: {counts}"
        for stage in ("since stamp", "total"):
            if stage in diagnosed["latency_ms"]:
                median, p99 = diagnosed["latency_ms"][stage]
                said += f"; {stage} {median:.0f} ms (p99 {p99:.0f} ms)"
                break
    return said


def report_output(folder: Path, name: str) -> OutputFile:
    """A page in a folder that may have other files. Raises ConfigError if it cannot be written."""
    from instaseg_ros.files import OutputFile

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--report {folder}: expected a folder, found a file")
    return OutputFile(folder / name, overwrite=True)


def _write_report(
    args: argparse.Namespace,
    outcome: Outcome,
    numbers: dict[str, Any],
    recipe: Recipe | None,
    checked: Sequence[Checked],
    report: OutputFile,
) -> None:
    from instaseg_ros.config import dump
    from instaseg_ros.files import write_whole
    from instaseg_ros.fleet.folder import file_of
    from instaseg_ros.fleet.report.build import WORST, About, page

    names = list(outcome.facts)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    title = ", ".join(names[:3]) + more
    about = About(f"{title}: AP {numbers['ap']:.3f}", "what a robot said, from recordings")
    if recipe is not None:
        runtimes = sorted({one["runtime"] for one in outcome.facts.values() if "runtime" in one})
        made = ", ".join([f"weights {recipe.config.weights}", *runtimes])
        about = About(about.title, made, dump(recipe.config))
    files = {name: file_of(args.output, name) for name in names}
    classes = outcome.classes.names
    start = time.perf_counter()
    text = page(outcome.frames, classes, numbers, files, about, checked, args.worst or WORST)
    write_whole(report.path, text.encode("utf-8", "replace"))  # names may be arbitrary bytes
    size, seconds = report.path.stat().st_size / 1e6, time.perf_counter() - start
    print(f"report: {report.path}, {size:.1f} MB, made in {seconds:.1f} s")
