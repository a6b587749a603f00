from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.noise import noise_for, pooled_noise
from pipeline.reporting.rows import Shown, read_noise_rows

Row = dict[str, Any]


@pytest.fixture
def seeds(make_row: Callable[..., Row]) -> Callable[..., list[Row]]:
    def rows(table: str, column: str, values: list[float], method: str = "CutMix") -> list[Row]:
        return [make_row(table, {"method": method}, column, miou=miou, seed=s) for s, miou in enumerate(values)]

    return rows


def test_the_pooled_deviation_is_the_one_worked_out_by_hand(seeds: Callable[..., list[Row]]) -> None:
    rows = seeds("table_x3", "1/8 (1323)", [60.0, 61.0, 62.0]) + seeds("table_x3", "1/4 (2646)", [70.0, 74.0])
    noise = pooled_noise(rows, Shown())
    assert noise is not None
    assert noise.sd == pytest.approx(sqrt((1 + 0 + 1 + 4 + 4) / (2 + 1)))
    assert (noise.num_cells, noise.num_runs, noise.source) == (2, 5, "table_x3")
    assert noise.measured_on == "`shapes` data playing VOC blender"


def test_the_noise_of_a_difference_falls_with_the_seeds_of_both_sides(seeds: Callable[..., list[Row]]) -> None:
    noise = pooled_noise(seeds("table_x3", "1/8 (1323)", [60.0, 61.0, 62.0]), Shown())
    assert noise is not None
    assert noise.of_difference(1, 1) == pytest.approx(2 * sqrt(2))
    assert noise.of_difference(3, 6) == pytest.approx(2 * sqrt(1 / 3 + 1 / 6))


def test_single_and_diverged_runs_tell_nothing_about_noise(seeds: Callable[..., list[Row]]) -> None:
    rows = seeds("table_x3", "1/8 (1323)", [60.0, 3.5])
    rows[1] |= {"state": "diverged", "diverged": {"step": 3, "losses": {}}}
    assert pooled_noise(rows, Shown()) is None
    assert pooled_noise(seeds("table_x3", "1/8 (1323)", [60.0]), Shown()) is None
    assert pooled_noise([], Shown()) is None


def test_a_tables_own_seeds_come_before_other_seeds_of_its_data_and_those_before_any(
    seeds: Callable[..., list[Row]],
) -> None:
    own = seeds("table_2", "1/8 (1323)", [60.0, 61.0])
    alike, unlike = seeds("table_x3", "1/8 (1323)", [50.0, 54.0]), seeds("table_3", "1/8 (372)", [50.0, 58.0])
    single = own[:1]
    for rows, others, source in (
        (own, alike + unlike, "table_2"),
        (single, alike + unlike, "table_x3"),
        (single, unlike, "table_3"),
    ):
        noise = noise_for(rows, others, shown=Shown())
        assert noise is not None
        assert noise.source == source
    assert noise_for(single, [], shown=Shown()) is None


def test_seeds_whose_cells_changed_since_are_no_noise(few: Path) -> None:
    assert pooled_noise(read_noise_rows(few), Shown()) is not None
    path = few / "cells" / "table_x3.json"
    cells = [cell | {"training": cell["training"] | {"epochs": 99}} for cell in json.loads(path.read_text())]
    path.write_text(json.dumps(cells))
    assert pooled_noise(read_noise_rows(few), Shown()) is None


def test_a_run_that_stands_in_two_tables_is_one_run(seeds: Callable[..., list[Row]]) -> None:
    once = seeds("table_x3", "1/8 (1323)", [60.0, 61.0, 62.0])
    single = seeds("table_2", "1/8 (1323)", [60.0])
    assert pooled_noise(single + seeds("table_4", "1/8 (1323)", [60.0]), Shown()) is None
    assert pooled_noise(single + once, Shown()) == pooled_noise(once, Shown())
    twice = pooled_noise(once + seeds("table_a4", "1/8 (1323)", [60.0, 61.0, 62.0]), Shown())
    assert twice is not None
    assert (twice.sd, twice.num_runs) == (1.0, 3)
