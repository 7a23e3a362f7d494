"""Measures how times grow: decoding over objects and foreground pixels, all over image size.

`sweep` measures ours and the yardstick in turn, like `bench`; `draw` plots the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from instaseg_ros.benchmarks.frame import Clock, Ours, bench
from instaseg_ros.benchmarks.yardstick import FOREGROUND_SHARE, Yardstick
from instaseg_ros.config import Config
from instaseg_ros.errors import MissingExtraError
from instaseg_ros.files import OutputFile

OBJECTS = (1, 3, 10, 30, 100, 300)
FOREGROUND_SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
SCALES = (0.25, 0.5, 0.75, 1.0)  # of the largest image's sides

Curve = dict[str, list[float]]  # x, and milliseconds of ours and published


def sweep(config: Config, size: tuple[int, int], objects: int, rounds: int) -> dict[str, Curve]:
    """Medians in milliseconds over `objects`, `foreground_px` and `image_px`.

    size: (height, width) of the largest image. objects: their number in the other two.
    """
    ours = Ours(config, size)
    height, width = ours.decoded_size
    theirs = Yardstick(ours.pipeline.checkpoint, ours.images, ours.device)
    shares = [round(share * height * width) for share in FOREGROUND_SHARES]
    usual = round(FOREGROUND_SHARE * height * width)
    curves: dict[str, Curve] = {}
    for name, cases in (
        ("objects", [(n, n, usual) for n in OBJECTS]),
        ("foreground_px", [(px, objects, px) for px in shares]),
    ):
        curves[name] = curve = _empty()
        for x, n, foreground_px in cases:
            made = ours.decode_what(n, foreground_px)
            clock = Clock()
            for _ in range(rounds + 1):
                for side, decode in (("ours", ours.pipeline.method), ("published", theirs)):
                    clock(side, decode.decode, made, config.decode)
            _append(curve, x, *(clock.samples_ms[side][1:] for side in ("ours", "published")))
    del ours, theirs
    curves["image_px"] = curve = _empty()
    for scale in SCALES:
        smaller = round(scale * size[0]), round(scale * size[1])
        numbers = bench(config, smaller, objects, max(2, rounds // 2))
        totals = (numbers[side]["total"]["p50_ms"] for side in ("stages", "yardstick"))
        _append(curve, smaller[0] * smaller[1], *([ms] for ms in totals))
    return curves


def _empty() -> Curve:
    return {"x": [], "ours_ms": [], "published_ms": []}


def _append(curve: Curve, x: float, ours_ms: list[float], published_ms: list[float]) -> None:
    curve["x"].append(x)
    curve["ours_ms"].append(float(np.median(ours_ms)))
    curve["published_ms"].append(float(np.median(published_ms)))


def draw(numbers: dict[str, Any], path: Path) -> None:
    """Draw the curves of `numbers["sweep"]` as a PNG, with the machine below them.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ModuleNotFoundError as error:
        raise MissingExtraError("matplotlib", "plots", "--sweep") from error
    curves = numbers["sweep"]
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    panels = (
        ("objects", "decoding", "objects in the image", 1),
        ("foreground_px", "decoding", "foreground pixels, thousands", 1e3),
        ("image_px", "whole frame", "image pixels, millions", 1e6),
    )
    for axes, (name, what, label, unit) in zip(figure.subplots(1, 3), panels, strict=True):
        x = np.array(curves[name]["x"]) / unit
        for side, colour, mark in (("published", "#b0413e", "s"), ("ours", "#1f6f8b", "o")):
            axes.plot(x, curves[name][f"{side}_ms"], color=colour, marker=mark, label=side)
        axes.set(title=f"{what} over {label.partition(',')[0]}", xlabel=label, ylabel="ms")
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    gpu = f", {numbers['gpu']}" if numbers["gpu"] else ""
    figure.supxlabel(
        f"{numbers['runtime']} {numbers['precision']} beside eager float32 torch and the published "
        f"loop; {numbers['threads']} threads of {numbers['cpu']}{gpu}; {numbers['size']} where the "
        "size does not grow",
        fontsize=9,
    )
    output = OutputFile(path, overwrite=True)
    figure.savefig(output.part, dpi=130, format="png")
    output.commit()
