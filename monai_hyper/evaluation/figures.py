"""Figures of an evaluation, drawn to be read on a phone, in print, and without seeing colours."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from monai_hyper.evaluation.statistics import Result

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#882255", "#999933", "#332288",
    "#44aa99", "#7f7f7f", "#aa4499", "#7a3b10",
)  # fmt: skip
"""After the palettes of Okabe and Ito and of Tol for colour-blind readers; markers tell the same apart."""

_MARKERS = "osD^vP<X>ph"
_WIDTH = 5.6
_INK, _LINE = "#1c2530", "#dde3ea"


@dataclass(frozen=True)
class Style:
    """How a method is drawn in all figures."""

    colour: str
    marker: str
    dashes: str
    weight: float


def styles_of(methods: Iterable[str], against: str) -> dict[str, Style]:
    """One style a method, by its place; the lines of ``against`` are thick.

    Example:
        >>> styles_of(["hyper", "ridge"], "hyper")["ridge"].colour
        '#d55e00'
    """
    return {
        method: Style(
            colour=COLOURS[i % len(COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)],
            dashes="-" if i < len(COLOURS) else "--",
            weight=2.4 if method == against else 1.2,
        )
        for i, method in enumerate(methods)
    }


def shots_figure(curves: Mapping[str, Mapping[int, Mapping]], styles: Mapping[str, Style], title: str) -> Figure:
    """Dice over the number of shots with intervals; the legend in the order of the last points.

    Args:
        curves: by method and number of shots ``mean``, ``low`` and ``high``, ends None where not known.
    """
    ordered = sorted(curves, key=lambda m: (max(curves[m]), curves[m][max(curves[m])]["mean"]), reverse=True)
    columns = 3 if max(map(len, ordered)) < 18 else 2
    rows = -(-len(ordered) // columns)
    figure, axes = _axes(title, 3.5 + 0.21 * rows)
    for i, method in enumerate(ordered):
        shots, style = sorted(curves[method]), styles[method]
        points = [curves[method][k] for k in shots]
        x = np.array(shots) * 2 ** (0.16 * (i / max(len(ordered) - 1, 1) - 0.5))  # side by side, so that bars show
        means = np.array([p["mean"] for p in points])
        ends = np.array([[m if p[end] is None else p[end] for m, p in zip(means, points)] for end in ("low", "high")])
        axes.errorbar(
            x, means, np.abs(ends - means), label=method, color=style.colour, marker=style.marker, markersize=4.5,
            linestyle=style.dashes, linewidth=style.weight, elinewidth=style.weight * 0.6, zorder=2 + style.weight,
        )  # fmt: skip
    every = sorted({k for curve in curves.values() for k in curve})
    axes.set_xscale("log", base=2)
    axes.xaxis.set(major_locator=FixedLocator(every), minor_locator=NullLocator(), major_formatter=ScalarFormatter())
    axes.set(xlabel="shots K", ylabel="Dice", ylim=_limits(axes))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=2.6)
    return figure


def _limits(axes: Axes) -> tuple[float, float]:
    low, high = axes.get_ylim()
    return max(low, 0 if low > -0.2 else low), min(high, 1)


def box_figure(scores: Mapping[str, Sequence[float]], styles: Mapping[str, Style], title: str) -> Figure:
    """Quartiles of the Dice of every method's predictions, the best median on top; a diamond at the mean."""
    ordered = sorted(scores, key=lambda method: float(np.median(scores[method])))
    figure, axes = _axes(title, 1.1 + 0.27 * len(ordered))
    boxes = axes.boxplot(
        [scores[method] for method in ordered], orientation="horizontal", widths=0.62, patch_artist=True,
        showmeans=True, tick_labels=ordered, medianprops={"color": _INK, "linewidth": 1.6},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": _INK, "markersize": 4},
        flierprops={"marker": ".", "markersize": 3.5, "markerfacecolor": _INK, "markeredgecolor": "none"},
        whiskerprops={"color": _INK, "linewidth": 0.8}, capprops={"linewidth": 0},
    )  # fmt: skip
    for method, box in zip(ordered, boxes["boxes"]):
        box.set(facecolor=styles[method].colour, edgecolor=_INK, alpha=0.75, linewidth=0.8)
    axes.set(xlabel="Dice of a prediction, mean over classes", xlim=(-0.02, 1.02))
    axes.grid(False, axis="y")
    return figure


def prediction_means(rows: Iterable[Result]) -> list[float]:
    """Dice of every prediction, mean over its classes."""
    found = defaultdict(list)
    for row in rows:
        found[row.draw, row.query].append(row.score("dice"))
    return [float(np.mean(dice)) for dice in found.values()]


def reliability_figure(curves: Mapping[int, Sequence[tuple[float, float]]], style: Style, title: str) -> Figure:
    """Observed frequency over confidence, one line for every number of shots, the darker the more.

    Args:
        curves: confidence and frequency of every bin that holds voxels, by shots.
    """
    figure, axes = _axes(title, 2.9, 2.7)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
    for i, (shots, points) in enumerate(sorted(curves.items())):
        axes.plot(
            *zip(*points), color=style.colour, alpha=(i + 1.5) / (len(curves) + 0.5), marker="o", markersize=3,
            linewidth=1.4, label=f"K = {shots}",
        )  # fmt: skip
    axes.set(xlabel="confidence", ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(fontsize=7, frameon=False, handlelength=1.6, loc="upper left")
    return figure


def reliability_curve(bins: Iterable[Mapping[str, str]]) -> list[tuple[float, float]]:
    """Confidence and frequency of every bin over many predictions, weighted by their voxels.

    Args:
        bins: rows of ``reliability.csv``; bins without voxels are left out.

    Example:
        >>> some = [{"bin": "7", "confidence": "0.7", "frequency": "0.5", "voxels": "10"},
        ...         {"bin": "7", "confidence": "0.8", "frequency": "0.9", "voxels": "30"}]
        >>> [(round(a, 6), round(b, 6)) for a, b in reliability_curve(some)]
        [(0.775, 0.8)]
    """
    sums: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for row in bins:
        if voxels := float(row["voxels"] or 0):
            sums[int(row["bin"])] += voxels * np.array([float(row["confidence"]), float(row["frequency"]), 1])
    return [(float(a / n), float(b / n)) for _, (a, b, n) in sorted(sums.items())]


def svg_uri(figure: Figure) -> str:
    """The figure as an address that holds the picture itself; the same bytes for the same figure."""
    FigureCanvasSVG(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "monai_hyper", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _axes(title: str, height: float, width: float = _WIDTH) -> tuple[Figure, Axes]:
    """A figure of so many inches with one plot."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    axes.tick_params(labelsize=8.5, colors=_INK)
    axes.grid(True, color=_LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, color=_INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(fontsize=9, color=_INK)
    return figure, axes
