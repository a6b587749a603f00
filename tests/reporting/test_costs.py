"""What a line costs stands beside tables of our own, in every format, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.reporting.tables import write_table

Row = dict[str, Any]
COLUMN = "1/8 (1323)"


@pytest.fixture
def priced(make_row: Callable[..., Row]) -> list[Row]:
    costs = [("SupOnly", 1.0, 10.0, 900.0), ("MT", 2.33, 20.0, 950.0)]
    return [
        make_row("table_x3", {"method": name}, COLUMN, miou=60 + seed, seed=seed, train_s=train_s + seed)
        | {"cost_units": units, "peak_memory_mib": mib}
        for name, units, train_s, mib in costs
        for seed in range(2)
    ]


def test_every_format_shows_the_mean_cost_of_a_line(reports_dir: Path, priced: list[Row]) -> None:
    write_table("table_x3", priced, reports_dir=reports_dir)
    frame = pd.read_csv(reports_dir / "tables" / "table_x3.csv").set_index("method")
    assert frame.loc["MT", ["units a step", "steps", "train s", "memory MiB"]].tolist() == [2.33, 400, 20.5, 950]
    markdown = (reports_dir / "tables" / "table_x3.md").read_text()
    [line] = [line for line in markdown.splitlines() if line.startswith("| MT")]
    assert [cell.strip() for cell in line.split("|")[-6:-1]] == ["2.33", "400", "20.5", "1.5", "950"]
    assert "* units a step: multiplications" in markdown
    latex = (reports_dir / "tables" / "table_x3.tex").read_text()
    [line] = [line for line in latex.splitlines() if line.startswith("MT &")]
    assert line.endswith(r" & 2.33 & 400 & 20.5 & 1.5 & 950 \\")
    assert "{lrrrrrr}" in latex


def test_a_cost_that_was_not_recorded_is_a_hole_and_one_that_nobody_has_no_column(
    reports_dir: Path, priced: list[Row]
) -> None:
    rows = [{key: value for key, value in row.items() if key != "peak_memory_mib"} for row in priced]
    for row in rows[:2]:
        del row["cost_units"]
    write_table("table_x3", rows, reports_dir=reports_dir)
    markdown = (reports_dir / "tables" / "table_x3.md").read_text()
    [line] = [line for line in markdown.splitlines() if line.startswith("| SupOnly")]
    assert [cell.strip() for cell in line.split("|")[-5:-1]] == ["–", "400", "10.5", "1.5"]


def test_the_papers_tables_stay_as_the_paper_has_them(reports_dir: Path, make_table: Callable[..., list[Row]]) -> None:
    rows = [row | {"cost_units": 2.0} for row in make_table("table_7")]
    write_table("table_7", rows, reports_dir=reports_dir)
    assert "units" not in (reports_dir / "tables" / "table_7.csv").read_text()
