from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.rows import Shown
from pipeline.reporting.tidy import cell_figures, write_plot_data

PROJECT = Path(__file__).parents[2]


def measured(row: str, column: str, miou: float, **changes: Any) -> dict[str, Any]:
    """A row as far as plots read it."""
    figures = {"padding_ignored": {"miou": miou, "iou": [miou, None, 0.0]}}
    networks = {name: {"best": figures, "last": figures} for name in ("student", "teacher")}
    cell = {
        "data": {"name": "mine"},
        "row": {"tau": row},
        "column": column,
        "seed": 0,
        "state": "done",
        "metrics": networks,
        "best_epoch": 3,
    }
    return cell | changes


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_table_is_a_line_for_each_cell_that_was_measured(tmp_path: Path) -> None:
    diverged = measured("1", "1/4", 0.0, state="diverged", metrics={}, diverged={"step": 3})
    write_plot_data([measured("0.5", "1/4", 61.234), measured("0.5", "1/8", 50.0), diverged], tmp_path, shown=Shown())
    assert [tuple(line.values()) for line in read(tmp_path / "miou.csv")] == [
        ("0.5", "1/4", "0", "61.23"),
        ("0.5", "1/8", "0", "50.0"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["miou.csv"]


def test_a_cell_alone_is_its_classes_and_curves_without_what_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("of an earlier run")
    curves = {"loss/supervised": [(1, 2.0), (2, math.nan)], "val/teacher_miou": [(2, 40.0)]}
    write_plot_data([measured("0.5", "1/4", 61.2)], tmp_path, shown=Shown(), curves=curves)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classes.csv", "curves.csv"]
    assert [tuple(line.values()) for line in read(tmp_path / "curves.csv")] == [
        ("1", "loss/supervised", "2.0"),
        ("2", "val/teacher_miou", "40.0"),
    ]
    assert [tuple(line.values()) for line in read(tmp_path / "classes.csv")][:2] == [
        ("class 0", "student", "61.2"),
        ("class 2", "student", "0.0"),
    ]


def test_a_file_that_would_have_no_line_is_not_written_since_dvc_cannot_read_it(tmp_path: Path) -> None:
    write_plot_data([measured("0.5", "1/4", 61.2, metrics={}, state="diverged")], tmp_path, shown=Shown())
    assert list(tmp_path.iterdir()) == []


def test_the_figures_of_a_cell_name_what_is_shown_first_and_have_holes_as_null() -> None:
    assert next(iter(cell_figures(measured("0.5", "1/4", 61.2), Shown()).items())) == ("miou", 61.2)
    diverged = cell_figures(measured("0.5", "1/4", 0.0, metrics={}, state="diverged"), Shown())
    assert diverged["miou"] is None


@pytest.mark.parametrize("template", ["bars", "curves"])
def test_a_template_has_every_place_that_dvc_fills(template: str) -> None:
    text = (PROJECT / ".dvc" / "plots" / f"{template}.json").read_text()
    assert json.loads(text)["$schema"].endswith("v5.json")
    assert all(f"<DVC_METRIC_{place}>" in text for place in ("DATA", "TITLE", "X", "Y", "X_LABEL"))
