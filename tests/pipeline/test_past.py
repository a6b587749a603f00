"""Which cells take equally long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.cell import Cell, chain
from pipeline.commands.past import Past
from pipeline.files import write_json
from pipeline.params import resolve_table
from pipeline.store import Store


def ran(store: Store, cell: Cell, *, took_s: float) -> None:
    """Let a cell have run from its start to its end."""
    for event, time in (("start", 1000.0), ("done", 1000.0 + took_s)):
        store.log_execution(cell.key, event, facts={"kind": cell.kind, "time": time})
    write_json(store.done(cell.key) / "cell.json", cell.to_json())


def training(params: dict[str, Any], **choices: Any) -> Cell:
    (row,) = resolve_table(params | choices, "experiment")
    return chain(row)[-2]


def test_a_training_whose_epoch_is_a_pass_over_its_images_is_like_those_of_its_partition_alone(
    params: dict[str, Any], tmp_path: Path
) -> None:
    store, paper = Store(tmp_path / "cells"), params | {"scale": "paper", "method": "suponly", "dataset": "voc_classic"}
    ran(store, training(paper, partition="1-16"), took_s=480)
    ran(store, training(paper, partition="full"), took_s=7360)
    past = Past(store, tmp_path)
    assert past.typical_s(training(paper, partition="1-16", seed=1)) == 480
    assert past.typical_s(training(paper, partition="full", seed=1)) == 7360
    assert past.typical_s(training(paper, partition="1-2")) is None


def test_a_training_of_so_many_steps_takes_as_long_on_any_partition(params: dict[str, Any], tmp_path: Path) -> None:
    store, embedded = Store(tmp_path / "cells"), params | {"scale": "embedded"}
    ran(store, training(embedded, partition="1-16"), took_s=60)
    assert Past(store, tmp_path).typical_s(training(embedded, partition="1-2")) == 60


def test_a_folder_that_was_moved_or_partitioned_further_is_as_large_as_before(
    params: dict[str, Any], tmp_path: Path
) -> None:
    store, cell = Store(tmp_path / "cells"), training(params)
    ran(store, cell, took_s=60)
    named = {"path": "elsewhere/voc", "title": "the same", "partitions": ["1-2", "1-5"]}
    values = cell.values | {"data": cell.values["data"] | named}
    assert Past(store, tmp_path).typical_s(Cell(cell.kind, values, cell.upstream, "another")) == 60


def test_what_never_ran_here_takes_as_long_as_what_git_holds_and_then_as_long_as_here(
    params: dict[str, Any], tmp_path: Path
) -> None:
    """A fresh clone has rows measured elsewhere, and no cells; a row of a method that is gone tells nothing."""
    (row,) = resolve_table(params, "experiment")
    *_, train, evaluate = chain(row)
    metrics, store = tmp_path / "reports" / row["scale"] / "metrics", Store(tmp_path / "cells")
    rows = [{"method": "gone"}, row | {"train_s": 20.0, "evaluate_s": 3.0}, row | {"train_s": 30.0, "evaluate_s": 5.0}]
    for name, recorded in (("a", rows[:1]), ("b", rows[1:]), ("c", rows[1:2])):
        write_json(metrics / f"{name}.json", recorded)
    (metrics / "torn.json").write_text("[{")
    assert (Past(store, tmp_path).typical_s(train), Past(store, tmp_path).typical_s(evaluate)) == (20.0, 3.0)
    ran(store, train, took_s=60)
    assert (Past(store, tmp_path).typical_s(train), Past(store, tmp_path).typical_s(evaluate)) == (60, 3.0)
