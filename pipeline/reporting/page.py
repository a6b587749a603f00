"""`index.html`: one page that holds every table, figure and the provenance of every number, and needs no network."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.reporting import wording
from pipeline.reporting.costs import costs_of, recorded_costs, written
from pipeline.reporting.figures import INK, Curves
from pipeline.reporting.grid import Entry, Grid, build_grid
from pipeline.reporting.pairs import pairs_in, pairs_of
from pipeline.reporting.paper import PAPER_TABLES, is_paper_data, name_of, read_published
from pipeline.reporting.plots import Plot, table_plots, write_plots
from pipeline.reporting.provenance import CODE_FACTS, duration, run_facts, summary, value
from pipeline.reporting.rows import (
    SETTINGS,
    Row,
    Shown,
    has_equal_steps,
    read_noise_rows,
    read_rows,
    with_holes,
)

EXPERIMENT = "experiment"


def write_report(
    reports_dir: Path,
    *,
    shown: Shown,
    curves: Callable[[str], Curves | None],
    reason: Callable[[Row], str],
    key_of: Callable[[Row], str | None],
) -> Path:
    """Write `<reports_dir>/index.html` and the figures it shows, `<reports_dir>/figures/*.svg`; return the page's path.

    `reports_dir` is `reports/<scale>`, beside `reports/published`; its `cells/`, `metrics/` and `tables/` are read, and
    so is every picture in `pictures/` (its caption in a `.txt` beside it). `curves(train_key)` returns a run's metrics,
    None where they are not at hand; `reason(cell)` says why a cell was not measured; `key_of(cell)` is the key of its
    evaluation today, so that rows measured under older code are marked. Raises ValueError on a torn file, or where no
    cell is described.
    """
    tables = _ordered(path.stem for path in (reports_dir / "cells").glob("*.json"))
    if not tables:
        raise ValueError(f"{reports_dir / 'cells'}: no cells; `dvc repro cells` writes them")
    rows = {
        table: with_holes(
            read_rows(reports_dir / "cells" / f"{table}.json", measured=False),
            _measured(reports_dir, table),
            reason=reason,
            key_of=key_of,
        )
        for table in tables
    }
    grids = _grids(rows, reports_dir, shown=shown)
    plots = write_plots(grids, rows, folder=reports_dir / "figures", curves=curves)
    sections = [_section(grid, rows[grid.table], reports_dir=reports_dir, plots=plots) for grid in grids]
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            scale=grids[0].scale,
            roles=_roles(grids),
            is_own=all(grid.dataset == "folder" for grid in grids),
            has_published=any(grid.has_published for grid in grids),
            has_pairs=any(section["pairs"].total for section in sections),
            is_paper=all(is_paper_data(grid.data, grid.dataset) for grid in grids),
            shown=str(shown),
            facts=summary([row for table_rows in rows.values() for row in table_rows]),
            sections=sections,
            plots=[_picture(plot) for plot in plots if plot.table is None],
            code_facts=CODE_FACTS,
            older_mark=wording.OLDER_CODE,
            older_means=wording.OLDER_CODE_MEANS,
            not_separated=[section["name"] for section in sections if section["separates_nothing"]],
            noise=wording.noise_fact(next((grid.noise for grid in grids if grid.noise), None)),
        )
    )
    path = reports_dir / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _grids(rows: dict[str, list[Row]], reports_dir: Path, *, shown: Shown) -> list[Grid]:
    """Return every table that has rows, in the order of `rows`."""
    noise_rows, equal_steps = read_noise_rows(reports_dir), has_equal_steps(reports_dir)
    return [
        build_grid(
            table,
            found,
            published=read_published(table, reports_dir.parent / "published"),
            noise_rows=noise_rows,
            shown=shown,
            has_equal_steps=equal_steps,
        )
        for table, found in rows.items()
        if found
    ]


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"rich": rich, "duration": duration, "value": value}
    return environment


def rich(text: str) -> Markup:
    """Return plain text as HTML: `x_y` is x with a subscript, backticks are code."""
    parts = []
    for index, part in enumerate(wording.CODE.split(text)):  # odd parts stood in backticks
        plain = str(escape(part))
        parts.append(f"<code>{plain}</code>" if index % 2 else wording.SUBSCRIPT.sub(r"\1<sub>\2</sub>", plain))
    return Markup("".join(parts))


def _ordered(tables: Iterable[str]) -> list[str]:
    """Return the paper's tables in its order, then all others by name."""
    found = set(tables) - {EXPERIMENT}  # an experiment shows in `dvc exp show`; the page need not be made anew for it
    return [table for table in PAPER_TABLES if table in found] + sorted(found - set(PAPER_TABLES))


def _measured(reports_dir: Path, table: str) -> list[Row]:
    path = reports_dir / "metrics" / f"{table}.json"
    return read_rows(path) if path.exists() else []


def _roles(grids: Sequence[Grid]) -> dict[str, list[str]]:
    """Return the roles that each data set plays, by the name of the data."""
    roles: dict[str, list[str]] = {}
    for grid in grids:
        called = wording.role(grid)
        if called not in roles.setdefault(grid.data, []):
            roles[grid.data].append(called)
    return roles


def _section(grid: Grid, rows: Sequence[Row], *, reports_dir: Path, plots: Sequence[Plot]) -> dict[str, Any]:
    """Collect what the template needs to show one table."""
    facts = summary(rows)
    pairs = pairs_in(grid)
    files = [f"tables/{grid.table}.{suffix}" for suffix in ("csv", "md", "tex")]
    return {
        "id": grid.table,
        "name": name_of(grid.table),
        "title": grid.title,
        "role": wording.role(grid),
        "caption": wording.description(grid),
        "legend": wording.legend(grid),
        "has_published": grid.has_published,
        "has_difference": grid.has_published and is_paper_data(grid.data, grid.dataset),
        "headings": [wording.heading(name) for name in grid.label_names],
        "columns": grid.columns,
        "costs": [cost.heading for cost in costs_of(grid)],
        "prices": _prices(grid),
        "lines": [_line(grid, position) for position in range(len(grid.lines))],
        "reference": wording.reference_name(grid),
        "pairs": pairs,
        "separates_nothing": 0 < pairs.total == pairs.not_apart,
        "pairs_of_columns": [pairs_of(grid, index) for index in range(len(grid.columns))] if pairs.total else [],
        "facts": facts,
        "files": [name for name in files if (reports_dir / name).exists()],
        "plots": [_picture(plot) for plot in table_plots(plots, grid.table)],
    }


def _prices(grid: Grid) -> dict[str, Any] | None:
    """Return what each line of a table cost, for a table whose columns are the paper's."""
    costs = recorded_costs(grid)
    if not grid.has_published or not costs:
        return None
    measured = [line for line in grid.lines if any(entry.rows for entry in line.entries)]
    return {
        "heads": [cost.heading for cost in costs],
        "meanings": [(cost.heading, cost.meaning) for cost in costs],
        "lines": [
            (wording.line_name(line), [written(line, cost, hole=wording.HOLE) for cost in costs]) for line in measured
        ],
    }


def _line(grid: Grid, position: int) -> dict[str, Any]:
    line = grid.lines[position]
    name = wording.line_name(line)
    entries = []
    for column, entry in enumerate(line.entries):
        identity = f"{grid.table}-{position}-{column}"
        entries.append({"id": identity, "entry": entry, "where": f"{name}, {entry.column}"} | _numbers(entry))
    labels = [wording.label(line, label) for label in grid.label_names]
    costs = [written(line, cost, hole=wording.HOLE) for cost in costs_of(grid)]
    return {"labels": labels, "name": name, "entries": entries, "costs": costs}


def _numbers(entry: Entry) -> dict[str, Any]:
    """Return the figures of an entry as they are printed, and the provenance of its runs."""
    difference = None
    if entry.measured is not None and entry.published is not None:
        difference = wording.difference(entry.measured - entry.published)
    return {
        "measured": wording.number(entry.measured),
        "published": wording.number(entry.published),
        "sd": None if entry.sd is None else f"{entry.sd:.2f}",
        "gain": None if entry.gain is None else wording.difference(entry.gain),
        "published_gain": None if entry.published_gain is None else wording.difference(entry.published_gain),
        "difference": difference,
        "runs": [run_facts(row) for row in entry.rows],
        "settings": [(section, row[section]) for row in entry.rows[:1] for section in SETTINGS if section in row],
    }


def _picture(plot: Plot) -> dict[str, Any]:
    """Return a figure as markup: SVG of ours inline, to take the page's colours; any other picture as a data URI."""
    if plot.is_ours:
        text = plot.path.read_text(encoding="utf-8")
        return {"markup": inline_svg(text, plot.path.stem, title=plot.caption)} | _named(plot)
    kind = {".png": "png", ".svg": "svg+xml", ".jpg": "jpeg"}[plot.path.suffix]
    data = base64.b64encode(plot.path.read_bytes()).decode()
    image = Markup('<img src="data:image/{};base64,{}" alt="{}">').format(kind, data, plot.caption)
    return {"markup": image} | _named(plot)


def _named(plot: Plot) -> dict[str, str]:
    return {"id": f"figure-{plot.path.stem}", "caption": plot.caption}


def inline_svg(text: str, prefix: str, *, title: str) -> Markup:
    """Return a matplotlib SVG for use inside HTML: no prologue, ids of its own, ink in the page's text colour."""
    body = text[text.index("<svg") :]
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).replace(INK, "currentColor")
    label = str(escape(title))
    return Markup(body.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1))
