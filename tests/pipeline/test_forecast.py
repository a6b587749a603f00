"""The cost of a scale before it runs: counted steps, operations and memory against what is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.cell import chain
from pipeline.commands.forecast import LiveBytes, NetworkBytes, StepCost, forecast, step_cost, total
from pipeline.commands.measuring import evaluation_flop, image_flop, image_size
from pipeline.models.segnet import Output, SegNet
from pipeline.params import all_tables, resolve_table
from pipeline.training.cost import unit_flop
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


def row_of(method: str, *, scale: str = "smoke", **changes: Any) -> dict[str, Any]:
    params = project_params(scale, method=method, **changes)
    (row,) = resolve_table(params, "experiment")
    return row


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


def test_recomputing_takes_less_memory_and_more_operations() -> None:
    """Where the encoder has blocks in a row, whose insides need not be kept."""
    kept = row_of("suponly")
    encoder = kept["model"]["encoder"] | {"blocks": [3, 4, 6, 3], "multi_grid": [1, 1, 1]}
    kept |= {"model": kept["model"] | {"encoder": encoder}, "training": kept["training"] | {"crop": 128}}
    again = kept | {"training": kept["training"] | {"recompute": True}}
    assert step_cost(again).peak_bytes < step_cost(kept).peak_bytes
    assert step_cost(again).flop > step_cost(kept).flop


def test_a_training_that_two_tables_share_is_counted_once() -> None:
    rows = [("a", row_of("suponly")), ("b", row_of("suponly", seed=1))]
    lines = forecast({"table_1": rows[:1], "table_2": rows})
    assert [(line.trainings, line.steps) for line in lines] == [(1, lines[0].steps), (1, lines[0].steps)]
    both = total(lines)
    assert (both.trainings, both.flop) == (2, lines[0].flop + lines[1].flop)


def test_memory_of_a_rank_is_its_share_of_the_networks_and_all_else_whole() -> None:
    row = row_of("u2pl", rank_low=3)
    row["training"] |= {"precision": "float32"}  # else the weights' copies in bfloat16 are kept too, whatever the batch
    one, half = (
        step_cost(row),
        step_cost(row | {"training": row["training"] | {"labelled_batch": 1, "unlabelled_batch": 1}}),
    )
    assert one.rank_bytes(1) == one.peak_bytes > one.rank_bytes(2) > one.rank_bytes(4)
    assert one.network_bytes == pytest.approx(2 * half.network_bytes, rel=0.05)
    assert one.rank_bytes(2) > half.peak_bytes  # losses see the whole batch


def test_what_networks_keep_is_most_of_a_step_on_large_images() -> None:
    row = row_of("suponly")
    cost = step_cost(row | {"training": row["training"] | {"crop": 192}})
    assert 0.5 * cost.peak_bytes < cost.network_bytes < cost.peak_bytes


@pytest.mark.parametrize("method", sorted(project_params()["methods"]))
def test_what_networks_keep_is_counted_however_a_method_calls_them(method: str) -> None:
    row = row_of(method)
    cost = step_cost(row | {"training": row["training"] | {"crop": 96, "precision": "float32"}})
    assert 0.1 * cost.peak_bytes < cost.network_bytes < cost.peak_bytes


def test_a_network_called_whole_keeps_what_hooks_around_it_count(monkeypatch: pytest.MonkeyPatch) -> None:
    hooked: list[int] = []

    class Hooked(NetworkBytes):
        """Counts each whole call a second time, from outside."""

        def __init__(self, method: nn.Module, memory: LiveBytes) -> None:
            super().__init__(method, memory)

            def end(_network: nn.Module, _inputs: Any, output: Output) -> None:
                parts = (output.logits, output.representation, output.auxiliary)
                change = memory.live - hooked.pop() - sum(part.nbytes for part in parts if part is not None)
                hooked.append(change if torch.is_grad_enabled() else 0)

            for network in (module for module in method.modules() if isinstance(module, SegNet)):
                network.register_forward_pre_hook(lambda *_: hooked.append(memory.live))
                network.register_forward_hook(end)

    monkeypatch.setattr("pipeline.commands.forecast.NetworkBytes", Hooked)
    assert step_cost(row_of("u2pl")).network_bytes == sum(hooked) > 0


def test_measuring_is_windows_times_images_times_networks_times_evaluations() -> None:
    row = row_of("mean_teacher", scale="paper", dataset="cityscapes")
    tiny = {"encoder": row["model"]["encoder"] | {"width": 4, "blocks": [1, 1, 1, 1], "multi_grid": [1]}}
    row["model"] |= tiny | {"decoder_channels": 4, "low_level_channels": 4, "representation_channels": 4}
    centre, slide = (image_flop(row, mode, image=(1024, 2048)) for mode in ("centre", "slide"))
    assert slide == 8 * centre  # two rows of four windows
    in_training, probed = 180 * 500 * 2 * centre, 180 * 16 * slide
    assert evaluation_flop(row, 2) == in_training + 2 * 500 * 2 * slide + probed
    twice = row["training"] | {"epochs": 23, "warm_start_epochs": 20, "evaluate_every_epochs": 2}  # 22 and the last
    assert evaluation_flop(row | {"training": twice}, 1) == 2 * 500 * centre + 2 * 500 * slide + 3 * 16 * slide
    with pytest.raises(ValueError, match="lists of folder are not there yet, and nobody published their sizes"):
        evaluation_flop(row | {"dataset": "folder"}, 2)


def test_a_network_without_a_warm_start_is_measured_from_its_first_epoch() -> None:
    row = row_of("suponly", scale="smoke", dataset="cityscapes")
    assert row["training"]["warm_start_epochs"] > 0
    whole = evaluation_flop(row, 1)
    none = evaluation_flop(row | {"training": row["training"] | {"warm_start_epochs": 0}}, 1)
    assert whole == none > evaluation_flop(row | {"networks": 1}, 1)


def test_images_have_the_size_of_the_data_and_not_of_those_in_whose_place_they_are() -> None:
    for scale, role, size in (
        ("embedded", "cityscapes", (80, 160)),
        ("embedded", "voc_blender", (64, 64)),
        ("paper", "cityscapes", (1024, 2048)),
    ):
        assert image_size(row_of("u2pl", scale=scale, dataset=role)) == size


def test_rows_that_differ_in_a_rate_or_a_threshold_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    monkeypatch.setattr("pipeline.commands.forecast.step_cost", lambda row: counted.append(row) or StepCost(1, 1))
    rows = [row_of("u2pl", **change) for change in ({}, {"alpha0": 0.3}, {"temperature": 0.1}, {"rank_low": 1})]
    keyed = [(str(number), row) for number, row in enumerate(rows)]
    (line,) = forecast({"table_7": keyed})
    assert (line.trainings, len(counted)) == (4, 1)
    forecast({"table_7": [*keyed, ("other", row_of("u2pl", contrast="none"))]})
    assert len(counted) == 3


def test_the_kept_plan_is_of_todays_tables_trainings_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its operations and bytes are takes minutes to count; a change of these is noticed with the others."""
    monkeypatch.setattr("pipeline.commands.forecast.step_cost", lambda _row: StepCost(1, 1))
    monkeypatch.setattr("pipeline.commands.forecast.evaluation_flop", lambda *_, **__: 0.0)
    params = project_params("paper")
    tables = [table for table in all_tables(params) if table != "experiment"]
    lines = forecast({table: [(chain(row)[-2].key, row) for row in resolve_table(params, table)] for table in tables})
    kept = [
        line.split("|")[1:4] for line in (PROJECT / "reports/paper/plan.md").read_text().splitlines() if "|" in line
    ]
    assert [[cell.strip() for cell in cells] for cells in kept[2:]] == [
        [line.table, f"{line.trainings:,}", f"{line.steps:,}"] for line in [*lines, total(lines)]
    ]
