"""The words around a table: caption, marks and holes, the same in Markdown, LaTeX and HTML.

The text is plain; `code` stands in backticks. A figure is written by `number` and `difference` everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.reporting.costs import costs_of
from pipeline.reporting.grid import Entry, Grid, Line, is_shorter
from pipeline.reporting.noise import Noise
from pipeline.reporting.paper import (
    CHECK_MARKS,
    HEADINGS,
    ROLES,
    data_phrase,
    facts_of,
    is_paper_data,
    name_of,
    role_of,
)
from pipeline.reporting.rows import EQUAL_STEPS_TABLE, figures_of, num_labelled

SUBSCRIPT = re.compile(r"(?<![^\W_])([A-Za-zα])_([A-Za-z0-9])(?![^\W_])")
"""`x_y`, which people read as x with the subscript y."""

CODE = re.compile(r"`([^`]*)`")
HOLE = "–"
DAGGER = "†"
NOISE = "≈"
DIVERGED = "×"
OLDER_CODE = "‡"
OLDER_CODE_MEANS = "measured under older code: the cell has another key today"
PLAIN = ("method", "variant")
"""Labels that stand for themselves, in words."""

RAN_AS = "Labels are the paper's; this scale runs them relative to its own default"
UNSET = "-"
"""A label that says: as by default."""

DEFAULT = "default"
"""How that is printed of a method's variants."""

TRUTHS = {"True": "✓", "False": "–", UNSET: "–"}
"""How labels are printed that say yes, no, or as by default."""


def number(value: float | None) -> str:
    """Write a figure with the paper's two decimals, or the mark of a hole."""
    return HOLE if value is None else f"{value:.2f}"


def difference(value: float) -> str:
    """Write a difference with its sign, a real minus."""
    return f"{value:+.2f}".replace("-", "−")


def heading(name: str) -> str:
    """Return how a label column is headed: `defect_one_hot` is `one hot`."""
    return HEADINGS.get(name) or (name if SUBSCRIPT.fullmatch(name) else name.removeprefix("defect_").replace("_", " "))


def label(line: Line, name: str) -> str:
    """Return the label of a line in one of its label columns, with † and what it was run as."""
    value = line.labels[name]
    if name in CHECK_MARKS:
        return "✓" if value == "1" else ""
    if name in PLAIN:
        value = DEFAULT if value == UNSET else value.replace("_", " ")
    value = TRUTHS.get(value, value)
    is_last = name == list(line.labels)[-1]
    dagger = DAGGER if line.is_reproduced and name == next(iter(line.labels)) else ""
    return f"{value}{dagger}{f' (here {line.ran_as})' if line.ran_as and is_last else ''}"


def line_name(line: Line) -> str:
    """Return the labels of a line in one phrase, for legends and screen readers."""
    if set(CHECK_MARKS) <= set(line.labels):
        return " + ".join(name for name in CHECK_MARKS if line.labels[name] == "1") or "no component"
    if len(line.labels) == 1:
        return next(iter(line.labels.values()))
    words = [_phrase(name, value) for name, value in line.labels.items() if value != UNSET]
    return ", ".join(words) or DEFAULT


def _phrase(name: str, value: str) -> str:
    if value in ("True", "False"):
        return heading(name) if value == "True" else f"no {heading(name)}"
    return value.replace("_", " ") if name in PLAIN else f"{heading(name)} = {value}"


def marks(entry: Entry) -> str:
    """Return the marks behind a measured figure."""
    noise, diverged = NOISE if entry.is_noise else "", DIVERGED if entry.num_diverged else ""
    return f"{noise}{diverged}{OLDER_CODE if entry.num_older else ''}"


def deviation(entry: Entry, grid: Grid) -> str:
    """Return ` ± sd` behind a mean over seeds, and their number where other places of the table have more."""
    usual = max(each.num_seeds for line in grid.lines for each in line.entries)
    text = "" if entry.sd is None else f" ± {entry.sd:.2f}"
    return text if entry.num_seeds == usual else f"{text} (n = {entry.num_seeds})"


def role(grid: Grid) -> str:
    """Return how the paper's data set is called."""
    return role_of(grid.dataset)


def caption(grid: Grid) -> str:
    """Return the whole caption of a table that stands alone."""
    return f"{name_of(grid.table)}. {grid.title}. {description(grid)}"


def description(grid: Grid) -> str:
    """Say what the table shows, which figure, at which scale and on which data, and what the paper's numbers are."""
    sentences = [*filter(None, [facts_of(grid.table).words]), f"mIoU in percent ({grid.shown}). {measured_on(grid)}"]
    if grid.has_published and not is_paper_data(grid.data, grid.dataset):
        sentences.append(
            f"The paper's columns are {role(grid)} itself: compare rankings and gains, never absolute values."
        )
    elif grid.has_published:
        sentences.append("Beside them the paper's numbers.")
    if grid.dataset in ROLES and any(column.endswith(")") for column in grid.columns):
        sentences.append(f"Counts in the column headers are the paper's numbers of labelled images{_used(grid)}.")
    if any(line.ran_as for line in grid.lines):
        sentences.append(f"{RAN_AS}, as given in parentheses.")
    return " ".join(sentences)


def _used(grid: Grid) -> str:
    """Say how many labelled images were used here, column by column, where that is not what the header says."""
    columns = {entry.column: num_labelled(entry.rows[0]) for line in grid.lines for entry in line.entries if entry.rows}
    used = [f"{count} at {_partitions([column])}" for column, count in columns.items() if count]
    return f"; used here: {', '.join(used)}" if used else ""


def measured_on(grid: Grid) -> str:
    """Say at which scale and on which data the measured numbers were measured."""
    return f"Measured at scale `{grid.scale}` on {data_phrase(grid.data, grid.dataset)}."


def legend(grid: Grid) -> list[tuple[str, str]]:
    """Return the marks that this table uses and what each means."""
    entries = [entry for line in grid.lines for entry in line.entries]
    explained = []
    if any(entry.is_best for entry in entries):
        explained.append(("bold", "the best of its column"))
    if any(entry.paper_names_gain for entry in entries):
        explained.append(("(+)", f"gain over {reference_name(grid)}, where the paper reports it"))
    if any(line.is_reproduced for line in grid.lines):
        explained.append((DAGGER, "published number that the paper's authors measured themselves"))
    seeds = sorted({entry.num_seeds for entry in entries if entry.num_seeds > 1})
    of_means = _of_means(grid)
    if seeds:
        explained.append(("±", f"standard deviation over n = {' or '.join(map(str, seeds))} seeds{of_means}"))
    if any(entry.is_noise for entry in entries):
        fact = "the two means differ by less than chance makes"
        if not of_means:
            fact = f"{noise_fact(grid.noise, with_shorter=bool(_shorter(grid)))}{borrowed(grid)}"
        explained.append((NOISE, f"cannot be told apart from {reference_name(grid)}: {fact}"))
    diverged = [diverged_sentence(line, entry) for line in grid.lines for entry in line.entries if entry.num_diverged]
    if diverged:
        explained.append((DIVERGED, f"diverged, last finite figures: {'; '.join(diverged)}"))
    if older := sum(entry.num_older for entry in entries):
        explained.append((OLDER_CODE, f"{OLDER_CODE_MEANS} ({older} of {sum(len(e.rows) for e in entries)} runs)"))
    if absent := _absent(grid):
        explained.append(("mIoU", f"a class absent from both masks and predictions counts as 0: {absent}"))
    if shorter := _shorter(grid):
        explained.append(("fewer steps", _fewer_steps(grid, shorter)))
    explained += [(cost.heading, cost.meaning) for cost in costs_of(grid)]
    if any(entry.gain is not None for entry in entries) and grid.noise is None:
        explained.append((NOISE, f"not marked: {noise_fact(None)}"))
    return explained + [(HOLE, f"{reason}: {', '.join(places)}") for reason, places in holes(grid).items()]


def _absent(grid: Grid) -> str:
    """Say how many classes occur neither in masks nor in predictions, of the row with the most of them, or nothing."""
    found = [figures_of(row, grid.shown) for line in grid.lines for entry in line.entries for row in entry.rows]
    ious = [figures["iou"] for figures in found if figures is not None]
    chosen = grid.shown.classes
    shown = [[iou[index] for index in (range(len(iou)) if chosen is None else chosen)] for iou in ious]
    most = max(shown, key=lambda iou: iou.count(None), default=[])
    return f"{most.count(None)} of {len(most)}" if None in most else ""


def _shorter(grid: Grid) -> list[Line]:
    """Return the lines that train fewer steps than another in one of the columns."""
    columns = range(len(grid.columns))
    return [line for line in grid.lines if any(is_shorter(grid, column, line=line) for column in columns)]


def _fewer_steps(grid: Grid, shorter: Sequence[Line]) -> str:
    """Say which lines train fewer steps than the others, and what that means for a gain."""
    called = [f"{line_name(line)} trains {_steps([line])}" for line in shorter]
    others = _steps([line for line in grid.lines if line not in shorter])
    hint = ""
    if grid.has_equal_steps and any(line.labels.get("method") == "SupOnly" for line in shorter):
        hint = f"; {name_of(EQUAL_STEPS_TABLE)} has SupOnly with equal steps"
    others = f", the others {others}" if others else ""
    return f"{', '.join(called)} steps{others}: part of a difference is more training{hint}"


def _steps(lines: Sequence[Line]) -> str:
    found = {row["steps"] for line in lines for entry in line.entries for row in entry.rows if row.get("steps")}
    return " to ".join(str(each) for each in dict.fromkeys([min(found), max(found)])) if found else ""


def _of_means(grid: Grid) -> str:
    """Say what chance does to two rows' means where a table has several seeds."""
    num_seeds = max(entry.num_seeds for line in grid.lines for entry in line.entries)
    if grid.noise is None or num_seeds < 2:
        return ""
    words = f"; two rows differ by up to {grid.noise.of_difference(num_seeds):.2f} points by chance (95 %)"
    shorter = grid.noise.of_difference(num_seeds, num_shorter=1)
    if shorter is not None and _shorter(grid):
        words += f", by up to {shorter:.2f} where one of them trains fewer steps"
    words += ": what a seed does to all rows cancels"
    return words if grid.noise.source == grid.table else f"{words}; {_measured_by(grid.noise)}{borrowed(grid)}"


def noise_fact(noise: Noise | None, *, with_shorter: bool = True) -> str:
    """Say what chance does to a difference, and where that is known from."""
    if noise is None:
        return "how much seeds vary is not measured, so small differences may be chance"
    words = f"two rows of one and the same seed differ by up to {noise.of_difference(1):.2f} points by chance (95 %)"
    shorter = noise.of_difference(1, num_shorter=1)
    if with_shorter and shorter is not None:
        words += f", by up to {shorter:.2f} where one of them trains fewer steps"
    return f"{words}; {_measured_by(noise)}"


def _measured_by(noise: Noise) -> str:
    source = ", ".join(map(name_of, noise.source.split(", ")))
    return f"measured by the seeds of {source} (on {noise.measured_on} at {_partitions(noise.columns)})"


def borrowed(grid: Grid) -> str:
    """Say for which of its data or partitions a table borrows its noise from others; empty where it is measured."""
    if grid.noise is None:
        return ""
    if grid.dataset not in grid.noise.datasets:
        return f"; borrowed from there: {role(grid)} was not measured with several seeds"
    strange = [column for column in grid.columns if column not in grid.noise.columns]
    return f"; borrowed from there for {_partitions(strange)}" if strange else ""


def _partitions(columns: Sequence[str]) -> str:
    return _listed([column.partition(" (")[0] for column in columns])


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def reference_name(grid: Grid) -> str:
    """Return how the row is called that gains are taken to, e.g. `SupOnly` or `τ = 0.5`; empty where there is none."""
    if grid.reference is None:
        return ""
    name = line_name(Line(labels=grid.reference, is_reproduced=False, ran_as="", entries=()))
    if len(grid.reference) == 1 and name[0].isdigit():
        return f"{heading(next(iter(grid.reference))).removesuffix(' (%)')} = {name}"
    return name


def diverged_sentence(line: Line, entry: Entry) -> str:
    """Say which runs of an entry diverged, and when."""
    rows = [row for row in entry.rows if row["state"] == "diverged"]
    steps = ", ".join(f"step {row['diverged']['step']}" for row in rows)
    several = f" ({len(rows)} of {entry.num_seeds} seeds)" if entry.num_seeds > 1 else ""
    return f"{line_name(line)} at {entry.column}, {steps}{several}"


def holes(grid: Grid) -> dict[str, list[str]]:
    """Return the places of all holes by their reason; a row without any figure is named once."""
    places: dict[str, list[str]] = {}
    for line in grid.lines:
        reasons = [entry.holes for entry in line.entries]
        if len(set(reasons)) == 1 and len(reasons) > 1:
            for reason in reasons[0]:
                places.setdefault(reason, []).append(line_name(line))
            continue
        for entry in line.entries:
            for reason in entry.holes:
                places.setdefault(reason, []).append(f"{line_name(line)} at {entry.column}")
    return places
