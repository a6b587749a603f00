"""The paper's numbers: those of its tables, which repeat some of them, and of the copy they were checked in."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.reporting.paper import PAPER_TABLES

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT / "reports" / "published"
CHECKED = PROJECT.parent / "shared" / "paper_tables"

NUM_NUMBERS = {"table_1": 30, "table_2": 32, "table_3": 36, "table_4": 6, "table_5": 10, "table_6": 6, "table_7": 8,
               "table_a2": 6, "table_a3": 16, "table_a4": 16, "table_a5": 5, "table_a6": 5, "table_a7": 10,
               "table_a8": 8}  # fmt: skip

DEFAULT = {
    "table_2": "U2PL (w/ CutMix)",
    "table_3": "U2PL (w/ CutMix)",
    "table_4": "Unreliable",
    "table_5": "3 20",
    "table_6": "1 1 1 1 1",
    "table_7": "20",
    "table_a2": "Unreliable",
    "table_a3": "U2PL (w/ L_c)",
    "table_a4": "U2PL (w/ L_c)",
    "table_a5": "1e-3",
    "table_a6": "0.5",
    "table_a7": "3 20",
    "table_a8": "20",
}
"""How each table calls U2PL as it is."""

OF_CITYSCAPES = ("table_3", "table_a2", "table_a3", "table_a7", "table_a8")


def numbers(table: str) -> dict[tuple[str, str], float]:
    """Return the numbers of a table by the labels of their row, in a line, and their column."""
    with (PUBLISHED / f"{table}.csv").open() as file:
        lines = list(csv.DictReader(file))
    columns = [name for name in lines[0] if name.endswith(")")]
    labels = [name for name in lines[0] if name not in (*columns, "reproduced_by_authors")]
    return {
        (" ".join(line[name] for name in labels), column): float(line[column]) for line in lines for column in columns
    }


def test_every_table_of_the_paper_is_there_with_all_of_its_numbers() -> None:
    assert {table: len(numbers(table)) for table in PAPER_TABLES} == NUM_NUMBERS


@pytest.mark.parametrize("table", list(DEFAULT)[1:])
def test_what_the_paper_prints_twice_is_the_same_number(table: str) -> None:
    own, first = numbers(table), "table_3" if table in OF_CITYSCAPES else "table_2"
    for (row, column), value in own.items():
        if row == DEFAULT[table] and table != first:
            assert value == numbers(first)[DEFAULT[first], column], column
        if row in ("SupOnly", "MT"):
            assert value == numbers(first)[row, column], (row, column)


@pytest.mark.skipif(not CHECKED.is_dir(), reason="the checked copy is not beside the checkout (../shared/paper_tables)")
def test_every_number_is_that_of_the_checked_copy() -> None:
    names = {path.name for path in CHECKED.glob("*.csv")}
    assert names == {path.name for path in PUBLISHED.glob("*.csv")}
    for name in names:
        assert (PUBLISHED / name).read_bytes() == (CHECKED / name).read_bytes(), name
