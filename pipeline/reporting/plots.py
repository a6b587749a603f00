"""Which figures a report shows, and with what words beneath."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.reporting.classes import class_names
from pipeline.reporting.figures import (
    Curves,
    ablation_figure,
    class_figure,
    curve_figure,
    gain_figure,
    save_figure,
)
from pipeline.reporting.grid import Grid, Line
from pipeline.reporting.heatmaps import balance_figure, queue_figure
from pipeline.reporting.paper import PAPER_TABLES, is_paper_data, name_of
from pipeline.reporting.reliability import (
    CALIBRATION,
    RISK,
    calibration_figure,
    caption_of,
    name_of_record,
    read_reliability,
    reliability_figure,
    risk_coverage_figure,
)
from pipeline.reporting.rows import OLDER, Row, figures_of
from pipeline.reporting.wording import OLDER_CODE, OLDER_CODE_MEANS, RAN_AS, line_name, measured_on, reference_name

CURVES_FROM = ("table_x3", "table_2", "table_3", "table_1")
"""The tables whose runs' curves are shown: the first of them that has any."""

PICTURES = (".png", ".svg", ".jpg")
GROUPS = {
    "loss": ("loss", "Every loss, weights applied"),
    "val": ("mIoU (%)", "Validation during training, as the best epoch is chosen"),
    "pseudo": (
        "share, 0-1",
        "Pseudo-labels of the deployed network on a fixed few unlabelled images: how many pixels are right, how many "
        "of those called reliable, and how sure it is on average",
    ),
    "method": ("", "What the methods report of themselves"),
}
COMPARED = ("SupOnly", "U2PL (w/ CutMix)")
"""The methods whose classes are shown over time, if they are there."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure on disk, the words beneath it, and the table it belongs to, if any. `is_ours`: drawn by `figures`."""

    path: Path
    caption: str
    table: str | None
    is_ours: bool


def write_plots(
    grids: Sequence[Grid], rows: Mapping[str, list[Row]], *, folder: Path, curves: Callable[[str], Curves | None]
) -> list[Plot]:
    """Draw every figure that the rows and curves allow into `folder`; return them and the pictures beside it.

    Records of the `reliability` stage are read from `reliability/` next to `folder`. Pictures are what lies in
    `pictures/` there, drawn from networks or put there, the caption in a `.txt`.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what is not drawn again is out of date
    folder.mkdir(parents=True)
    plots = []
    for grid in grids:
        plots += _table_figures(grid, folder)
    plots += _reliability_plots(folder, rows)
    plots += _curve_figures(grids, folder, curves=curves)
    for path in sorted(path for path in (folder.parent / "pictures").glob("*") if path.suffix in PICTURES):
        words = path.with_suffix(".txt")
        caption = words.read_text(encoding="utf-8").strip() if words.exists() else path.stem.replace("_", " ")
        plots.append(Plot(path=path, caption=caption, table=None, is_ours=False))
    return plots


def table_plots(plots: Sequence[Plot], table: str) -> list[Plot]:
    """Return the figures that belong to a table."""
    return [plot for plot in plots if plot.table == table]


def _table_figures(grid: Grid, folder: Path) -> list[Plot]:
    reference = reference_name(grid)
    plots = []
    if reference.partition(", ")[0] == "SupOnly":
        words = f"Gains over {reference} in points. {measured_on(grid)}"
        if grid.has_published and not is_paper_data(grid.data, grid.dataset):
            words += " Each side has its own axis."
        plots += _drawn(
            gain_figure(grid), folder / f"{grid.table}_gains.svg", caption=f"{name_of(grid.table)}. {words}", grid=grid
        )
        plots += _class_plot(grid, folder)
    elif reference:
        words = f"{grid.title}: differences to “{reference}” in points, the paper's to its own. {measured_on(grid)}"
        words += f" {RAN_AS}." if any(line.ran_as for line in grid.lines) else ""
        figure = ablation_figure(grid)
        plots += _drawn(
            figure, folder / f"{grid.table}_ablation.svg", caption=f"{name_of(grid.table)}. {words}", grid=grid
        )
    return plots


def _class_plot(grid: Grid, folder: Path) -> list[Plot]:
    """Compare the paper's own method with the baseline, class by class, in the last column that has both.

    In a table that is not the paper's, its last method that was measured.
    """
    base = next((line for line in grid.lines if line_name(line) == reference_name(grid)), None)
    if grid.table in PAPER_TABLES:
        wanted = [line for line in grid.lines if any(entry.paper_names_gain for entry in line.entries)]
    else:
        measured = [line for line in grid.lines if any(entry.rows for entry in line.entries)]
        wanted = [line for line in reversed(measured) if line is not base]
    own = next(iter(wanted), None)
    if base is None or own is None:
        return []
    both = [index for index in range(len(grid.columns)) if base.entries[index].rows and own.entries[index].rows]
    if not both:
        return []
    index = both[-1]
    names = (line_name(base), line_name(own))
    figure = class_figure(
        base.entries[index].rows,
        own.entries[index].rows,
        names=names,
        shown=grid.shown,
        classes=_classes(own.entries[index].rows, grid),
    )
    caption = f"{name_of(grid.table)}. IoU of each class at {grid.columns[index]}. {measured_on(grid)}"
    return _drawn(figure, folder / f"{grid.table}_classes.svg", caption=caption, grid=grid)


def _classes(rows: Sequence[Row], grid: Grid) -> list[str]:
    """Return the names of the classes of rows, the first of which has figures."""
    figures = figures_of(rows[0], grid.shown)
    return class_names(rows[0]["data"], len(figures["iou"]) if figures else 0)


def _curve_figures(grids: Sequence[Grid], folder: Path, *, curves: Callable[[str], Curves | None]) -> list[Plot]:
    by_table = {grid.table: grid for grid in grids}
    for table in CURVES_FROM:
        if table not in by_table:
            continue
        grid = by_table[table]
        filled = [sum(bool(line.entries[index].rows) for line in grid.lines) for index in range(len(grid.columns))]
        index = filled.index(max(filled))
        runs = {line_name(line): _seeds(line, index, curves=curves) for line in grid.lines}
        found = {name: seeds for name, seeds in runs.items() if seeds}
        if found:
            num_runs = sum(len(line.entries[index].rows) for line in grid.lines)
            lost = num_runs - sum(len(seeds) for seeds in found.values())
            where = f"{name_of(table)}, {grid.columns[index]}. {measured_on(grid)}"
            where += f" {lost} of {num_runs} runs have no curve here." if lost else ""
            plots = []
            for group, (ylabel, words) in GROUPS.items():
                figure = curve_figure(found, group=group, ylabel=ylabel)
                plots += _drawn(figure, folder / f"curves_{group}.svg", caption=f"{words}. {where}", grid=None)
            return plots + _class_curves(grid, found, folder=folder, where=where)
    return []


def _class_curves(grid: Grid, found: dict[str, list[Curves]], *, folder: Path, where: str) -> list[Plot]:
    """Draw what runs report of each class: the compared methods first, then any other."""
    ordered = {name: found[name] for name in (*COMPARED, *found) if name in found}
    classes = _classes([row for line in grid.lines for entry in line.entries for row in entry.rows], grid)
    balance = "Balance of the pseudo-labels: how often each class is given against how often it is true, in "
    balance += "doublings (0: as often, 1: twice, −1: half; blank: it does not occur), mean over seeds"
    queues = "How full each class's queue of negative keys is"
    plots = _drawn(
        balance_figure(ordered, classes), folder / "curves_balance.svg", caption=f"{balance}. {where}", grid=None
    )
    return plots + _drawn(
        queue_figure(ordered, classes), folder / "curves_queue.svg", caption=f"{queues}. {where}", grid=None
    )


def _reliability_plots(folder: Path, rows: Mapping[str, list[Row]]) -> list[Plot]:
    """Draw what the `reliability` stage counted; what is of no network that a row has today is marked."""
    records = read_reliability(folder.parent / "reliability")
    if not records:
        return []
    today = {row.get("train_key") for table in rows.values() for row in table if not row.get(OLDER)}
    older = [name_of_record(record) for record in records if record["train_key"] not in today]
    plots = []
    for record in records:
        name = "_".join((record["dataset"], record["method"], record["partition"].replace("-", "_")))
        caption = caption_of(record) + _of_older(name_of_record(record), older)
        plots += _drawn(reliability_figure(record), folder / f"reliability_{name}.svg", caption=caption, grid=None)
    marks = "".join(_of_older(name, older) for name in older)
    plots += _drawn(
        calibration_figure(records), folder / "reliability_calibration.svg", caption=CALIBRATION + marks, grid=None
    )
    return plots + _drawn(
        risk_coverage_figure(records), folder / "reliability_risk.svg", caption=RISK + marks, grid=None
    )


def _of_older(name: str, older: Sequence[str]) -> str:
    return f" {OLDER_CODE} {name}: {OLDER_CODE_MEANS}." if name in older else ""


def _seeds(line: Line, index: int, *, curves: Callable[[str], Curves | None]) -> list[Curves]:
    found = [curves(row["train_key"]) for row in line.entries[index].rows]
    return [each for each in found if each]


def _drawn(figure: Figure | None, path: Path, *, caption: str, grid: Grid | None) -> list[Plot]:
    if figure is None:
        return []
    save_figure(figure, path)
    return [Plot(path=path, caption=caption, table=grid.table if grid else None, is_ours=True)]
