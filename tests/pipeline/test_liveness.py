"""Losses on a cluster: the cell is submitted anew at once, counted once, and nothing living is called dead."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, digest
from pipeline.cluster import liveness, pulse, slurm
from pipeline.cluster.liveness import release_dead, surplus
from pipeline.cluster.pulse import begin_pulse
from pipeline.files import write_json
from pipeline.store import Store, TakenOverError
from tests.pipeline import test_shared_store
from tests.pipeline.test_shared_store import job

squeue = test_shared_store.squeue


def cell(kind: str, number: int, *upstream: Cell) -> Cell:
    values = {"number": number, "dataset": "none", "partition": "-", "seed": 0}
    return Cell(kind, values, tuple(one.key for one in upstream), digest([kind, number]))


def chain_of(number: int) -> list[Cell]:
    warm = cell("warm_start", number)
    train = cell("train", number, warm)
    return [warm, train, cell("evaluate", number, train)]


def submitted(store: Store, chains: list[list[Cell]], *, pack: int | None, **facts: Any) -> None:
    """Write down a submission `s` that owns these cells, some time ago."""
    cells = [cell for cells in chains for cell in cells]
    record = {"host": "elsewhere", "pid": 1, "time": store.now() - 1000, "job_name": "cells-s"} | facts
    site = {"site": {"executor": "slurm", "pack": pack}, "cells": [cell.to_json() for cell in cells]}
    write_json(store.submissions / "s" / "submission.json", record | site)
    write_json(store.submissions / "s" / "jobs.json", {"jobs": [], "time": store.now() - 1000})
    for one in cells:
        store.claim(one.key, "s")


def hold(store: Store, one: Cell, number: str, **facts: Any) -> str:
    """Let a job hold a cell for a long time."""
    token = store.hold(one.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": number} | facts)
    assert token is not None
    write_json(store.work(one.key) / "holder.json", (store.holder(one.key) or {}) | {"time": store.now() - 1000})
    return token


def finish(store: Store, one: Cell, number: str) -> None:
    store.publish(one.key, hold(store, one, number), result={"state": "done"})


@pytest.mark.parametrize("pack", [1, None])
def test_a_lost_cell_and_what_follows_it_can_be_submitted_anew_while_its_siblings_run(
    pack: int | None, squeue: Path, tmp_path: Path
) -> None:
    store, chains = Store(tmp_path / "cells"), [chain_of(number) for number in range(3)]
    submitted(store, chains, pack=pack)
    for number, (warm, train, _) in enumerate(chains):
        finish(store, warm, f"7_{number}")
        hold(store, train, f"7_{number}")
    squeue.write_text("".join(job("cells-s", f"7_{number}") for number in (0, 2)) + job("cells-s", "7_1", "FAILED", 9))
    release_dead(store)
    assert [store.state(one.key) for one in chains[1]] == ["done", "missing", "missing"]
    assert [store.state(chains[number][1].key) for number in (0, 2)] == ["running", "running"]
    assert [store.state(chains[number][2].key) for number in (0, 2)] == ["queued", "queued"]
    (lost,) = [line for line in store.executions() if line["event"] == "lost"]
    assert lost["key"] == chains[1][1].key
    assert lost["memory"]


def test_a_job_that_was_requeued_keeps_its_cell(squeue: Path, tmp_path: Path) -> None:
    store, chains = Store(tmp_path / "cells"), [chain_of(0)]
    submitted(store, chains, pack=1)
    hold(store, chains[0][0], "7_0")
    squeue.write_text(job("cells-s", "7_0", "PENDING"))
    release_dead(store)
    assert store.state(chains[0][0].key) == "running"


def test_jobs_that_left_without_a_trace_leave_their_share_of_the_cells(squeue: Path, tmp_path: Path) -> None:
    """Two of four were cancelled: one before it began, one after it had saved and let go of its training."""
    store, chains = Store(tmp_path / "cells"), [chain_of(number) for number in range(4)]
    submitted(store, chains, pack=1)
    for number in (0, 1):
        finish(store, chains[number][0], "7_0")
        hold(store, chains[number][1], f"7_{number}")
    squeue.write_text("".join(job("cells-s", f"7_{number}") for number in (0, 1)))
    release_dead(store)
    states = [[store.state(one.key) for one in cells] for cells in chains]
    assert states == [["done", "running", "queued"]] * 2 + [["missing"] * 3] * 2


def test_a_worker_that_ends_while_squeue_is_asked_takes_nothing_from_its_siblings(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller that restarts answers late, without the jobs that ended meanwhile."""
    store, cells = Store(tmp_path / "cells"), [cell("sleep", number) for number in range(4)]
    submitted(store, [cells], pack=1)
    ending, *waiting = sorted(cells, key=lambda one: one.key)
    token, ask = hold(store, ending, "7_0"), slurm._output

    def late(command: list[str]) -> str | None:
        if command[0] == "squeue":
            store.publish(ending.key, token, result={"state": "done"})
        return ask(command)

    monkeypatch.setattr(slurm, "_output", late)
    squeue.write_text("".join(job("cells-s", f"7_{number}", "PENDING") for number in (1, 2, 3)))
    release_dead(store)
    assert [store.state(one.key) for one in waiting] == ["queued"] * 3


def test_what_few_workers_cannot_reach_is_told_by_trainings() -> None:
    warm, *trains = cell("warm_start", 0), cell("sleep", 1), cell("sleep", 2)
    rest = cell("evaluate", 3)
    tied = [Cell(one.kind, one.values, (warm.key,), one.key) for one in trains]
    cells = {one.key: (one.kind, list(one.upstream)) for one in (warm, *tied, rest)}
    assert surplus(cells, set(cells), room=3) == set()
    assert len(surplus(cells, set(cells), room=2)) == 1
    assert surplus(cells, set(cells), room=0) == set(cells)
    assert surplus(cells, {warm.key}, held=[trains[0].key], room=0) == set()  # it may run it yet


def _release(root: str) -> None:
    slurm.SQUEUE_S = 30.0
    release_dead(Store(Path(root)))


def test_of_drivers_that_find_a_loss_at_once_one_counts_it(squeue: Path, tmp_path: Path) -> None:
    store, chains = Store(tmp_path / "cells"), [chain_of(number) for number in range(8)]
    submitted(store, chains, pack=None)
    for number, (warm, _, _) in enumerate(chains):
        hold(store, warm, f"7_{number}")
    squeue.write_text(job("cells-s", "7_99"))
    slurm.jobs(store)
    with multiprocessing.get_context("fork").Pool(6) as pool:
        pool.map(_release, [str(store.root)] * 12)
    lost = [line["key"] for line in store.executions() if line["event"] == "lost"]
    assert sorted(lost) == sorted(warm.key for warm, _, _ in chains)


def test_who_took_a_cell_meanwhile_keeps_it(tmp_path: Path) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    store.claim(one.key, "s")
    old = hold(store, one, "7_0")
    store.drop(one.key, old)
    new = hold(store, one, "7_1")
    assert not store.lose(one.key, old)
    assert (store.holder(one.key) or {})["token"] == new
    assert not store.unclaim(one.key, "another")
    assert store.owner(one.key) == "s"


@pytest.mark.parametrize(("private", "state"), [("jobs,usage", "running"), ("none", "missing")])
def test_a_colleagues_job_is_dead_only_where_it_could_be_seen(
    private: str, state: str, squeue: Path, tmp_path: Path
) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    submitted(store, [[one]], pack=1, user="colleague")
    hold(store, one, "7_0", user="colleague")
    scontrol = squeue.parent / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho 'PrivateData = {private}'\n")
    scontrol.chmod(0o755)
    slurm._told.clear()
    try:
        release_dead(store)
    finally:
        slurm._told.clear()
    assert store.state(one.key) == state


def test_strangers_jobs_may_have_names_in_any_encoding(squeue: Path, tmp_path: Path) -> None:
    script = squeue.parent / "bin" / "squeue"
    script.write_text("#!/bin/sh\nprintf 'caf\\351|7|RUNNING|0|x|/\\n'\n")
    assert slurm.jobs(Store(tmp_path / "cells")) == []


@pytest.mark.parametrize("answers", [True, False])
def test_all_drivers_ask_squeue_once_whether_it_answers_or_not(
    answers: bool, squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "SQUEUE_S", 30.0)
    calls, command = tmp_path / "calls", squeue.parent / "bin" / "squeue"
    command.write_text(f"#!/bin/sh\necho asked >> {calls}\nsleep 0.3\nexit {0 if answers else 1}\n")
    drivers = [Store(tmp_path / "cells") for _ in range(6)]
    with multiprocessing.get_context("fork").Pool(6) as pool:
        pool.map(slurm.jobs, drivers)
    assert (slurm.jobs(drivers[0]) is not None) is answers
    assert calls.read_text().splitlines() == ["asked"]


def test_accounting_is_asked_once_for_all_losses_and_not_again_at_once(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "SQUEUE_S", 0.5)
    store, asked = Store(tmp_path / "cells"), []

    def output(command: list[str]) -> str:
        asked.extend(command[5:6] if command[0] == "sacct" else [])
        return "7_0|OUT_OF_MEMORY|0:125\n" if command[0] == "sacct" else ""

    monkeypatch.setattr(slurm, "_output", output)
    assert slurm.causes_of_death(store, ["7_0", "7_1"]) == {"7_0": "memory", "7_1": "unknown"}
    assert slurm.causes_of_death(store, ["7_2"]) is None
    time.sleep(0.7)
    assert slurm.causes_of_death(store, ["7_2"]) == {"7_2": "unknown"}
    assert asked == ["7_0,7_1", "7_2"]


def test_a_driver_that_is_still_submitting_owns_its_claims(tmp_path: Path) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    record = {"host": os.uname().nodename, "pid": os.getpid(), "time": store.now(), "clock": time.time(), "cells": []}
    write_json(store.submissions / "s" / "submission.json", record | {"site": {"executor": "local", "pack": None}})
    store.claim(one.key, "s")
    release_dead(store)
    assert store.state(one.key) == "queued"
    assert liveness.submission_alive(store, "s")


@pytest.mark.parametrize(("host", "state"), [("elsewhere", "queued"), (os.uname().nodename, "missing")])
def test_the_queue_of_another_machine_that_shares_the_store_is_left_alone(
    host: str, state: str, tmp_path: Path
) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    record = {"host": host, "pid": 1, "time": store.now(), "clock": 1.0, "cells": [one.to_json()]}
    write_json(store.submissions / "s" / "submission.json", record | {"site": {"executor": "local", "pack": None}})
    write_json(store.submissions / "s" / "jobs.json", {"jobs": [str(2**22 + 1)], "time": store.now()})
    store.claim(one.key, "s")
    release_dead(store)
    assert store.state(one.key) == state


@pytest.mark.parametrize(("silent_s", "states"), [(200, ["running", "queued"]), (400, ["missing", "missing"])])
def test_what_a_machine_had_that_fell_silent_is_let_go_of(silent_s: float, states: list[str], tmp_path: Path) -> None:
    """A container that was killed comes back under another name."""
    store, cells = Store(tmp_path / "cells"), [cell("sleep", 0), cell("sleep", 1)]
    folder, record = store.submissions / "s", {"host": "elsewhere", "pid": 1, "time": store.now(), "clock": 1.0}
    record |= {"site": {"executor": "local", "pack": None}, "cells": [one.to_json() for one in cells]}
    write_json(folder / "submission.json", record)
    write_json(folder / "jobs.json", {"jobs": ["7"], "time": store.now()})
    begin_pulse(folder)
    for one in cells:
        store.claim(one.key, "s")
    token = hold(store, cells[0], "local-7", host="elsewhere")
    touched = store.now() - silent_s
    os.utime(folder / "pulse", (touched, touched))
    release_dead(store)
    assert [store.state(one.key) for one in cells] == states
    if "missing" in states:
        with pytest.raises(TakenOverError):  # it only slept, and comes back
            store.publish(cells[0].key, token, result={"state": "done"})


def test_what_a_machine_had_whose_submission_was_removed_is_let_go_of(tmp_path: Path) -> None:
    """`gc` removes the folder of a submission that ended, and its pulse: the cell that was held would stay for ever."""
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    store.claim(one.key, "s")
    hold(store, one, "local-7", host="elsewhere")
    release_dead(store)
    assert store.state(one.key) == "missing"
    (store.submissions / "old").mkdir(parents=True)  # as older versions left it, without a pulse
    assert not pulse.is_silent(store, "old")


def test_a_worker_beats_while_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    begin_pulse(tmp_path)
    os.utime(tmp_path / "pulse", (1, 1))
    with pulse.pulse(tmp_path):
        end = time.monotonic() + 10
        while (tmp_path / "pulse").stat().st_mtime == 1:
            assert time.monotonic() < end
            sum(range(10_000))
    os.utime(tmp_path / "pulse", (1, 1))
    time.sleep(0.1)
    assert (tmp_path / "pulse").stat().st_mtime == 1
