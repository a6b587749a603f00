"""What rows say of the paper's order, and what is said below a table of rows that train fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.grid import Grid, build_grid
from pipeline.reporting.pairs import Pairs, pairs_in, pairs_of
from pipeline.reporting.paper import PAPER_TABLES, read_published
from pipeline.reporting.rows import Shown
from pipeline.reporting.wording import legend

Row = dict[str, Any]
MakeRow = Callable[..., Row]


@pytest.fixture
def make_grid(published_dir: Path) -> Callable[..., Grid]:
    def grid(table: str, rows: list[Row], *, noise_rows: list[Row] | None = None) -> Grid:
        published = read_published(table, published_dir)
        return build_grid(table, rows, published=published, noise_rows=noise_rows or [], shown=Shown())

    return grid


def test_pairs_are_those_a_double_loop_counts(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    for table in PAPER_TABLES:
        grid = make_grid(table, make_table(table))
        for column in range(len(grid.columns)):
            agreeing = contradicting = equal = 0
            for i, line in enumerate(grid.lines):
                for other in grid.lines[i + 1 :]:
                    a, b = line.entries[column], other.entries[column]
                    if a.measured is None or b.measured is None or a.published is None or b.published is None:
                        continue
                    if a.published == b.published:
                        continue
                    if a.measured == b.measured:
                        equal += 1
                    elif (a.measured > b.measured) == (a.published > b.published):
                        agreeing += 1
                    else:
                        contradicting += 1
            counts = Pairs(agree=agreeing, contradict=contradicting, not_apart=equal)
            assert pairs_of(grid, column) == counts
            assert counts.total == agreeing + contradicting + equal
        assert pairs_in(grid).total == sum(pairs_of(grid, column).total for column in range(len(grid.columns)))


def test_a_pair_within_noise_neither_agrees_nor_contradicts(make_grid: Callable[..., Grid], make_row: MakeRow) -> None:
    """The paper: SupOnly 71.55, MT 71.53, CutMix 75.51. Chance makes 4.3 points, and 18 where a row is short."""

    def row(table: str, method: str, miou: float, **changes: Any) -> Row:
        return make_row(table, {"method": method}, "1/8 (1323)", miou=miou, **changes)

    noise_rows = [row("table_x3", "MT", miou, seed=seed) for seed, miou in enumerate([60.5, 60.5, 62.0])]
    noise_rows += [row("table_x3", "CutMix", miou, seed=seed) for seed, miou in enumerate([60.5, 62.5, 63.0])]
    rows = [row("table_2", "SupOnly", 70.0), row("table_2", "MT", 64.0), row("table_2", "CutMix", 67.0)]
    grid = make_grid("table_2", rows, noise_rows=noise_rows)
    assert pairs_in(grid) == Pairs(agree=1, contradict=0, not_apart=2)
    noise_rows += [row("table_x3", "SupOnly", miou, seed=seed, steps=40) for seed, miou in enumerate([40, 47, 45.0])]
    short = [rows[0] | {"steps": 40}, *rows[1:]]
    assert pairs_in(make_grid("table_2", rows, noise_rows=noise_rows)) == pairs_in(grid)
    assert pairs_in(make_grid("table_2", short, noise_rows=noise_rows)) == Pairs(not_apart=3)


def test_rows_that_train_fewer_steps_are_told_below_the_table(published_dir: Path, make_row: MakeRow) -> None:
    def row(method: str, column: str, steps: int) -> Row:
        return make_row("table_2", {"method": method}, column, miou=60, steps=steps)

    rows = [row("SupOnly", "1/16 (662)", 44), row("SupOnly", "1/2 (5291)", 352)]
    rows += [row(method, column, 440) for method in ("MT", "CutMix") for column in ("1/16 (662)", "1/2 (5291)")]

    def told(rows: list[Row], *, has_equal_steps: bool) -> str | None:
        published = read_published("table_2", published_dir)
        grid = build_grid(
            "table_2", rows, published=published, noise_rows=[], shown=Shown(), has_equal_steps=has_equal_steps
        )
        return dict(legend(grid)).get("fewer steps")

    fact = "SupOnly trains 44 to 352 steps, the others 440: part of a difference is more training"
    assert told(rows, has_equal_steps=False) == fact
    assert told(rows, has_equal_steps=True) == f"{fact}; Table X2 has SupOnly with equal steps"
    assert told(rows[2:], has_equal_steps=True) is None
