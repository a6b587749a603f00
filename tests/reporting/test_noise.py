from __future__ import annotations

import json
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.noise import Noise, Spread, deviation_of, noise_for, noise_of
from pipeline.reporting.rows import Shown, read_noise_rows

Row = dict[str, Any]
COLUMN = "1/8 (1323)"


@pytest.fixture
def seeds(make_row: Callable[..., Row]) -> Callable[..., list[Row]]:
    def rows(table: str, method: str, values: list[float], *, column: str = COLUMN, steps: int = 400) -> list[Row]:
        return [
            make_row(table, {"method": method}, column, miou=miou, seed=s, steps=steps) for s, miou in enumerate(values)
        ]

    return rows


@pytest.fixture
def two(seeds: Callable[..., list[Row]]) -> Callable[..., list[Row]]:
    """Two rows of a table whose residuals are half a point each: one degree of freedom, sd 1."""

    def rows(table: str, *, column: str = COLUMN) -> list[Row]:
        return seeds(table, "MT", [60.0, 62.0], column=column) + seeds(table, "CutMix", [60.0, 64.0], column=column)

    return rows


def found(noise: Noise | None) -> Noise:
    assert noise is not None
    return noise


def test_the_spread_is_the_one_worked_out_by_hand(seeds: Callable[..., list[Row]]) -> None:
    """Seeds lift rows by -1, 0, 1; what is left of the first is (1, -1, 0) / 2, of the second its negative."""
    rows = seeds("table_x3", "MT", [60.5, 60.5, 62.0]) + seeds("table_x3", "CutMix", [70.5, 72.5, 73.0])
    noise = found(noise_of(rows, Shown()))
    assert noise.usual.sd == pytest.approx(sqrt(4 * 0.5**2 / 2))
    assert noise.usual.freedom == (2 - 1) * (3 - 1)
    assert (noise.source, noise.columns, noise.datasets) == ("table_x3", (COLUMN,), ("voc_blender",))
    assert noise.measured_on == "`shapes` data playing VOC blender"
    again = [row | {"column": "1/4 (2646)", "train_key": f"{row['train_key']}4"} for row in rows]
    pooled = found(noise_of(rows + again, Shown()))
    assert (pooled.usual.sd, pooled.usual.freedom) == (pytest.approx(noise.usual.sd), 4)
    assert pooled.columns == (COLUMN, "1/4 (2646)")


def test_what_a_seed_does_to_every_row_is_no_noise_of_a_difference(seeds: Callable[..., list[Row]]) -> None:
    rows = seeds("table_x3", "MT", [60.0, 50.0, 70.0]) + seeds("table_x3", "CutMix", [61.0, 51.0, 71.0])
    assert found(noise_of(rows, Shown())).usual.sd == pytest.approx(0)
    assert deviation_of(rows, Shown()) == pytest.approx(10)


def test_a_row_of_fewer_steps_has_a_spread_of_its_own(seeds: Callable[..., list[Row]]) -> None:
    """The seeds lift the others by -1, 0, 1, which the short row's 40, 47, 45 have too: 41, 47, 44 are left."""
    others = seeds("table_x3", "MT", [60.5, 60.5, 62.0]) + seeds("table_x3", "CutMix", [70.5, 72.5, 73.0])
    short = seeds("table_x3", "SupOnly", [40.0, 47.0, 45.0], steps=40)
    noise = found(noise_of(others + short, Shown()))
    assert noise.usual == found(noise_of(others, Shown())).usual
    assert noise.shorter == Spread(sd=pytest.approx(3.0), freedom=2)
    assert found(noise_of(others, Shown())).shorter is None


def test_a_difference_has_students_quantile_and_falls_with_the_seeds() -> None:
    """The quantiles 2.228 (10 degrees of freedom) and 4.303 (2) are those of any printed table."""
    noise = Noise(
        usual=Spread(sd=1.0, freedom=10),
        shorter=Spread(sd=3.0, freedom=2),
        source="table_x3",
        measured_on="",
        columns=(),
        datasets=(),
    )
    assert noise.of_difference(1) == pytest.approx(2.228 * sqrt(2), rel=1e-3)
    assert noise.of_difference(3) == pytest.approx(2.228 * sqrt(2 / 3), rel=1e-3)
    assert noise.of_difference(1, num_shorter=1) == pytest.approx(4.303 * sqrt(10), rel=1e-3)
    assert noise.of_difference(2, num_shorter=2) == pytest.approx(4.303 * 3, rel=1e-3)
    assert noise.of_difference(0) is None


def test_the_share_that_chance_alone_exceeds_is_one_in_twenty(seeds: Callable[..., list[Row]]) -> None:
    generator = np.random.default_rng(0)
    lucky = generator.normal(0, 3, 3)
    values = 60 + lucky + generator.normal(0, 1, (30, 3))
    rows = [row for index, line in enumerate(values) for row in seeds("table_x3", f"m{index}", line.tolist())]
    noise = found(noise_of(rows, Shown()))
    single = 60 + 3 * generator.normal(0, 1, (4000, 1)) + generator.normal(0, 1, (4000, 2))
    limit = noise.of_difference(1)
    assert limit is not None
    assert np.mean(np.abs(single[:, 0] - single[:, 1]) > limit) == pytest.approx(0.05, abs=0.025)


def test_single_and_diverged_runs_tell_nothing_about_noise(
    seeds: Callable[..., list[Row]], two: Callable[..., list[Row]]
) -> None:
    rows = two("table_x3")
    rows[1] |= {"state": "diverged", "diverged": {"step": 3, "losses": {}}}
    assert noise_of(rows, Shown()) is None
    assert noise_of(seeds("table_x3", "MT", [60.0, 61.0]), Shown()) is None  # its own share or the seed's
    assert noise_of(seeds("table_x3", "MT", [60.0]) + seeds("table_x3", "CutMix", [60.0]), Shown()) is None
    assert noise_of([], Shown()) is None
    assert deviation_of([], Shown()) is None


def test_rows_that_lack_a_seed_make_a_block_of_their_own(two: Callable[..., list[Row]]) -> None:
    alone = [row for row in two("table_x3") if (row["method"], row["seed"]) != ("cutmix", 1)]
    assert noise_of(alone, Shown()) is None


def test_a_tables_own_seeds_come_before_other_seeds_of_its_data_and_those_before_any(
    two: Callable[..., list[Row]],
) -> None:
    own, alike, unlike = two("table_2"), two("table_x3", column="1/4 (2646)"), two("table_3", column="1/8 (372)")
    single = own[:1]
    for rows, others, source in (
        (own, alike + unlike, "table_2"),
        (single, alike + unlike, "table_x3"),
        (single, unlike, "table_3"),
    ):
        assert found(noise_for(rows, others, shown=Shown())).source == source
    assert noise_for(single, [], shown=Shown()) is None


def test_a_table_of_few_rows_with_seeds_takes_the_noise_of_one_that_tells_more(
    seeds: Callable[..., list[Row]], two: Callable[..., list[Row]]
) -> None:
    """A training and the moving average of that very training vary alike: their difference is no measure of chance."""
    twins = seeds("table_x2", "SupOnly", [60.0, 62.0, 61.0]) + seeds("table_x2", "EMA", [60.1, 62.1, 61.1])
    others = [row for name in ("MT", "CutMix", "CCT") for row in seeds("table_x3", name, [60.0, 62.0, len(name)])]
    assert found(noise_for(twins, others, shown=Shown())).source == "table_x3"
    assert found(noise_for(twins, two("table_x3"), shown=Shown())).source == "table_x2"


def test_seeds_whose_cells_changed_since_are_no_noise(few: Path) -> None:
    assert noise_of(read_noise_rows(few), Shown()) is not None
    path = few / "cells" / "table_x3.json"
    cells = [cell | {"training": cell["training"] | {"epochs": 99}} for cell in json.loads(path.read_text())]
    path.write_text(json.dumps(cells))
    assert noise_of(read_noise_rows(few), Shown()) is None


def test_a_run_that_stands_in_two_tables_is_one_run(
    seeds: Callable[..., list[Row]], two: Callable[..., list[Row]]
) -> None:
    once = two("table_x3")
    single = seeds("table_2", "MT", [60.0])
    assert noise_of(single + seeds("table_4", "MT", [60.0]), Shown()) is None
    assert noise_of(single + once, Shown()) == noise_of(once, Shown())
    assert found(noise_of(once + two("table_a4"), Shown())).usual == found(noise_of(once, Shown())).usual
    assert deviation_of(once + two("table_a4"), Shown()) == pytest.approx(sqrt((2 + 8) / 2))
