"""Workers that share a store: each has a name of its own, leaves others' cells alone, and outlives being taken over."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, digest
from pipeline.files import write_json
from pipeline.store import Store
from pipeline.worker import Stop, job_id, read_submission, run_cell, run_submission
from tests.pipeline.test_launch import sleeper


def submitted(store: Store, cells: list[Cell], *, executor: str = "local", data_root: Path = Path("nowhere")) -> None:
    """Write down a submission `s` that owns these cells."""
    record = {"cells": [cell.to_json() for cell in cells], "threads": 1, "site": {"executor": executor}}
    write_json(store.submissions / "s" / "submission.json", record | {"submission": "s", "data_root": str(data_root)})
    for cell in cells:
        store.claim(cell.key, "s")


def run(store: Store) -> int:
    return run_submission(store, "s", limit=None, stop=Stop())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose cells take no time."""
    monkeypatch.setattr("pipeline.run.compute", lambda *_, **__: {"state": "done"})
    return Store(tmp_path / "cells")


@pytest.mark.parametrize(("executor", "own"), [("slurm", False), ("local", True)])
def test_workers_of_one_machine_do_not_take_the_allocation_they_run_in_for_their_job(
    executor: str, own: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They all inherit it: one would let go of what another holds."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    cells = [sleeper(0), sleeper(1)]
    submitted(store, cells, executor=executor)
    holder = {"submission": "s", "host": socket.gethostname(), "pid": 1, "job": "7"}
    store.hold(cells[0].to_json(), holder)
    assert run(store) == (1 if own else 2)  # a requeued job goes on with what it held
    assert store.state(cells[0].key) == ("running" if own else "done")
    name = job_id({"site": {"executor": executor}})
    assert name == (f"local-{os.getpid()}" if own else "7")


def test_the_cell_of_another_host_whose_worker_has_the_same_number_stays_its_own(store: Store) -> None:
    cells = [sleeper(0), sleeper(1)]
    submitted(store, cells)
    holder = {"submission": "s", "host": "elsewhere", "pid": os.getpid(), "job": f"local-{os.getpid()}"}
    store.hold(cells[0].to_json(), holder)
    assert run(store) == 1
    assert (store.holder(cells[0].key) or {})["host"] == "elsewhere"


def test_a_worker_begins_as_many_trainings_as_it_may_and_evaluates_them(store: Store) -> None:
    trained = [sleeper(number) for number in range(3)]
    evaluated = [Cell("evaluate", one.values, (one.key,), digest(["evaluate", one.key])) for one in trained]
    submitted(store, [*trained, *evaluated])
    assert run_submission(store, "s", limit=1, stop=Stop()) == 2
    assert sorted(store.state(one.key) for one in trained) == ["done", "queued", "queued"]
    assert [store.state(one.key) for one in evaluated] == [store.state(one.key) for one in trained]
    assert run_submission(store, "s", limit=2, stop=Stop()) == 4


def test_a_worker_leaves_the_cells_of_its_list_that_another_submission_owns_meanwhile(store: Store) -> None:
    cells = [sleeper(0), sleeper(1)]
    submitted(store, cells)
    store.unclaim(cells[0].key, "s")
    store.claim(cells[0].key, "another")
    assert run(store) == 1
    assert [store.state(cell.key) for cell in cells] == ["queued", "done"]
    assert store.owner(cells[0].key) == "another"


def test_a_worker_whose_cell_another_host_published_meanwhile_goes_on_with_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def compute(cell: Cell, *_: Any, work: Path, **__: Any) -> dict[str, Any]:
        begun.append(cell.key)
        if len(begun) == 1:
            write_json(store.done(cell.key) / "result.json", {"state": "done"})
            shutil.rmtree(work)
            (work / "checkpoint.pt").write_text("half")
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    cells = [sleeper(0), sleeper(1)]
    submitted(store, cells)
    assert run(store) == 1
    assert {store.state(cell.key) for cell in cells} == {"done"}
    assert "published by another worker meanwhile ([Errno 2]" in capsys.readouterr().out


def test_a_worker_that_cannot_write_down_what_it_published_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Store.log_execution

    def fail_at_the_end(store: Store, key: str, event: str, *, facts: dict[str, Any]) -> None:
        if event == "done":
            raise OSError(errno.ENOSPC, "No space left on device")
        log(store, key, event, facts=facts)

    monkeypatch.setattr(Store, "log_execution", fail_at_the_end)
    cells = [sleeper(0), sleeper(1)]
    submitted(store, cells)
    with pytest.raises(OSError, match="No space left"):
        run(store)
    assert sorted(store.state(cell.key) for cell in cells) == ["done", "queued"]


def test_a_cell_that_was_taken_away_before_it_began_is_not_computed(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It could not be published; another worker may be at it."""
    one, begun = sleeper(0), []
    submitted(store, [one])
    token = str(store.hold(one.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}))
    store.lose(one.key, token)
    monkeypatch.setattr("pipeline.run.compute", lambda *_, **__: begun.append(1))
    assert not run_cell(store, (one, token), record=read_submission(store, "s"), stop=Stop())
    assert begun == []
    assert "taken from this worker before it began" in capsys.readouterr().out
    assert store.state(one.key) == "queued"
