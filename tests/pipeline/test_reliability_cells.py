"""Cells of kind `reliability`: which rows have one, what a worker makes of it, and what the stage writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.attach import write_reliability
from pipeline.cell import RELIABILITY_OF, TABLE_A1_ALPHA0, cells_of, chain
from pipeline.models.build import ModelConfig, build_network
from pipeline.params import resolve_table
from pipeline.store import Store
from pipeline.worker import Stop, compute
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


def rows_of(table: str) -> list[dict[str, Any]]:
    return resolve_table(project_params(), table)


@pytest.mark.parametrize("table", ["table_1", "table_2", "table_3"])
def test_only_the_rows_named_have_one_and_it_leaves_their_chain_as_it_is(table: str) -> None:
    wanted = {(method, partition) for name, method, partition in RELIABILITY_OF if name == table}
    found = set()
    for row in rows_of(table):
        before = chain(row)
        *cells, last = cells_of(row)
        if last.kind == "reliability":
            found.add((row["method"], row["partition"]))
            assert cells == before
            assert last.upstream == (before[-2].key,)
            assert last.values["unreliable_share"] == row["parameters"].get("alpha0", TABLE_A1_ALPHA0)
        else:
            assert [*cells, last] == before
    assert found == wanted


def test_a_worker_measures_it_and_the_stage_writes_what_the_page_needs(tmp_path: Path, data_root: Path) -> None:
    row = next(row for row in rows_of("table_1") if (row["method"], row["partition"]) == ("suponly", "1-2"))
    *_, train, _, cell = cells_of(row)
    store = Store(tmp_path / "cells")
    state = build_network(ModelConfig(**row["model"]), num_classes=21).state_dict()
    torch.save({"best": {"student": state}, "last": {"student": state}}, tmp_path / "weights.pt")
    store.adopt(train.to_json(), {"state": "done"}, files={"weights.pt": tmp_path / "weights.pt"})
    record = {"threads": 1, "data_root": str(data_root)}
    result = compute(cell, store, record=record, work=tmp_path, stop=Stop())
    store.adopt(cell.to_json(), result, files={})
    write_reliability(store, {cell.key: cell}, path=tmp_path / "reliability" / "table_1.json")
    [written] = json.loads((tmp_path / "reliability" / "table_1.json").read_text())
    assert (written["key"], written["train_key"], written["method"]) == (cell.key, train.key, "suponly")
    for name, counted in result["sets"].items():
        bulky = {"class_entropy_right", "class_entropy_wrong"}
        assert written["sets"][name] == {key: value for key, value in counted.items() if key not in bulky}
        assert bulky <= set(counted)
