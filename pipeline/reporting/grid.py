"""A table before it is printed: rows pivoted beside the published numbers, with gains, noise and holes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pipeline.reporting.noise import Noise, noise_for, num_steps
from pipeline.reporting.paper import REPRODUCED, Published, facts_of, reference_of
from pipeline.reporting.rows import (
    EQUAL_STEPS_TABLE,
    OLDER,
    Row,
    Shown,
    canonical,
    data_of,
    figures_of,
    why_missing,
)

DECIMALS = 2
"""As the paper prints. Gains are differences of printed numbers, so that a reader's subtraction agrees."""

NOT_RUN = "not run at this scale"
"""Why a row or column that only the paper has is a hole."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One place of a table. Figures are mIoU in percent, rounded as printed; None is a hole.

    `gain` is the difference to the table's reference row in the same column, of the measured and of the published
    number; the paper itself prints or names it where `paper_names_gain`. `is_noise`: the measured gain is below what
    chance does. `rows` are the measured rows behind it, one a seed, `num_older` of them measured under older code;
    `holes` say what is not there and why.
    """

    column: str
    measured: float | None
    sd: float | None
    num_seeds: int
    num_diverged: int
    num_older: int
    published: float | None
    rows: tuple[Row, ...]
    holes: tuple[str, ...]
    gain: float | None = None
    published_gain: float | None = None
    paper_names_gain: bool = False
    is_noise: bool = False
    is_best: bool = False
    is_published_best: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table. `ran_as` holds measured values where a label is only the paper's name for them."""

    labels: dict[str, str]
    is_reproduced: bool
    ran_as: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A whole table. `data` names what the measured numbers were measured on, `dataset` the role it plays.

    `has_equal_steps`: another table of this scale has SupOnly with as many steps as the other methods train.
    """

    table: str
    title: str
    scale: str
    data: str
    dataset: str
    label_names: list[str]
    columns: list[str]
    lines: tuple[Line, ...]
    reference: dict[str, str] | None
    noise: Noise | None
    shown: Shown
    has_published: bool
    has_equal_steps: bool


def build_grid(
    table: str,
    rows: list[Row],
    *,
    published: Published | None,
    noise_rows: list[Row],
    shown: Shown,
    has_equal_steps: bool = False,
) -> Grid:
    """Pivot the rows of a table. Rows and columns stand as published, what the paper has not comes last.

    Raises ValueError for no rows, rows of another table or of two scales, unlike labels, or a seed that comes twice.
    """
    label_names = published.labels if published else list(rows[0]["row"]) if rows else []
    _check(table, rows, label_names=label_names)
    rows = [row | {"column": _published_column(row["column"], published)} for row in rows]
    columns = list(dict.fromkeys([*(published.columns if published else []), *(row["column"] for row in rows)]))
    printed = {canonical(record, label_names): record for record in _records(published)}
    measured: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in rows:
        measured.setdefault(canonical(row["row"], label_names), []).append(row)
    statistics = _statistics(rows, label_names, shown=shown)
    lines = []
    for labels in dict.fromkeys([*printed, *measured]):
        record, own = printed.get(labels, {}), measured.get(labels, [])
        entries = [
            _entry(column, own, statistics=statistics.get((str(labels), column)), shown=shown) for column in columns
        ]
        spelt = record or {name: str(value) for name, value in own[0]["row"].items()}
        lines.append(
            Line(
                labels={name: spelt[name] for name in label_names},
                is_reproduced=record.get(REPRODUCED) == "yes",
                ran_as=_ran_as(own, spelt),
                entries=tuple(replace(entry, published=_number(record.get(entry.column))) for entry in entries),
            )
        )
    grid = Grid(
        table=table,
        title=facts_of(table).title,
        scale=rows[0]["scale"],
        data=", ".join(dict.fromkeys(data_of(row) for row in rows)),
        dataset=rows[0]["dataset"],
        label_names=label_names,
        columns=columns,
        lines=tuple(lines),
        reference=_reference(table, label_names, lines=lines),
        noise=noise_for(rows, noise_rows, shown=shown),
        shown=shown,
        has_published=published is not None,
        has_equal_steps=has_equal_steps and table != EQUAL_STEPS_TABLE,
    )
    return _with_best(_with_gains(grid))


def _reference(table: str, label_names: list[str], *, lines: list[Line]) -> dict[str, str] | None:
    """Return the labels of the reference row if the table has that row."""
    reference = reference_of(table, label_names)
    return reference if any(line.labels == reference for line in lines) else None


def _published_column(column: str, published: Published | None) -> str:
    """Return the published header of a column: of a subset of the data, `1/8` stands beside `1/8 (1323)`."""
    alike = [name for name in (published.columns if published else []) if name.partition(" (")[0] == column]
    return alike[0] if len(alike) == 1 else column


def _ran_as(rows: list[Row], labels: dict[str, str]) -> str:
    """Return the learning rate that a line was run with where its label is only the paper's name for it (Table A5)."""
    if "lr_base" not in labels or not rows:
        return ""
    rates = sorted({f"{row['training']['lr'] * row['training']['lr_factor']:g}" for row in rows})
    named = canonical(labels, ["lr_base"])  # of a table of one's own perhaps `x 2`, or `-`
    is_same = [canonical({"lr_base": rate}, ["lr_base"]) for rate in rates] == [named]
    return "" if is_same else ", ".join(rates).replace("e-0", "e-")


def reference_line(grid: Grid) -> Line | None:
    """Return the line that gains are taken to, or None where the table has none."""
    if grid.reference is None:
        return None
    wanted = canonical(grid.reference, grid.label_names)
    return next((line for line in grid.lines if canonical(line.labels, grid.label_names) == wanted), None)


def is_shorter(grid: Grid, column: int, *, line: Line) -> bool:
    """Tell whether a line trained fewer steps than another of the table in this column."""
    most = max(num_steps(each.entries[column].rows) for each in grid.lines)
    return 0 < num_steps(line.entries[column].rows) < most


def chance(grid: Grid, column: int, *, lines: tuple[Line, Line]) -> float | None:
    """Return the points that two lines differ by through chance in a column; None where that is not known."""
    seeds = [{row["seed"] for row in line.entries[column].rows} for line in lines]
    num_shorter = sum(is_shorter(grid, column, line=line) for line in lines)
    return grid.noise.of_difference(len(seeds[0] & seeds[1]), num_shorter=num_shorter) if grid.noise else None


def _check(table: str, rows: list[Row], *, label_names: list[str]) -> None:
    if not rows:
        raise ValueError(f"{table}: there is no row; a table needs at least one cell, measured or missing")
    seen = set()
    for row in rows:
        if row["table"] != table:
            raise ValueError(f"{table}: a row of {row['table']} is among its rows")
        if row["scale"] != rows[0]["scale"]:
            raise ValueError(f"{table}: rows of two scales, {rows[0]['scale']} and {row['scale']}")
        if set(row["row"]) != set(label_names):
            raise ValueError(f"{table}: a row is labelled by {', '.join(row['row'])}, not by {', '.join(label_names)}")
        place = (canonical(row["row"], label_names), row["column"], row["seed"])
        if place in seen:
            raise ValueError(f"{table}: seed {row['seed']} comes twice at {dict(place[0])}, {row['column']}")
        seen.add(place)


def _records(published: Published | None) -> list[dict[str, str]]:
    return [] if published is None else published.frame.to_dict("records")


def _statistics(rows: list[Row], label_names: list[str], *, shown: Shown) -> dict[tuple[str, str], dict[str, float]]:
    """Return mean, sd (n - 1 below the line) and number over the seeds, by labels and column."""
    records = []
    for row in rows:
        figures = figures_of(row, shown)
        miou = None if figures is None else figures["miou"]
        records.append((str(canonical(row["row"], label_names)), row["column"], miou))
    frame = pd.DataFrame(records, columns=["labels", "column", "miou"]).astype({"miou": float})
    summary = frame.groupby(["labels", "column"])["miou"].agg(["mean", "std", "count"]).round(DECIMALS)
    return summary.to_dict("index")


def _entry(column: str, line_rows: list[Row], *, statistics: dict[str, float] | None, shown: Shown) -> Entry:
    rows = [row for row in line_rows if row["column"] == column]
    behind = tuple(row for row in rows if figures_of(row, shown) is not None)
    holes = [_hole(row, shown, among=len(rows)) for row in rows if row not in behind]
    return Entry(
        column=column,
        measured=_number(statistics and statistics["mean"]),
        sd=_number(statistics and statistics["std"]),
        num_seeds=len(behind),
        num_diverged=sum(row["state"] == "diverged" for row in behind),
        num_older=sum(bool(row.get(OLDER)) for row in behind),
        published=None,
        rows=behind,
        holes=tuple(holes) if rows else (NOT_RUN,),
    )


def _hole(row: Row, shown: Shown, *, among: int) -> str:
    seed = f"seed {row['seed']}: " if among > 1 else ""
    return f"{seed}{why_missing(row, shown)}"


def _number(value: Any) -> float | None:
    """Return a float, or None for what is not there."""
    if value is None or value == "" or pd.isna(value):
        return None
    return float(value)


def _with_gains(grid: Grid) -> Grid:
    reference = reference_line(grid)
    if reference is None:
        return grid
    named = facts_of(grid.table).gains
    lines = []
    for line in grid.lines:
        entries = []
        for column, (entry, base) in enumerate(zip(line.entries, reference.entries, strict=True)):
            gain = None if line is reference else _difference(entry.measured, base.measured)
            published_gain = None if line is reference else _difference(entry.published, base.published)
            limit = None if gain is None else chance(grid, column, lines=(line, reference))
            entries.append(
                replace(
                    entry,
                    gain=gain,
                    published_gain=published_gain,
                    paper_names_gain=next(iter(line.labels.values())) in named,
                    is_noise=limit is not None and gain is not None and abs(gain) < limit,
                )
            )
        lines.append(replace(line, entries=tuple(entries)))
    return replace(grid, lines=tuple(lines))


def _difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else round(value - base, DECIMALS) + 0.0  # never -0.0


def _with_best(grid: Grid) -> Grid:
    """Mark the highest measured and the highest published number of each column; ties are all best."""
    lines = [list(line.entries) for line in grid.lines]
    for index in range(len(grid.columns)):
        column = [entries[index] for entries in lines]
        measured = [entry.measured for entry in column if entry.measured is not None]
        published = [entry.published for entry in column if entry.published is not None]
        for entries in lines:
            entry = entries[index]
            entries[index] = replace(
                entry,
                is_best=len(measured) > 1 and entry.measured == max(measured),
                is_published_best=len(published) > 1 and entry.published == max(published),
            )
    renewed = tuple(replace(line, entries=tuple(entries)) for line, entries in zip(grid.lines, lines, strict=True))
    return replace(grid, lines=renewed)
