"""What the lines of a table cost: columns of tables that the paper has not, beside the paper's a table of its own."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from pipeline.reporting.grid import Grid, Line


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One column of cost: the field of a measured row, its heading, what it means, and how many decimals it has."""

    field: str
    heading: str
    meaning: str
    decimals: int


COSTS = (
    Cost(
        field="cost_units",
        heading="units a step",
        meaning="multiplications of one step, counted, in units of one network's forward and backward pass over the "
        "labelled batch, as SupOnly does it",
        decimals=2,
    ),
    Cost(field="steps", heading="steps", meaning="training steps, those of a shared warm start included", decimals=0),
    Cost(field="train_s", heading="train s", meaning="wall time of training without the warm start", decimals=1),
    Cost(field="evaluate_s", heading="evaluate s", meaning="wall time of measuring it on the whole of val", decimals=1),
    Cost(
        field="peak_memory_mib",
        heading="memory MiB",
        meaning="most memory while training: the device's, or without one that of the whole process",
        decimals=0,
    ),
)


def costs_of(grid: Grid) -> list[Cost]:
    """Return the columns of cost that a table has: none where it stands beside the paper's, or nothing was recorded."""
    return [] if grid.has_published else recorded_costs(grid)


def recorded_costs(grid: Grid) -> list[Cost]:
    """Return the costs that any run of a table recorded."""
    return [cost for cost in COSTS if any(line_cost(line, cost) is not None for line in grid.lines)]


def line_cost(line: Line, cost: Cost) -> float | None:
    """Return the mean over the runs behind a line, or None where none recorded it."""
    values = [row[cost.field] for entry in line.entries for row in entry.rows if row.get(cost.field) is not None]
    return fmean(values) if values else None


def written(line: Line, cost: Cost, *, hole: str) -> str:
    """Return a line's cost as it is printed."""
    value = line_cost(line, cost)
    return hole if value is None else f"{value:.{cost.decimals}f}"
