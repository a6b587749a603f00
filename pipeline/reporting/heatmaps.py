"""What changes class by class over a training: the balance of pseudo-labels, how full each class's queue is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.reporting.figures import INK, STYLE, Curves

Runs = Mapping[str, Sequence[Curves]]
"""The seeds of each method by its name."""

MAX_PANELS = 2
MAX_DOUBLINGS = 3.0
"""Where the colours of the balance end: eight times too many, an eighth of what there is."""


@rc_context(STYLE)
def queue_figure(runs: Runs, classes: Sequence[str]) -> Figure | None:
    """Show how full (0-100 %) each class's queue of keys is over the steps; None where no method has queues."""
    found = {
        name: 100 * grid for name, seeds in runs.items() if (grid := class_grid(seeds, "queue/class_")) is not None
    }
    if not found:
        return None
    steps = {name: _steps(runs[name], "queue/class_") for name in found}
    return _figure(found, steps, classes=classes, limits=(0, 100), colours="viridis", label="fill (%)")


@rc_context(STYLE)
def balance_figure(runs: Runs, classes: Sequence[str]) -> Figure | None:
    """Show over the steps how many pseudo-labels each class gets against how many pixels it truly has.

    0 is a fair share, 1 twice as many, -1 half as many. None where no run knows both shares.
    """
    found = {}
    for name, seeds in runs.items():
        given, true = class_grid(seeds, "pseudo/class_"), class_grid(seeds, "pseudo/true_")
        if given is not None and true is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                doublings = np.log2(given / true[:, -1:])  # the probe's images are the same at every step
            found[name] = np.where(true[:, -1:] > 0, doublings.clip(-MAX_DOUBLINGS, MAX_DOUBLINGS), np.nan)
    if not found:
        return None
    steps = {name: _steps(runs[name], "pseudo/class_") for name in found}
    limits = (-MAX_DOUBLINGS, MAX_DOUBLINGS)
    return _figure(found, steps, classes=classes, limits=limits, colours="RdBu_r", label="doublings")


def class_grid(seeds: Sequence[Curves], prefix: str) -> np.ndarray | None:
    """Return the metrics `<prefix><class>` as (classes, steps), the mean of the seeds; None where a run has none."""
    grids = []
    for curves in seeds:
        numbers = sorted(int(name.removeprefix(prefix)) for name in curves if re.fullmatch(f"{prefix}\\d+", name))
        if not numbers:
            return None
        length = min(len(curves[f"{prefix}{number}"]) for number in numbers)
        grid = np.full((numbers[-1] + 1, length), np.nan)
        for number in numbers:
            grid[number] = [value for _, value in curves[f"{prefix}{number}"][:length]]
        grids.append(grid)
    if not grids:
        return None
    rows, length = max(grid.shape[0] for grid in grids), min(grid.shape[1] for grid in grids)
    padded = [np.pad(grid[:, :length], ((0, rows - len(grid)), (0, 0)), constant_values=np.nan) for grid in grids]
    return np.stack(padded).mean(axis=0)


def _steps(seeds: Sequence[Curves], prefix: str) -> np.ndarray:
    shortest = min((points for curves in seeds for name, points in curves.items() if name.startswith(prefix)), key=len)
    return np.array([step for step, _ in shortest])


def _figure(
    found: Mapping[str, np.ndarray],
    steps: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str],
    limits: tuple[float, float],
    colours: str,
    label: str,
) -> Figure:
    shown = list(found)[:MAX_PANELS]
    figure = Figure(figsize=(2.6 * len(shown) + 1.9, 0.8 + 0.17 * len(classes)), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0])
    for axes, name in zip(panels, shown, strict=True):
        grid = found[name]
        ends = steps[name][: grid.shape[1]]  # a value is of the steps since the one before
        start = max(0, 2 * ends[0] - ends[1]) if len(ends) > 1 else 0
        edges = np.concatenate(([start], ends))
        mesh = axes.pcolormesh(
            edges, np.arange(len(grid) + 1) - 0.5, grid, cmap=colours, vmin=limits[0], vmax=limits[1], rasterized=True
        )
        axes.set_title(name)
        axes.set_xlabel("step")
    panels[0].set_yticks(range(len(classes)), classes)
    panels[0].invert_yaxis()
    bar = figure.colorbar(mesh, ax=panels, pad=0.02)
    bar.set_label(label, color=INK)
    return figure
