"""A table so far is marked as the committed one is, and has what git holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.adopt import adopt
from pipeline.cell import chain
from pipeline.commands import partial
from pipeline.files import write_json
from pipeline.params import resolve_table
from pipeline.reporting.rows import read_rows
from pipeline.store import Store
from tests.params import project_params


def test_what_is_noise_is_known_from_the_rows_in_the_tree_and_not_from_the_store(
    tmp_path: Path, make_reports: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_reports(tmp_path / "reports" / "embedded")
    (folder / "shown.json").write_text("{}")
    monkeypatch.setattr(partial, "rows_so_far", lambda _, cells: read_rows(folder / "metrics" / cells.name))
    (text,) = partial.tables_so_far(tmp_path, Store(tmp_path / "cells"), scale="embedded", tables=["table_a6"])
    assert "cannot be told apart from τ = 0.5" in text
    (folder / "metrics" / "table_x3.json").unlink()
    (text,) = partial.tables_so_far(tmp_path, Store(tmp_path / "cells"), scale="embedded", tables=["table_a6"])
    assert "not marked: how much seeds vary is not measured" in text


def test_a_fresh_clone_shows_what_git_holds_and_not_what_was_measured_otherwise(tmp_path: Path) -> None:
    """Its store takes over the evaluations, and has no training."""
    rows, store = resolve_table(project_params(), "table_7"), Store(tmp_path / "cells")
    reports = tmp_path / "reports" / "smoke"
    figures = {"teacher": {"best": {"padding_ignored": {"miou": 61.5, "iou": [61.5] * 21}}}}
    result = {"state": "done", "metrics": figures, "train_s": 1.0, "evaluate_s": 1.0, "provenance": {"ended": 5.0}}
    keys = [{"key": cells[-1].key, "train_key": cells[-2].key} for cells in map(chain, rows)]
    recorded = [row | result | key for row, key in zip(rows, keys, strict=True)]
    recorded[1] |= {"key": "of other code"}
    elsewhere = rows[2] | {"data": rows[2]["data"] | {"path": "nowhere/photographs"}}
    recorded[2] |= {"data": elsewhere["data"]}
    write_json(reports / "metrics" / "table_7.json", recorded[:4])
    write_json(reports / "cells" / "table_7.json", [*rows[:2], elsewhere, *rows[3:]])
    assert adopt(store, tmp_path, scale="smoke")
    found = partial.rows_so_far(store, reports / "cells" / "table_7.json")
    assert [row["state"] for row in found] == ["done", "missing", "done", "done", *["missing"] * 4]
    assert found[0]["metrics"] == figures


def test_a_hole_says_where_the_cell_stands_that_it_waits_for(tmp_path: Path) -> None:
    store, cells = Store(tmp_path / "cells"), chain(resolve_table(project_params(), "table_7")[0])
    warm_start, train, evaluate = cells
    assert partial.why_not_measured(store, cells) == "warm_start not submitted"
    store.claim(evaluate.key, "s")
    assert partial.why_not_measured(store, cells) == "evaluate queued"
    store.claim(train.key, "s")
    assert partial.why_not_measured(store, cells) == "train queued"
    store.cancel(train.key, {"reason": "cancelled by me"})
    assert partial.why_not_measured(store, cells) == "train cancelled until `retry`"
    store.done(train.key).mkdir(parents=True)
    assert partial.why_not_measured(store, cells) == "evaluate queued"
    store.fail(evaluate.key, None, reason={"reason": "disk full"})
    assert partial.why_not_measured(store, cells) == "evaluate failed: disk full"
    assert warm_start.kind == "warm_start"
