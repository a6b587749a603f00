"""What is lost without a word: by a power cut, a restarted machine, a job that ends before it takes a cell."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cell import Cell
from pipeline.cluster.liveness import INTERRUPTED, find_dead, release_dead
from pipeline.cluster.lost import MAX_LOST, count_loss
from pipeline.cluster.origin import origin, process_alive
from pipeline.cluster.pulse import SILENT_S
from pipeline.cluster.team import LAST_WORDS
from pipeline.commands.doctor import examine
from pipeline.files import write_json
from pipeline.spool import Spool, curves
from pipeline.store import Store
from tests.pipeline import test_shared_store
from tests.pipeline.test_launch import sleeper
from tests.pipeline.test_liveness import cell, submitted
from tests.pipeline.test_shared_store import job
from tests.pipeline.test_worker import run
from tests.pipeline.test_worker import submitted as submitted_here

squeue = test_shared_store.squeue


@pytest.mark.parametrize("content", [b"", bytes(40)])
@pytest.mark.parametrize("what", ["claims/{}.json", "work/{}/holder.json"])
def test_what_a_power_cut_left_empty_is_nobodys(what: str, content: bytes, tmp_path: Path) -> None:
    store, key = Store(tmp_path / "cells"), "b" * 64
    path = store.root / what.format(key)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    (finding,) = examine(tmp_path, store, mend=False)
    assert finding == f"cell {key[:12]}: who has it is not written down, as after a power cut; to be released"
    assert release_dead(store).empty == [key]
    assert store.state(key) == "missing"
    assert store.claim(key, "s")


def test_a_process_with_a_workers_number_is_not_that_worker_once_the_machine_was_restarted() -> None:
    record = origin() | {"clock": time.time(), "time": time.time()}
    assert process_alive(os.getpid(), record)
    assert not process_alive(os.getpid(), record | {"boot_id": "another", "boot": record["boot"] - 1e6})


def test_a_clock_that_is_put_back_between_two_cells_leaves_a_worker_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, alive, boot, now = Store(tmp_path / "cells"), [], psutil.boot_time(), time.time

    def compute(one: Cell, *_: Any, **__: Any) -> dict[str, Any]:
        holder = store.holder(one.key) or {}
        alive.append(process_alive(holder["pid"], holder))
        monkeypatch.setattr(time, "time", lambda: now() - 7200)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot - 7200)
        monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot - 7200)
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    submitted_here(store, [sleeper(0), sleeper(1)])
    run(store)
    assert alive == [True, True]


@pytest.mark.parametrize(("silent_s", "dead"), [(0.0, 0), (SILENT_S + 10, 1)])
def test_a_colleagues_worker_that_cannot_be_seen_is_dead_once_it_is_silent(
    silent_s: float, dead: int, tmp_path: Path
) -> None:
    """Where /proc hides other users' processes."""
    store, key = Store(tmp_path / "cells"), "b" * 64
    record = origin() | {"user": "colleague", "pid": 2**22 + 1, "clock": time.time(), "time": time.time()}
    site = {"site": {"executor": "local", "pack": None}, "cells": []}
    write_json(store.submissions / "s" / "submission.json", record | site)
    write_json(store.submissions / "s" / "jobs.json", {"jobs": [str(2**22 + 1)], "time": time.time()})
    (store.submissions / "s" / "pulse").write_text(".")
    os.utime(store.submissions / "s" / "pulse", (time.time() - silent_s,) * 2)
    store.claim(key, "s")
    store.hold({"key": key, "kind": "train"}, record | {"submission": "s", "job": f"local-{2**22 + 1}"})
    found = find_dead(store)
    assert (len(found.holders), len(found.claims)) == (dead, dead)


@pytest.mark.parametrize(("state", "failed"), [("FAILED", True), ("CANCELLED", False)])
def test_a_cell_whose_jobs_end_again_and_again_before_they_take_it_fails(
    state: str, failed: bool, squeue: Path, tmp_path: Path
) -> None:
    """As where a line of the site's `setup` fails; what the cluster takes away says nothing."""
    store, one = Store(tmp_path / "cells"), cell("warm_start", 0)
    squeue.write_text(job("cells-s", "7_0", state, 256))
    for _ in range(MAX_LOST):
        assert store.state(one.key) == "missing"
        submitted(store, [[one]], pack=1)
        write_json(store.submissions / "s" / "jobs.json", {"jobs": ["7_0"], "time": store.now() - 1000})
        release_dead(store)
    assert store.state(one.key) == ("failed" if failed else "missing")
    if failed:
        reason = (store.failure(one.key) or {})["reason"]
        assert reason.startswith("its job ended 3 times before it began, the last as 7_0: see ")
        assert reason.endswith("/submissions/s/jobs/*_log.err")


def die(store: Store, key: str, *, checkpoint: int) -> None:
    """Let a worker die without a word after a checkpoint of that time."""
    path = store.work(key) / "checkpoint.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (checkpoint, checkpoint))
    count_loss(store, key, holder={"host": "n1", "job": "7_0"}, cause="")


@pytest.mark.parametrize(("cause", "state"), [("unknown", "failed"), ("time", "failed"), ("cluster", "missing")])
def test_a_cell_of_which_another_rank_said_why_it_failed_fails_at_once_with_that_reason(
    cause: str, state: str, tmp_path: Path
) -> None:
    """The first rank waits in NCCL, whose watchdog ends it before it can explain; what is preempted goes on."""
    store, key = Store(tmp_path / "cells"), "b" * 64
    write_json(store.work(key) / LAST_WORDS, {"said": "rank 1: ValueError: no image", "traceback": "Traceback …\n"})
    for _ in range(2):
        count_loss(store, key, holder={"host": "n1", "job": "7_0"}, cause=cause)
        assert store.state(key) == state
        if state == "failed":
            log = store.work(key) / "log.txt"
            facts = {"reason": "RankError: rank 1: ValueError: no image", "log": str(log)}
            assert facts.items() <= (store.failure(key) or {}).items()
            assert log.read_text(encoding="utf-8") == "Traceback …\n"
            store.retry(key)
            cause, state = "unknown", "missing"  # and without new words it is but lost


def test_a_cell_that_gets_further_between_its_deaths_goes_on(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "cells"), "b" * 64
    for death in range(2 * MAX_LOST):
        die(store, key, checkpoint=1000 + death)
        assert store.state(key) == "missing"
    for _ in range(MAX_LOST - 1):  # and now no more
        assert store.state(key) == "missing"
        die(store, key, checkpoint=1000 + death)
    assert store.state(key) == "failed"


def test_after_a_retry_a_cell_has_as_many_deaths_as_before(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "cells"), "b" * 64
    for _ in range(2):
        for _ in range(MAX_LOST - 1):
            die(store, key, checkpoint=1000)
        assert store.state(key) == "missing"
        store.retry(key)
    for _ in range(MAX_LOST):
        assert store.state(key) == "missing"
        die(store, key, checkpoint=1000)
    assert store.state(key) == "failed"


def test_a_cell_whose_data_went_with_the_workspace_that_submitted_it_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `dvc exp run --temp`: cells of tables that nobody ran there would fail for all."""
    store, cells = Store(tmp_path / "cells"), [sleeper(0), sleeper(1)]

    def compute(*_: Any, **__: Any) -> dict[str, Any]:
        raise FileNotFoundError("nowhere/voc")

    monkeypatch.setattr("pipeline.run.compute", compute)
    submitted_here(store, cells)
    assert run(store) == 0
    assert {store.state(one.key) for one in cells} == {"missing"}


def test_a_worker_whose_workspace_is_gone_waits_for_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, train = Store(tmp_path / "cells"), sleeper(0)
    after = Cell("evaluate", train.values, (train.key,), "e" * 64)

    def compute(*_: Any, **__: Any) -> dict[str, Any]:
        raise FileNotFoundError("nowhere/voc")

    monkeypatch.setattr("pipeline.run.compute", compute)
    submitted_here(store, [train, after])
    assert run(store) == 0  # and comes back
    assert (store.state(train.key), store.owner(after.key)) == ("missing", None)


def test_nothing_of_what_was_computed_with_changed_data_goes_into_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one, changed = Store(tmp_path / "cells"), sleeper(0), [[], [tmp_path / "voc"]]

    def compute(_: Cell, *__: Any, work: Path, **___: Any) -> dict[str, Any]:
        Spool(work / "spool.jsonl").append(10, {"val/miou": 99.0 if changed else 41.0})
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    for module in ("guard", "run"):
        monkeypatch.setattr(f"pipeline.{module}.changed_data", lambda *_: changed.pop(0) if changed else [])
    submitted_here(store, [one], data_root=tmp_path)
    assert run(store) == 0  # its data changed while it ran
    assert "changed after the cell was submitted" in (store.failure(one.key) or {})["reason"]
    store.retry(one.key)
    store.claim(one.key, "s")
    assert run(store) == 1
    assert curves(store.done(one.key) / "spool.jsonl") == {"val/miou": [(10, 41.0)]}


@pytest.mark.parametrize(("interrupted", "state"), [(False, "failed"), (True, "missing")])
def test_workers_of_this_machine_that_end_before_they_begin_fail_their_cells_unless_ctrl_c_ended_them(
    interrupted: bool, state: str, tmp_path: Path
) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    for name in "abc":
        record = origin() | {"clock": time.time(), "time": store.now(), "pid": 2**22 + 1, "job_name": f"cells-{name}"}
        record |= {"site": {"executor": "local", "pack": None}, "cells": [one.to_json()]}
        write_json(store.submissions / name / "submission.json", record)
        write_json(store.submissions / name / "jobs.json", {"jobs": [str(2**22 + 1)], "time": store.now()})
        if interrupted:
            (store.submissions / name / INTERRUPTED).touch()
        assert store.claim(one.key, name)
        release_dead(store)
    assert store.state(one.key) == state
    assert {line["event"] for line in store.executions()} == {"unbegun"} | ({"failed"} if state == "failed" else set())
