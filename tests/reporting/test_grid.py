from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from pipeline.reporting.grid import Entry, Grid, build_grid
from pipeline.reporting.paper import PAPER_TABLES, read_published
from pipeline.reporting.rows import Shown
from pipeline.reporting.wording import caption, legend

Row = dict[str, Any]
MakeRow = Callable[..., Row]


@pytest.fixture
def make_grid(published_dir: Path) -> Callable[..., Grid]:
    def grid(table: str, rows: list[Row], *, noise_rows: list[Row] | None = None, shown: Shown | None = None) -> Grid:
        published = read_published(table, published_dir)
        return build_grid(table, rows, published=published, noise_rows=noise_rows or [], shown=shown or Shown())

    return grid


def entry(grid: Grid, column: str, **labels: str) -> Entry:
    [line] = [line for line in grid.lines if all(line.labels[name] == value for name, value in labels.items())]
    return line.entries[grid.columns.index(column)]


@pytest.mark.parametrize("table", list(PAPER_TABLES))
def test_rows_and_columns_stand_as_published_whatever_the_order_of_the_measured(
    table: str, make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]], published_dir: Path
) -> None:
    published = read_published(table, published_dir)
    assert published is not None
    grid = make_grid(table, make_table(table)[::-1])
    assert grid.columns == published.columns
    assert [list(line.labels.values()) for line in grid.lines] == published.frame[published.labels].to_numpy().tolist()
    for line, (_, record) in zip(grid.lines, published.frame.iterrows(), strict=True):
        assert [each.published for each in line.entries] == [float(record[column]) for column in grid.columns]


def test_the_baseline_of_every_table_is_one_of_its_rows(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    for table in PAPER_TABLES:
        grid = make_grid(table, make_table(table))
        without = [line for line in grid.lines if line.entries[0].published_gain is None]
        assert len(without) == 1, table


@pytest.mark.parametrize(
    ("table", "label", "gains"),
    [
        ("table_1", "U2PL (w/ CutMix)", [22.21, 14.23, 7.78, 4.47, 6.99]),
        ("table_1", "MT", [5.95, 4.01, -2.02, -2.18, -1.54]),
        ("table_2", "U2PL (w/ CutMix)", [9.34, 7.46, 3.50, 3.37]),
        ("table_2", "MT", [2.64, -0.02, -2.78, -0.55]),
        ("table_3", "U2PL (w/ AEL)", [9.16, 3.95, 4.08, 1.29]),
        ("table_a3", "U2PL (w/ L_b)", [4.13, 0.40, 1.48, 0.53]),  # the prose says 3.77 for the first; the table 4.13
        ("table_a4", "U2PL (w/ L_b)", [7.49, 5.07, 3.84, 2.67]),
    ],
)
def test_the_papers_gains_over_suponly_are_those_of_its_prose(
    table: str, label: str, gains: list[float], make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid(table, make_table(table))
    [line] = [line for line in grid.lines if line.labels["method"] == label]
    assert [each.published_gain for each in line.entries] == gains
    assert all(each.paper_names_gain == label.startswith("U2PL") for each in line.entries)


def test_the_gains_of_table_6_are_over_the_row_without_components(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid("table_6", make_table("table_6"))
    assert [line.entries[0].published_gain for line in grid.lines] == [None, 4.06, 5.47, 6.05, 4.55, 6.28]


def test_a_measured_gain_is_the_difference_of_the_printed_numbers(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    base = make_row("table_2", {"method": "SupOnly"}, "1/8 (1323)", miou=60.004)
    own = make_row("table_2", {"method": "MT"}, "1/8 (1323)", miou=61.006)
    found = entry(make_grid("table_2", [base, own]), "1/8 (1323)", method="MT")
    assert (found.measured, found.gain) == (61.01, 1.01)


def test_seeds_give_mean_deviation_and_number(make_grid: Callable[..., Grid], make_row: MakeRow) -> None:
    values = [60.11, 61.92, 63.58]
    rows = [make_row("table_a6", {"tau": "0.5"}, "1/4 (2646)", miou=miou, seed=s) for s, miou in enumerate(values)]
    found = entry(make_grid("table_a6", rows), "1/4 (2646)", tau="0.5")
    assert found.measured == round(mean(values), 2)
    assert found.sd == round(stdev(values), 2)
    assert found.num_seeds == 3


def test_one_seed_has_no_deviation(make_grid: Callable[..., Grid], make_row: MakeRow) -> None:
    found = entry(
        make_grid("table_a6", [make_row("table_a6", {"tau": "1"}, "1/4 (2646)", miou=60)]), "1/4 (2646)", tau="1"
    )
    assert (found.sd, found.num_seeds) == (None, 1)


def test_a_row_that_only_the_paper_has_is_a_hole_with_its_published_number(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    found = entry(make_grid("table_2", make_table("table_2")), "1/8 (1323)", method="CPS")
    assert (found.measured, found.published, found.holes) == (None, 76.44, ("not run at this scale",))


def test_a_row_that_the_paper_has_not_comes_last_without_published_numbers(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]], make_row: MakeRow
) -> None:
    added = make_row("table_2", {"method": "UniMatch"}, "1/8 (1323)", miou=70)
    grid = make_grid("table_2", [added, *make_table("table_2")])
    assert grid.lines[-1].labels == {"method": "UniMatch"}
    assert all(each.published is None for each in grid.lines[-1].entries)
    assert entry(grid, "1/8 (1323)", method="UniMatch").measured == 70


def test_a_missing_seed_is_named_beside_the_mean_of_the_others(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    rows = [make_row("table_a6", {"tau": "1"}, "1/4 (2646)", miou=60 + seed, seed=seed) for seed in range(3)]
    rows[1] |= {"state": "missing", "reason": "node lost"}
    found = entry(make_grid("table_a6", rows), "1/4 (2646)", tau="1")
    assert (found.measured, found.num_seeds, found.holes) == (61.0, 2, ("seed 1: node lost",))


def test_a_diverged_run_keeps_its_last_finite_figures_and_is_counted(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    row = make_row("table_a5", {"lr_base": "1e-1"}, "1/4 (2646)", miou=3.49)
    row |= {"state": "diverged", "diverged": {"step": 12, "losses": {"supervised": "nan"}}}
    found = entry(make_grid("table_a5", [row]), "1/4 (2646)", lr_base="1e-1")
    assert (found.measured, found.num_diverged) == (3.49, 1)


def test_a_run_that_diverged_before_its_first_evaluation_is_a_hole(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    row = make_row("table_a5", {"lr_base": "1e-1"}, "1/4 (2646)", miou=3.49)
    row |= {"state": "diverged", "diverged": {"step": 12, "losses": {}}, "metrics": {}}
    found = entry(make_grid("table_a5", [row]), "1/4 (2646)", lr_base="1e-1")
    assert (found.measured, found.holes) == (None, ("diverged at step 12, before its first evaluation",))


@pytest.mark.parametrize(
    ("base", "own"),
    [([0.0], [0.0]), ([-0.5, -0.5, 1.0], [-1.5, 0.5, 1.0])],
    ids=["one seed, borrowed", "three seeds of its own"],
)
def test_a_gain_below_the_seeds_noise_is_marked_and_one_above_is_not(
    base: list[float], own: list[float], make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    def seeds(table: str, method: str, values: list[float]) -> list[Row]:
        where = table, {"method": method}, "1/8 (1323)"
        return [make_row(*where, miou=miou, seed=seed) for seed, miou in enumerate(values)]

    noise_rows = seeds("table_x3", "MT", [60.5, 60.5, 62.0]) + seeds("table_x3", "CutMix", [60.5, 62.5, 63.0])
    limit = 4.303 * 0.5**0.5 * (2 / len(base)) ** 0.5  # two degrees of freedom: see the tests of noise
    for gain, is_noise in ((limit - 0.05, True), (limit + 0.05, False), (-limit + 0.05, True), (-limit - 0.05, False)):
        rows = seeds("table_2", "SupOnly", [60 + each for each in base])
        rows += seeds("table_2", "MT", [60 + gain + each for each in own])
        grid = make_grid("table_2", rows, noise_rows=noise_rows)
        assert entry(grid, "1/8 (1323)", method="MT").is_noise == is_noise
        assert not entry(grid, "1/8 (1323)", method="SupOnly").is_noise


def test_without_seeds_anywhere_nothing_is_called_noise(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid("table_2", make_table("table_2"))
    assert grid.noise is None
    assert not any(each.is_noise for line in grid.lines for each in line.entries)


def test_the_best_of_a_column_is_marked_on_both_sides_and_ties_share_it(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    values = {"SupOnly": 60.0, "MT": 62.001, "CutMix": 62.002}
    rows = [make_row("table_2", {"method": name}, "1/8 (1323)", miou=miou) for name, miou in values.items()]
    grid = make_grid("table_2", rows)
    column = grid.columns.index("1/8 (1323)")
    assert [line.labels["method"] for line in grid.lines if line.entries[column].is_best] == ["MT", "CutMix"]
    assert [line.labels["method"] for line in grid.lines if line.entries[column].is_published_best] == [
        "U2PL (w/ CutMix)"
    ]


def test_daggers_are_those_of_the_published_file(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid("table_3", make_table("table_3"))
    marked = [line.labels["method"] for line in grid.lines if line.is_reproduced]
    assert marked == ["MT", "CutMix", "CPS", "AEL"]


def test_a_learning_rate_other_than_its_label_is_told(
    make_grid: Callable[..., Grid], make_table: Callable[..., list[Row]]
) -> None:
    grid = make_grid("table_a5", make_table("table_a5"))
    assert [line.ran_as for line in grid.lines] == ["0.6", "0.06", "0.006", "0.0006", "6e-5"]


def test_a_learning_rate_equal_to_its_label_is_not_repeated(make_grid: Callable[..., Grid], make_row: MakeRow) -> None:
    row = make_row("table_a5", {"lr_base": "1e-3"}, "1/4 (2646)", miou=79, training={"lr": 0.001, "lr_factor": 1})
    assert [line.ran_as for line in make_grid("table_a5", [row]).lines] == [""] * 5


def test_a_factor_of_the_rate_in_a_table_of_ones_own_is_no_rate(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    training = {"lr": 0.005, "lr_factor": 2}
    grid = make_grid("table_lr", [make_row("table_lr", {"lr_base": "x 2"}, "1/4 (2646)", miou=79, training=training)])
    assert [line.ran_as for line in grid.lines] == ["0.01"]


def test_a_rate_as_the_method_has_it_is_told_where_others_are_multiplied(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    rows = [
        make_row("table_lr", {"lr_base": label}, "1/4 (2646)", miou=79, training={"lr": 0.005, "lr_factor": factor})
        for label, factor in (("-", 1), ("x 2", 2))
    ]
    assert [line.ran_as for line in make_grid("table_lr", rows).lines] == ["0.005", "0.01"]


def test_classes_that_nothing_has_are_told_since_they_count_0(
    make_grid: Callable[..., Grid], make_row: MakeRow
) -> None:
    """The rows of these tests have one of 21."""
    rows = [make_row("table_x9", {"method": "SupOnly"}, "1/8 (1323)", miou=61)]
    grid = make_grid("table_x9", rows)
    assert dict(legend(grid))["mIoU"].endswith("counts as 0: 1 of 21")
    shown = replace(grid, shown=Shown(classes=(0, 1)))
    assert "mIoU" not in dict(legend(shown))
    assert "Counts in the column headers are the paper's numbers of labelled images." in caption(grid)


def test_a_table_that_the_paper_has_not_stands_alone(make_row: MakeRow, make_grid: Callable[..., Grid]) -> None:
    grid = make_grid("table_x9", [make_row("table_x9", {"semantics": "released"}, "1/8 (1323)", miou=61)])
    assert (grid.has_published, grid.reference, grid.label_names) == (False, None, ["semantics"])


def test_a_table_without_its_reference_row_has_no_gains(make_row: MakeRow, make_grid: Callable[..., Grid]) -> None:
    grid = make_grid("experiment", [make_row("experiment", {"method": "U2PL (w/ CutMix)"}, "1/4 (2646)", miou=61)])
    assert grid.reference is None
    assert grid.lines[0].entries[0].gain is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "table_2"}, "a row of table_2 is among its rows"),
        ({"scale": "paper"}, "rows of two scales, embedded and paper"),
        ({"row": {"tau": "1", "M": "50"}}, "labelled by tau, M, not by tau"),
        ({}, "seed 0 comes twice at {'tau': '1'}, 1/4 "),
    ],
)
def test_rows_that_do_not_make_one_table_are_refused(
    change: Row, message: str, make_row: MakeRow, make_grid: Callable[..., Grid]
) -> None:
    row = make_row("table_a6", {"tau": "1"}, "1/4 (2646)", miou=60)
    with pytest.raises(ValueError, match=message):
        make_grid("table_a6", [row, row | change])


def test_a_table_of_no_rows_is_refused(make_grid: Callable[..., Grid]) -> None:
    with pytest.raises(ValueError, match="table_a6: there is no row"):
        make_grid("table_a6", [])


def test_a_subset_of_the_data_stands_in_the_published_column(make_grid: Callable[..., Grid], make_row: MakeRow) -> None:
    rows = [make_row("table_2", {"method": "MT"}, "1/8 (1323)", miou=70) | {"column": "1/8"}]
    grid = make_grid("table_2", rows)
    assert grid.columns == ["1/16 (662)", "1/8 (1323)", "1/4 (2646)", "1/2 (5291)"]
    found = entry(grid, "1/8 (1323)", method="MT")
    assert found.measured == 70
    assert found.published is not None
