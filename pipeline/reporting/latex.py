"""A table in LaTeX, ready to paste; needs the packages `booktabs`, `amssymb` and `graphicx`."""

from __future__ import annotations

from pipeline.reporting.costs import costs_of, written
from pipeline.reporting.grid import Entry, Grid
from pipeline.reporting.wording import (
    CODE,
    HOLE,
    SUBSCRIPT,
    description,
    deviation,
    difference,
    heading,
    label,
    legend,
    marks,
    number,
)

ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "[": "{[}",  # after a line's end LaTeX would read a length
    "]": "{]}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "–": "--",
    "✓": r"\checkmark{}",
    "α": r"$\alpha$",
    "τ": r"$\tau$",
}


def to_latex(grid: Grid) -> str:
    """Return the table as a `table` environment: caption, label, the table no wider than the text, then its notes.

    LaTeX numbers the table; the list of tables has its title alone.
    """
    per_column = 2 if grid.has_published else 1
    num_numbers = per_column * len(grid.columns) + len(costs_of(grid))
    first = len(grid.label_names) + 1
    lines = [
        "% \\usepackage{booktabs,amssymb,graphicx}",
        "\\begin{table}[t]",
        "\\centering\\small",
        f"\\caption[{escape(grid.title)}]{{{escape(grid.title)}. Scale {escape(f'`{grid.scale}`')}.}}",
        f"\\label{{tab:{grid.scale}-{grid.table.replace('_', '-')}}}",
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{"
        f"\\begin{{tabular}}{{{'l' * len(grid.label_names)}{'r' * num_numbers}}}",
        "\\toprule",
        *_heads(grid, per_column, first=first),
        "\\midrule",
        *[_row(grid, index) for index in range(len(grid.lines))],
        "\\bottomrule",
        "\\end{tabular}}",
        "\\par\\medskip\\begin{minipage}{\\textwidth}\\footnotesize",
        escape(description(grid)),
        *[f"\\par {escape(mark)}: {escape(text)}." for mark, text in legend(grid)],
        "\\end{minipage}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return text that LaTeX sets as it stands: specials escaped, `x_y` a subscript, backticks a typewriter."""
    parts = CODE.split(text)  # odd parts stood in backticks
    return "".join(
        f"\\texttt{{{_escape(part)}}}" if index % 2 else _with_math(part) for index, part in enumerate(parts)
    )


def _with_math(text: str) -> str:
    pieces, end = [], 0
    for match in SUBSCRIPT.finditer(text):
        pieces.append(_escape(text[end : match.start()]))
        base = "\\alpha" if match[1] == "α" else match[1]
        pieces.append(f"${base}_{{{match[2]}}}$")
        end = match.end()
    return "".join(pieces) + _escape(text[end:])


def _escape(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)


def _heads(grid: Grid, per_column: int, *, first: int) -> list[str]:
    labels = [escape(heading(name)) for name in grid.label_names]
    if per_column == 1:
        heads = [*grid.columns, *(cost.heading for cost in costs_of(grid))]
        return [" & ".join([*labels, *map(escape, heads)]) + r" \\"]
    spans = [f"\\multicolumn{{2}}{{c}}{{{escape(column)}}}" for column in grid.columns]
    starts = range(first, first + 2 * len(grid.columns), 2)
    rules = "".join(f"\\cmidrule(lr){{{start}-{start + 1}}}" for start in starts)
    below = [*labels, *["ours", "paper"] * len(grid.columns)]
    return [" & ".join([*[""] * len(labels), *spans]) + r" \\", rules, " & ".join(below) + r" \\"]


def _row(grid: Grid, index: int) -> str:
    line = grid.lines[index]
    cells = [escape(label(line, name)) for name in grid.label_names]
    for entry in line.entries:
        cells.append(_measured(entry, grid))
        if grid.has_published:
            cells.append(_bold(number(entry.published), entry.is_published_best) + _gain(entry, entry.published_gain))
    cells += [escape(written(line, cost, hole=HOLE)) for cost in costs_of(grid)]
    return " & ".join(cells) + r" \\"


def _measured(entry: Entry, grid: Grid) -> str:
    if entry.measured is None:
        return escape(HOLE)
    text = _bold(number(entry.measured), entry.is_best) + escape(deviation(entry, grid))
    found = escape(marks(entry))
    return text + _gain(entry, entry.gain) + (f" {found}" if found else "")


def _bold(text: str, is_bold: bool) -> str:
    return f"\\textbf{{{text}}}" if is_bold else escape(text)


def _gain(entry: Entry, gain: float | None) -> str:
    return escape(f" ({difference(gain)})") if entry.paper_names_gain and gain is not None else ""
