"""Plots an evaluation as SVG text, for a page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from instaseg_ros.evaluation.matching import Ranked
from instaseg_ros.evaluation.metrics.average_precision import OVERLAPS, class_ap, precision_recall
from instaseg_ros.evaluation.metrics.breakdown import Bin, Reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#2b7bba", "#e4572e", "#3a9d78", "#8c5fbf", "#c99a16", "#c2528b", "#3aa6b9", "#6b6f76")
INK, GRID = "#24292f", "#e3e6ea"
LONGEST_NAME = 24


class Plot:
    """`with Plot() as axes: ...`; then `svg` holds the figure, with text in the page's font. Text
    is taken literally: a name may contain a `$`, which would begin a formula."""

    svg = ""

    def __init__(self, width: float = 5.6, height: float = 3.6) -> None:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self._style = rc_context(
            {"svg.fonttype": "none", "svg.hashsalt": "instaseg", "text.parse_math": False}
        )
        self._figure = Figure(figsize=(width, height), layout="constrained")

    def __enter__(self) -> Axes:
        self._style.__enter__()
        axes = self._figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9aa1a9")
        axes.tick_params(colors=INK, labelsize=9, length=3)
        axes.set_axisbelow(True)
        axes.grid(color=GRID, linewidth=0.8)
        return axes

    def __exit__(self, *error: Any) -> None:
        text = io.StringIO()
        try:
            self._figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        finally:
            self._style.__exit__(*error)
        svg = text.getvalue()
        self.svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)


def precision_recall_plot(ranked: Mapping[str, Ranked]) -> str:
    """Precision over recall at IoU 0.5, a curve per class."""
    plot = Plot()
    with plot as axes:
        for color, (name, of_class) in zip(COLORS * 99, ranked.items(), strict=False):
            curve = precision_recall(of_class, 0.5)
            if curve is not None:
                axes.plot(
                    curve.recall[:-1], curve.precision[:-1], color=color, lw=1.8, label=label(name)
                )
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        _add_legend(axes)
    return plot.svg


def overlap_plot(ranked: Mapping[str, Ranked]) -> str:
    """AP over the IoU that a match needs, a curve per class."""
    plot = Plot()
    with plot as axes:
        for color, (name, of_class) in zip(COLORS * 99, ranked.items(), strict=False):
            if of_class.objects.any():
                values = class_ap(of_class)
                axes.plot(
                    OVERLAPS, values, color=color, lw=1.8, marker="o", ms=3.5, label=label(name)
                )
        axes.set(xlabel="IoU that a match needs", ylabel="AP", ylim=(0, 1.02))
        _add_legend(axes)
    return plot.svg


def bins_plot(bins: Sequence[Bin], what: str) -> str:
    """AP and AP50 as a pair of bars for each bin, with the number of objects below it."""
    plot = Plot()
    with plot as axes:
        place = np.arange(len(bins))
        for shift, key, color in ((-0.2, "ap50", "#a9cbe6"), (0.2, "ap", COLORS[0])):
            values = [getattr(one.ap, key) for one in bins]
            bars = axes.bar(place + shift, values, 0.38, color=color, label=key.upper())
            axes.bar_label(bars, ["" if v != v else f"{v:.2f}" for v in values], fontsize=8)
        ticks = [
            f"{name}\n{one.ap.objects} object{'s' * (one.ap.objects != 1)}"
            for name, one in zip(bin_names(bins), bins, strict=True)
        ]
        axes.set_xticks(place, ticks, fontsize=8)
        axes.grid(visible=False, axis="x")
        axes.set(ylim=(0, 1.17), yticks=np.arange(6) / 5, xlabel=what)
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper right")
    return plot.svg


def confusion_plot(table: NDArray[np.int64], names: Sequence[str]) -> str:
    """Numbers of objects, shaded by their share of the row."""
    plot = Plot(5.6, 1.6 + 0.36 * len(table))
    with plot as axes:
        share = table / np.maximum(table.sum(1, keepdims=True), 1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        # Separate squares: an image would be embedded as a bitmap.
        axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1.15, edgecolors="white", linewidth=1.5)
        for (row, column), number in np.ndenumerate(table):
            if row < len(names) or column < len(names):
                ink = "white" if share[row, column] > 0.6 else INK
                place = column + 0.5, row + 0.5
                axes.text(*place, f"{number}", ha="center", va="center", fontsize=9, color=ink)
        middles = np.arange(len(table)) + 0.5
        ticks = [label(name) for name in names]
        axes.set_xticks(middles, [*ticks, "missed"], fontsize=9)
        axes.set_yticks(middles, [*ticks, "nothing there"], fontsize=9)
        if sum(map(len, ticks)) > 30:
            axes.tick_params(axis="x", labelrotation=35)
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(length=0)
        axes.invert_yaxis()
    return plot.svg


def reliability_plot(bins: Reliability) -> str:
    """Mean IoU over mean score."""
    plot = Plot()
    with plot as axes:
        axes.plot([0, 1], [0, 1], color="#9aa1a9", lw=1, ls="--", label="score = IoU")
        axes.plot(bins.score, bins.iou, color=COLORS[0], marker="o", lw=1.8)
        low = np.floor(10 * min(bins.score, default=0.0)) / 10
        axes.set(xlabel="score", ylabel="mean IoU with the best object", xlim=(low, 1.01))
        axes.set(ylim=(0, 1.02))
        axes.legend(frameon=False, fontsize=9, loc="upper left")
    return plot.svg


def timing_plot(stage_ms: Mapping[str, NDArray[np.float64]]) -> str:
    """Milliseconds of each frame in order, with stacked stages."""
    plot = Plot()
    with plot as axes:
        total = np.sum(list(stage_ms.values()), axis=0)
        frames = np.arange(len(total))
        bottom = np.zeros(len(total))
        for color, (stage, values) in zip(COLORS * 9, stage_ms.items(), strict=False):
            axes.bar(frames, values, 1.0, bottom, color=color, label=stage)
            bottom += values
        limit = 1.6 * float(np.percentile(total, 95))
        axes.set(xlabel="frame", ylabel="ms", xlim=(-0.5, len(total) - 0.5), ylim=(0, limit))
        axes.grid(visible=False, axis="x")
        axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center")
    return plot.svg


def share_plot(values: Sequence[float], unit: str) -> str:
    """The share of values up to each, with the median and the 99th percentile marked."""
    plot = Plot()
    with plot as axes:
        share = np.arange(1, len(values) + 1) / len(values)
        axes.plot(np.sort(values), share, drawstyle="steps-post", color=COLORS[0], lw=1.8)
        for percent, color in ((50, COLORS[2]), (99, COLORS[1])):
            value = float(np.percentile(values, percent))
            name = f"p{percent}: {value:.0f} {unit}"
            axes.axvline(value, color=color, lw=1.2, ls="--", label=name)
        high = 1.15 * float(np.percentile(values, 99))
        axes.set(xlabel=unit, ylabel="share of frames", ylim=(0, 1.02), xlim=(0, high or 1))
        axes.legend(frameon=False, fontsize=9, loc="lower left")
    return plot.svg


def _add_legend(axes: Axes) -> None:
    if axes.lines:  # matplotlib warns if no class has an object
        axes.legend(frameon=False, fontsize=9)


def label(name: str) -> str:
    """A class name shortened for little space. matplotlib hides labels that begin with `_`."""
    short = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
    return f"\u200b{short}" if short.startswith("_") else short


def bin_names(bins: Sequence[Bin]) -> list[str]:
    """`100-400`, `6.4k+` and the like."""

    def number(value: float) -> str:
        return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.0f}"

    return [
        f"{number(one.low)}+" if np.isinf(one.high) else f"{number(one.low)}-{number(one.high)}"
        for one in bins
    ]
