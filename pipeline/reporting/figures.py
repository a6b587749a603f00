"""Figures that need rows and spools only: ablations and gains beside the paper's, per-class IoU, curves over time.

Each function returns a matplotlib `Figure`; nothing is global. Measured and published numbers share an axis only as
differences to their own reference row, so numbers of different data never mix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.labels import METHOD_LABELS
from pipeline.reporting.grid import Grid, reference_line
from pipeline.reporting.paper import is_paper_data
from pipeline.reporting.rows import Row, Shown, figures_of
from pipeline.reporting.wording import SUBSCRIPT, heading, line_name, reference_name, role

Curves = Mapping[str, Sequence[tuple[int, float]]]
"""What `pipeline.spool.curves` reads from one run: each metric as (step, value)."""

WIDEST = 13.0
"""Inches of a figure: panels that do not fit beside each other stand below."""

INK = "#1b1f24"
"""The colour of text and axes; a page may replace it by its own."""

PAPER = "#8b9199"
MEASURED = "#3d78c2"
COLOURS = (
    "#8b9199", "#4f5a66", "#3f9a6b", "#b8892b", "#8c6a52", "#a066b8", "#c4516c", "#6f8f3a", "#d08fb0",
    MEASURED, "#1f4e8c", "#c9722a", "#e0a63c", "#4da3a8",
)  # fmt: skip
"""One for each method, in the order of `METHOD_LABELS`: SupOnly grey, U2PL the colour of all that is measured."""

MARKERS = "osv^D<>PXpd*hH8"
"""Of the lines of a figure, in their order; by these they are told apart without colours."""

BY_CLASS = re.compile(r"/(class|true)_\d+$")
"""Metrics that a run has for each class: heat maps show them, not a panel each."""

MAX_POINTS = 150
"""A curve is thinned to so many points: more cannot be seen."""

STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "figure",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.color": INK,
    "ytick.labelsize": 8,
    "ytick.major.width": 0.6,
}


@rc_context(STYLE)
def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as SVG (text stays text) or whatever the suffix says; equal figures give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, transparent=True, metadata=metadata, dpi=160)


@rc_context(STYLE)
def ablation_figure(grid: Grid) -> Figure | None:
    """Show each column's differences to the reference row, the paper's behind; None where there is nothing to show.

    The band around zero is what two single runs differ by through their seeds alone.
    """
    shown = [
        index for index in range(len(grid.columns)) if any(line.entries[index].gain is not None for line in grid.lines)
    ]
    if reference_line(grid) is None or not shown:
        return None
    names = [line_name(line) for line in grid.lines]
    is_ordered = all(len(line.labels) == 1 and _is_number(name) for line, name in zip(grid.lines, names, strict=True))
    panel = max(2.9, 0.7 * len(names))
    width = max(1, min(len(shown), int(WIDEST // panel)))
    height = -(-len(shown) // width)
    figure = Figure(figsize=(max(5.8, panel * width + 0.8), 2.9 * height), layout="constrained")
    panels = list(figure.subplots(height, width, sharey=True, squeeze=False).flat)
    for empty in panels[len(shown) :]:
        empty.set_axis_off()
    for axes, index in zip(panels, shown, strict=False):
        entries = [line.entries[index] for line in grid.lines]
        is_base = [line is reference_line(grid) for line in grid.lines]
        ours = [
            0.0 if base and entry.measured is not None else entry.gain
            for base, entry in zip(is_base, entries, strict=True)
        ]
        paper = [0.0 if base else entry.published_gain for base, entry in zip(is_base, entries, strict=True)]
        _zero_line(axes, grid)
        if grid.has_published:
            _points(axes, paper, style="s--" if is_ordered else "s", name=_paper_side(grid), colour=PAPER)
        _points(axes, ours, style="o-" if is_ordered else "o", name=_our_side(grid), colour=MEASURED)
        axes.set_title(grid.columns[index])
        axes.set_xticks(range(len(names)), [_broken(name) for name in names])
        axes.set_xlabel(_typeset(", ".join(map(heading, grid.label_names))) if is_ordered else "row of the table")
        axes.set_xlim(-0.5, len(names) - 0.5)
        if max(abs(value) for value in [*ours, *paper] if value is not None) > 20:
            axes.set_yscale("symlog", linthresh=5)
            axes.set_yticks([-50, -20, -10, -5, 0, 5], ["−50", "−20", "−10", "−5", "0", "5"], minor=False)
            axes.minorticks_off()
            axes.margins(y=0.12)
    figure.supylabel(f"points against {_typeset(reference_name(grid))}", fontsize=8.5)
    handles, called = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], called[::-1], loc="outside upper left", ncols=3)
    return figure


@rc_context(STYLE)
def gain_figure(grid: Grid) -> Figure | None:
    """Show every method's gain over the reference across the partitions, measured and published side by side.

    None where nothing is measured, or where one partition would make floating dots of it.
    """
    base = reference_line(grid)
    measured = [line for line in grid.lines if any(entry.gain is not None for entry in line.entries)]
    if base is None or not measured or len(grid.columns) == 1:
        return None
    figure = Figure(figsize=(6.6, 3.2), layout="constrained")
    sides = 2 if grid.has_published else 1
    panels = figure.subplots(1, sides, sharey=is_paper_data(grid.data, grid.dataset), squeeze=False)[0]
    own = [line for line in grid.lines if line.entries[0].paper_names_gain]
    others = [line for line in grid.lines if line not in own and line is not base]
    names = [line_name(line) for line in [*own, *others]]
    colours, markers = colours_of(names), dict(zip(names, cycle(MARKERS), strict=False))
    for axes, is_paper in zip(panels, (False, True), strict=False):
        for line in [*own, *others]:
            name = line_name(line)
            gains = [entry.published_gain if is_paper else entry.gain for entry in line.entries]
            width = 2.2 if line in own else 1.1
            drawn = _points(axes, gains, style=f"{markers[name]}-", name=_typeset(name), colour=colours[name])
            drawn.set(linewidth=width, markersize=4 + width / 2, linestyle=dash_of(name))
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_title(_paper_side(grid) if is_paper else _our_side(grid))
        axes.set_xticks(range(len(grid.columns)), [_broken(column) for column in grid.columns])
        axes.set_xlim(-0.3, len(grid.columns) - 0.7)
    panels[0].set_ylabel(f"points over {_typeset(reference_name(grid))}")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@rc_context(STYLE)
def class_figure(
    rows_a: Sequence[Row], rows_b: Sequence[Row], *, names: tuple[str, str], shown: Shown, classes: Sequence[str] = ()
) -> Figure | None:
    """Show the IoU of every class under two methods, classes sorted by what the second gains; seeds are averaged.

    None where a side has no figures. Without `classes` a class is called by its number.
    """
    a, b = _class_iou(rows_a, shown), _class_iou(rows_b, shown)
    if a is None or b is None:
        return None
    called = list(classes) or [f"class {index}" for index in range(len(a))]
    chosen = range(len(a)) if shown.classes is None else shown.classes
    order = [
        index for index in np.argsort(b - a) if index in chosen and np.isfinite(a[index]) and np.isfinite(b[index])
    ]
    places = np.arange(len(order))
    figure = Figure(figsize=(5.6, 0.9 + 0.19 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.hlines(places, a[order], b[order], color=PAPER, linewidth=1.6)
    axes.plot(a[order], places, "s", color=PAPER, markersize=4, label=_typeset(names[0]))
    axes.plot(b[order], places, "o", color=MEASURED, markersize=4.5, label=_typeset(names[1]))
    for place, index in zip(places, order, strict=True):
        gain = f"{round(b[index] - a[index], 1) + 0.0:+.1f}".replace("-", "−")  # never −0.0
        axes.annotate(gain, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=7.5)
    axes.set_yticks(places, [called[index] for index in order])
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel("IoU (%); at the right the difference in points")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@rc_context(STYLE)
def curve_figure(runs: Mapping[str, Sequence[Curves]], *, group: str, ylabel: str) -> Figure | None:
    """Show every metric of a group (`loss`, `val`, `method`) over the steps, a panel each; None where none has it.

    `runs` holds the seeds of each method by its name. Several seeds are a line (mean) with a band (± sd).
    """
    metrics = dict.fromkeys(metric for seeds in runs.values() for curves in seeds for metric in curves)
    metrics_shown = [metric for metric in metrics if metric.startswith(f"{group}/") and not BY_CLASS.search(metric)]
    if not metrics_shown:
        return None
    width = min(3, len(metrics_shown))
    height = -(-len(metrics_shown) // width)
    tall = max(1.75 * height + 0.4, 0.18 * len(runs) + 0.5)  # the legend is a column beside the panels
    figure = Figure(figsize=(2.3 * width + 1.5, tall), layout="constrained")
    panels = list(figure.subplots(height, width, squeeze=False, sharex=True).flat)
    colours = colours_of(list(runs))
    for axes, metric in zip(panels, metrics_shown, strict=False):
        for name, seeds in runs.items():
            _band(axes, [curves[metric] for curves in seeds if metric in curves], name=name, colour=colours[name])
        axes.set_title(metric.removeprefix(f"{group}/").replace("_", " "))
    for axes in panels[len(metrics_shown) :]:
        axes.set_axis_off()
    figure.supylabel(ylabel, fontsize=8.5)
    figure.supxlabel("step", fontsize=8.5)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    return figure


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name: every method has its own in all figures, its variants too (`method, variant`).

    Anything else takes what is left, but for the baseline's grey.
    """
    fixed = dict(zip(METHOD_LABELS.values(), COLOURS, strict=False))  # a method of one's own may have no colour
    called = {name: name.partition(", ")[0] for name in names}
    taken = {fixed[method] for method in called.values() if method in fixed}
    free = cycle([colour for colour in COLOURS[1:] if colour not in taken] or COLOURS[1:])
    return {name: fixed[method] if method in fixed else next(free) for name, method in called.items()}


def dash_of(name: str) -> str:
    """Return the line style of a name: a method's variant is dashed, to be told from the method itself."""
    method, _, variant = name.partition(", ")
    return "--" if variant and method in METHOD_LABELS.values() else "-"


def _points(axes: Axes, values: Sequence[float | None], *, style: str, name: str, colour: str) -> Any:
    heights = [np.nan if value is None else value for value in values]
    [line] = axes.plot(range(len(heights)), heights, style, color=colour, label=name, markersize=4.5)
    return line


def _zero_line(axes: Axes, grid: Grid) -> None:
    axes.axhline(0, color=INK, linewidth=0.6)
    if limit := grid.noise and grid.noise.of_difference(1):
        axes.axhspan(-limit, limit, color=MEASURED, alpha=0.13, linewidth=0, label="seeds' noise")


def _band(axes: Axes, seeds: Sequence[Sequence[tuple[int, float]]], *, name: str, colour: str) -> None:
    if not seeds:
        return
    length = min(len(seed) for seed in seeds)  # a diverged seed is shorter
    kept = np.unique(np.linspace(0, length - 1, min(length, MAX_POINTS)).astype(int))
    steps = np.array([seeds[0][index][0] for index in kept])
    values = np.array([[seed[index][1] for index in kept] for seed in seeds])
    mean = values.mean(axis=0)
    axes.plot(steps, mean, color=colour, label=name, linewidth=1.1, linestyle=dash_of(name))
    if len(seeds) > 1:
        spread = values.std(axis=0, ddof=1)
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)


def _class_iou(rows: Sequence[Row], shown: Shown) -> np.ndarray | None:
    figures = [figures_of(row, shown) for row in rows]
    found = [[np.nan if value is None else value for value in each["iou"]] for each in figures if each is not None]
    return np.array(found, dtype=float).mean(axis=0) if found else None


def _our_side(grid: Grid) -> str:
    return f"Measured on {role(grid) if is_paper_data(grid.data, grid.dataset) else grid.data}"


def _paper_side(grid: Grid) -> str:
    return f"In the paper, on {role(grid)}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d+(e[+-]?\d+)?", text) is not None


def _broken(name: str) -> str:
    """Break a tick label at its spaces, so that neighbours do not meet."""
    lines = re.split(r", | \+ | (?=\()|(?<=[a-z]) (?=[a-z])", name.replace(" = ", "="))
    return "\n".join(map(_typeset, lines))


def _typeset(text: str) -> str:
    """Set `x_y` as x with a subscript."""
    return SUBSCRIPT.sub(r"$\\mathrm{\1_{\2}}$", text)
