"""What `dvc plots` draws: tidy CSV files, one observation a line, and the figures of one cell for `dvc exp show`."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.reporting.classes import class_names
from pipeline.reporting.figures import Curves
from pipeline.reporting.rows import Row, Shown, figures_of


def write_plot_data(rows: Sequence[Row], folder: Path, *, shown: Shown, curves: Curves | None = None) -> None:
    """Write a table's bars, `miou.csv`; of a table of one cell its classes and the training's curves instead.

    `classes.csv` has the IoU of both networks, student and teacher; `curves.csv` each metric of `curves` by step,
    without what is no number. The templates in `.dvc/plots` and the `plots` of dvc.yaml name these columns.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if len(rows) == 1:
        _write(folder / "classes.csv", ("class", "column", "iou"), lines=_classes(rows[0], shown))
        _write(folder / "curves.csv", ("step", "metric", "value"), lines=_values(curves or {}))
        return
    bars = [(label(row), row["column"], row["seed"], _miou(row, shown)) for row in rows]
    _write(folder / "miou.csv", ("row", "column", "seed", "miou"), lines=[bar for bar in bars if bar[-1] is not None])


def cell_figures(row: Row, shown: Shown) -> dict[str, float | None]:
    """Return what `dvc exp show` and `dvc metrics diff` say of a table of one cell: mIoU (%), and the best epoch."""
    networks = {f"{network}_miou": _miou(row, replace(shown, network=network)) for network in row["metrics"]}
    last = _miou(row, replace(shown, epoch="last"))
    return {"miou": _miou(row, shown), "last_miou": last, **networks, "best_epoch": row.get("best_epoch")}


def label(row: Row) -> str:
    """Return the name of a row of a table in one line."""
    return " ".join(map(str, row["row"].values()))


def _miou(row: Row, shown: Shown) -> float | None:
    figures = figures_of(row, shown)
    return round(figures["miou"], 2) if figures else None


def _classes(row: Row, shown: Shown) -> Iterable[tuple[str, str, float]]:
    for network in row["metrics"]:
        ious = (figures_of(row, replace(shown, network=network)) or {"iou": []})["iou"]
        names = class_names(row["data"], len(ious))
        found = zip(names, ious, strict=True)
        yield from ((name, network, round(iou, 2)) for name, iou in found if iou is not None)


def _values(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Iterable[tuple[int, str, float]]:
    for metric, points in sorted(curves.items()):
        yield from ((step, metric, value) for step, value in points if math.isfinite(value))


def _write(path: Path, names: Sequence[str], *, lines: Iterable[Sequence[object]]) -> None:
    """Write a file, or none where there is no line: DVC cannot read one of headers alone."""
    lines = list(lines)
    if not lines:
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(lines)
