"""Data that DVC makes again, as after an edit of a comment: the bytes are the same, the times are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, digest
from pipeline.files import write_json
from pipeline.guard import data_state
from pipeline.run import LET_GO
from pipeline.store import Store
from pipeline.worker import Stop, run_submission

VALUES = {"dataset": "voc_blender", "data": {"source": "voc"}, "partition": "-", "seed": 0}
FIRST = Cell("sleep", VALUES, (), digest("key"))
SECOND = Cell("evaluate", VALUES, (FIRST.key,), digest("behind it"))


def states(store: Store) -> list[str]:
    return [store.state(cell.key) for cell in (FIRST, SECOND)]


def submit_and_run(store: Store, name: str, *, lists: Path, edited: bool) -> None:
    """Submit both cells with the data as it is, make the lists again where `edited`, and let a worker come."""
    root = lists.parents[2]
    record = {"cells": [cell.to_json() for cell in (FIRST, SECOND)], "threads": 1, "site": {"executor": "local"}}
    record |= {"submission": name, "data_root": str(root), "data": data_state(root)}
    write_json(store.submissions / name / "submission.json", record)
    assert all(store.claim(cell.key, name) for cell in (FIRST, SECOND))
    if edited:
        os.utime(lists, (1, lists.stat().st_mtime + 1))
    run_submission(store, name, limit=None, stop=Stop())


@pytest.mark.parametrize("edited", [False, True])
def test_a_cell_whose_data_was_made_again_goes_on_when_it_is_submitted_with_it_and_waits_once(
    edited: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, lists, begun = Store(tmp_path / "cells"), tmp_path / "data" / "partitions" / "voc_blender" / "val.txt", []
    checkpoint = store.work(FIRST.key) / "checkpoint.pt"
    for path in (lists, checkpoint, tmp_path / "data" / "voc" / "image"):
        path.parent.mkdir(parents=True)
        path.touch()

    def compute(cell: Cell, *_: Any, **__: Any) -> dict[str, Any]:
        begun.append(cell.kind)
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    submit_and_run(store, "s", lists=lists, edited=True)
    assert states(store) == ["missing", "missing"]
    assert checkpoint.exists()
    submit_and_run(store, "t", lists=lists, edited=edited)
    if edited:  # where a node sees other files than the driver, no submission would ever do
        assert begun == []
        assert states(store) == ["failed", "failed"]
        assert (store.failure(FIRST.key) or {})["reason"].startswith("DataChangedError: ")
        assert checkpoint.exists()
    else:
        assert begun == ["sleep", "evaluate"]
        assert states(store) == ["done", "done"]
        assert [path.name for path in store.done(FIRST.key).iterdir() if path.name == LET_GO] == []
