"""Whether rows stand in the paper's order: pairs that agree with it, contradict it, or cannot be told apart here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from pipeline.reporting.grid import Grid, chance


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Numbers of pairs of rows, measured both, whose published numbers differ."""

    agree: int = 0
    contradict: int = 0
    not_apart: int = 0

    @property
    def total(self) -> int:
        """Return how many pairs can be compared at all."""
        return self.agree + self.contradict + self.not_apart

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(
            agree=self.agree + other.agree,
            contradict=self.contradict + other.contradict,
            not_apart=self.not_apart + other.not_apart,
        )


def pairs_of(grid: Grid, column: int) -> Pairs:
    """Count the pairs of a column; not apart are measured numbers that differ by no more than chance makes.

    Where it is not known what chance makes, only equal numbers are not apart.
    """
    counts = Pairs()
    for line, other in combinations(grid.lines, 2):
        a, b = line.entries[column], other.entries[column]
        if a.measured is None or b.measured is None or a.published is None or b.published is None:
            continue
        ours, paper = a.measured - b.measured, a.published - b.published
        if paper == 0:
            continue
        if ours == 0 or abs(ours) < (chance(grid, column, lines=(line, other)) or 0):
            counts += Pairs(not_apart=1)
        elif ours * paper > 0:
            counts += Pairs(agree=1)
        else:
            counts += Pairs(contradict=1)
    return counts


def pairs_in(grid: Grid) -> Pairs:
    """Count the pairs of all columns of a table."""
    return sum((pairs_of(grid, column) for column in range(len(grid.columns))), Pairs())
