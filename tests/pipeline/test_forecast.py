"""The cost of a scale before it runs: counted steps, operations and memory against what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.forecast import LiveBytes, forecast, num_steps, step_cost, total
from pipeline.params import load_params, resolve_table
from pipeline.training.cost import unit_flop

PROJECT = Path(__file__).parents[2]


def row_of(method: str, *, scale: str = "smoke", **changes: Any) -> dict[str, Any]:
    params = load_params(PROJECT / "params.yaml") | {"scale": scale, "method": method} | changes
    (row,) = resolve_table(params, "experiment")
    return row


def test_steps_are_those_of_the_published_lists() -> None:
    assert num_steps(row_of("u2pl", scale="paper")) == 80 * ((10582 - 2646) // 16)
    assert num_steps(row_of("u2pl", scale="paper", dataset="voc_classic", partition="1-16")) == 52_400
    assert num_steps(row_of("suponly", scale="paper", dataset="voc_classic", partition="1-16")) == 480
    assert num_steps(row_of("u2pl", scale="embedded")) == 440


def test_live_bytes_rise_with_what_is_made_and_fall_with_what_is_dropped() -> None:
    known = torch.zeros(10)
    with LiveBytes([known]) as memory:
        made = known + 1
        view = made[2:]
        del made
        assert memory.live == 80  # the view keeps it
        del view
        assert memory.live == 40
    assert memory.peak == 80


def test_a_supervised_step_is_one_unit_and_a_mean_teachers_the_sum_of_its_passes() -> None:
    suponly, teacher = row_of("suponly"), row_of("mean_teacher")
    unit = unit_flop(suponly)
    assert step_cost(suponly).flop == unit
    assert step_cost(teacher).flop / unit == pytest.approx(2 + 1 / 3, abs=0.02)  # 2 labelled, 2 unlabelled images


def test_memory_grows_with_the_batch_and_the_crop() -> None:
    small = row_of("suponly")
    large = small | {"training": small["training"] | {"labelled_batch": 8, "crop": 96}}
    costs = [step_cost(row) for row in (small, large)]
    assert costs[1].peak_bytes > 2 * costs[0].peak_bytes  # weights and moments stay as they are


def test_a_training_that_two_tables_share_is_counted_once() -> None:
    rows = [("a", row_of("suponly")), ("b", row_of("suponly", seed=1))]
    lines = forecast({"table_1": rows[:1], "table_2": rows})
    assert [(line.trainings, line.steps) for line in lines] == [(1, lines[0].steps), (1, lines[0].steps)]
    both = total(lines)
    assert (both.trainings, both.flop) == (2, lines[0].flop + lines[1].flop)
