from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pipeline.reporting.compare import compare, comparison_markdown
from pipeline.reporting.rows import Shown
from pipeline.reporting.sides import Side

Row = dict[str, Any]
COLUMN = "1/8 (1323)"


@pytest.fixture
def row(make_row: Callable[..., Row]) -> Callable[..., Row]:
    def named(method: str, miou: float, **changes: Any) -> Row:
        return make_row("table_2", {"method": method}, COLUMN, miou=miou, **changes)

    return named


def side(*rows: Row, **choices: Any) -> Side:
    return Side(name="a side", rows=list(rows), **choices)


def test_equal_cells_stand_side_by_side_with_their_difference(row: Callable[..., Row]) -> None:
    frame = compare(side(row("MT", 60.0), row("CutMix", 61.0)), side(row("CutMix", 62.5), row("MT", 59.0)))
    assert frame[["row", "a", "b", "difference"]].to_numpy().tolist() == [["MT", 60, 59, -1], ["CutMix", 61, 62.5, 1.5]]
    assert set(frame["table"]) == {"table_2"}


def test_a_subset_of_the_data_has_the_same_columns(make_row: Callable[..., Row], row: Callable[..., Row]) -> None:
    few = make_row("table_2", {"method": "MT"}, "1/8", miou=55.0)
    assert compare(side(row("MT", 60.0)), side(few))["difference"].tolist() == [-5.0]


def test_seeds_are_averaged_and_small_differences_called_noise(row: Callable[..., Row]) -> None:
    a = [row("MT", miou, seed=seed) for seed, miou in enumerate([59.0, 61.0])]
    frame = compare(side(*a), side(row("MT", 60.5), row("CutMix", 70.0)))
    assert frame.loc[0, ["a", "n_a", "n_b", "difference", "is_noise"]].tolist() == [60.0, 2, 1, 0.5, True]


def test_without_seeds_it_is_not_known_what_is_noise(row: Callable[..., Row]) -> None:
    assert compare(side(row("MT", 60.0)), side(row("MT", 60.1)))["is_noise"].tolist() == [None]


def test_each_side_has_its_own_noise(row: Callable[..., Row]) -> None:
    """Standard deviations of 0.1 and 1 of single runs: chance makes up to 2 · √1.01 = 2.01 points."""
    quiet = side(row("MT", 60.0), noise_rows=_seeds(row, 0.1))
    loud = [side(row("MT", 60 + points), noise_rows=_seeds(row, 1.0)) for points in (1.99, 2.1)]
    assert [compare(quiet, each)["is_noise"].item() for each in loud] == [True, False]
    assert compare(quiet, side(row("MT", 60.5)))["is_noise"].item() is False  # only one side has seeds: 0.28 points


def _seeds(row: Callable[..., Row], sd: float) -> tuple[Row, ...]:
    return tuple(row("MT", 60 + shift, seed=seed) for seed, shift in enumerate((-sd, 0.0, sd)))


def test_each_side_is_shown_as_its_scale_shows_it_and_that_is_said(row: Callable[..., Row]) -> None:
    cell = row("MT", 60.0)
    frame = compare(side(cell), side(cell, shown=Shown(network="student")))
    assert frame[["a", "b"]].to_numpy().tolist() == [
        [60.0, cell["metrics"]["student"]["best"]["padding_ignored"]["miou"]]
    ]
    assert "shown: deployed network" in frame["changed"].item()
    assert "→ student network" in frame["changed"].item()


def test_changed_settings_are_named(row: Callable[..., Row]) -> None:
    slower = row("MT", 61.0, training={"lr": 0.003, "lr_factor": 1, "epochs": 20})
    assert compare(side(row("MT", 60.0)), side(slower))["changed"].tolist() == ["training.lr: 0.006 → 0.003"]


def test_numbers_of_different_data_are_never_subtracted(row: Callable[..., Row]) -> None:
    real = row("MT", 71.53, data={"name": "voc"}, scale="paper")
    frame = compare(side(row("MT", 60.0)), side(real))
    assert frame[["a", "b"]].to_numpy().tolist() == [[60.0, 71.53]]
    assert pd.isna(frame["difference"].item())


def test_a_cell_of_one_side_is_kept_with_a_hole(row: Callable[..., Row]) -> None:
    frame = compare(side(row("MT", 60.0)), side(row("CutMix", 61.0)))
    assert frame["row"].tolist() == ["MT", "CutMix"]
    assert frame[["a", "b"]].isna().to_numpy().tolist() == [[False, True], [True, False]]
    assert compare(side(), side()).empty


def test_markdown_shows_both_sides_by_name(row: Callable[..., Row]) -> None:
    text = comparison_markdown(compare(side(row("MT", 60.0)), side(row("MT", 59.0))), name_a="main", name_b="HEAD~3")
    head, _, line = text.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][3:6] == ["main", "HEAD~3", "difference"]
    assert [cell.strip() for cell in line.strip("|").split("|")][3:6] == ["60.00", "59.00", "−1.00"]


def test_one_data_set_of_two_sizes_is_not_the_same_data(row: Callable[..., Row]) -> None:
    small, large = row("MT", 60.0), row("MT", 62.5)
    large |= {"data": large["data"] | {"num_val": 160}}
    assert compare(side(small), side(small))["difference"].tolist() == [0]
    assert compare(side(small), side(large))["difference"].isna().all()
