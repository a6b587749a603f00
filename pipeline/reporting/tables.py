"""A table as files: CSV for machines, Markdown and LaTeX ready to paste. Measured stands beside published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline.reporting.costs import costs_of, line_cost, written
from pipeline.reporting.grid import Entry, Grid, build_grid
from pipeline.reporting.latex import to_latex
from pipeline.reporting.paper import REPRODUCED, read_published
from pipeline.reporting.rows import BY_DEFAULT, MISSING, Row, Shown, has_equal_steps
from pipeline.reporting.wording import HOLE, caption, deviation, difference, heading, label, legend, marks, number


def write_table(
    table: str,
    rows: list[Row],
    *,
    reports_dir: Path,
    noise_rows: Sequence[Row] = (),
    shown: Shown = BY_DEFAULT,
) -> Grid:
    """Write `<reports_dir>/tables/<table>.csv`, `.md` and `.tex` and return the table they show.

    `reports_dir` is `reports/<scale>`, beside `reports/published`. `rows` are measured rows; `noise_rows` are rows with
    several seeds, `table_x3`'s, for tables that have one seed. Raises ValueError where a cell is missing, and whatever
    `build_grid` refuses.
    """
    if missing := [row for row in rows if row["state"] == MISSING]:
        named = "; ".join(f"{_named(row)}: {row['reason']}" for row in missing[:5])
        more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        hint = f"`python -m pipeline tables {table}` shows the table with holes"
        raise ValueError(f"{table}: {len(missing)} of {len(rows)} cells are missing ({named}{more}); {hint}")
    published = read_published(table, reports_dir.parent / "published")
    grid = build_grid(
        table,
        rows,
        published=published,
        noise_rows=list(noise_rows),
        shown=shown,
        has_equal_steps=has_equal_steps(reports_dir),
    )
    out_dir = reports_dir / "tables"
    out_dir.mkdir(parents=True, exist_ok=True)
    to_frame(grid).to_csv(out_dir / f"{table}.csv", index=False, float_format="%.2f")
    (out_dir / f"{table}.md").write_text(to_markdown(grid), encoding="utf-8")
    (out_dir / f"{table}.tex").write_text(to_latex(grid), encoding="utf-8")
    return grid


def to_frame(grid: Grid) -> pd.DataFrame:
    """Return the table as in its CSV: the published file's columns with the measured means, then all the rest.

    For each column `<column> sd`, `n`, `published`, `gain`, `published gain`, `note`; at the end `scale` and `data`,
    so that no file is read as numbers of other data.
    """
    records = []
    for line in grid.lines:
        record: dict[str, object] = dict(line.labels)
        if any(line.is_reproduced for line in grid.lines):
            record[REPRODUCED] = "yes" if line.is_reproduced else ""
        record |= {entry.column: entry.measured for entry in line.entries}
        for entry in line.entries:
            record |= _details(entry)
        if any(line.ran_as for line in grid.lines):
            record["ran as"] = line.ran_as
        record |= {cost.heading: line_cost(line, cost) for cost in costs_of(grid)}
        records.append(record | {"scale": grid.scale, "data": grid.data})
    return pd.DataFrame(records)


def to_markdown(grid: Grid) -> str:
    """Return the table in Markdown: caption, table, marks."""
    heads = [heading(name) for name in grid.label_names]
    for column in grid.columns:
        heads += [column, "paper"] if grid.has_published else [column]
    heads += [cost.heading for cost in costs_of(grid)]
    body = []
    for line in grid.lines:
        cells = [label(line, name) for name in grid.label_names]
        for entry in line.entries:
            cells.append(_measured(entry, grid))
            cells += [_published(entry)] if grid.has_published else []
        cells += [written(line, cost, hole=HOLE) for cost in costs_of(grid)]
        body.append(cells)
    numeric = len(heads) - len(grid.label_names)
    rules = [":--"] * len(grid.label_names) + ["--:"] * numeric
    explained = "\n".join(f"* {mark}: {text}" for mark, text in legend(grid))
    return f"{caption(grid)}\n\n{pipe_table(heads, rules, body=body)}\n\n{explained}\n"


def pipe_table(heads: list[str], rules: list[str], *, body: list[list[str]]) -> str:
    """Return a Markdown table with columns padded to one width; `rules` are `:--` and `--:`."""
    lines = [heads, rules, *body]
    lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(len(line[index]) for line in lines) for index in range(len(heads))]
    rows = []
    for position, line in enumerate(lines):
        cells = []
        for cell, width, rule in zip(line, widths, rules, strict=True):
            right = rule.endswith(":")
            if position == 1:
                cells.append("-" * (width - 1) + ":" if right else ":" + "-" * (width - 1))
            else:
                cells.append(cell.rjust(width) if right else cell.ljust(width))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _named(row: Row) -> str:
    return f"{', '.join(map(str, row['row'].values()))} at {row['column']}, seed {row['seed']}"


def _details(entry: Entry) -> dict[str, object]:
    notes = []
    if entry.num_diverged:
        steps = [str(row["diverged"]["step"]) for row in entry.rows if row["state"] == "diverged"]
        notes.append(f"diverged at step {', '.join(steps)}")
    if entry.is_noise:
        notes.append("gain within noise")
    if entry.num_older:
        notes.append(f"{entry.num_older} measured under older code")
    return {
        f"{entry.column} sd": entry.sd,
        f"{entry.column} n": entry.num_seeds,
        f"{entry.column} published": entry.published,
        f"{entry.column} gain": entry.gain,
        f"{entry.column} published gain": entry.published_gain,
        f"{entry.column} note": "; ".join([*notes, *entry.holes]),
    }


def _measured(entry: Entry, grid: Grid) -> str:
    if entry.measured is None:
        return number(None)
    text = f"**{number(entry.measured)}**" if entry.is_best else number(entry.measured)
    text += deviation(entry, grid)
    if entry.paper_names_gain and entry.gain is not None:
        text += f" ({difference(entry.gain)})"
    return f"{text} {marks(entry)}".rstrip()


def _published(entry: Entry) -> str:
    text = f"**{number(entry.published)}**" if entry.is_published_best else number(entry.published)
    if entry.paper_names_gain and entry.published_gain is not None:
        text += f" ({difference(entry.published_gain)})"
    return text
