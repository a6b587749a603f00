"""A store that several hosts and users share: clocks that differ, files of two users, jobs that ran out of memory."""

from __future__ import annotations

import os
import stat
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import launch
from pipeline.cell import Cell, digest
from pipeline.cluster import liveness, slurm
from pipeline.cluster.origin import user
from pipeline.files import write_json
from pipeline.store import Store
from tests.pipeline.conftest import let_go

SKEWS_S = (-600, 600)


def sleeper(number: int) -> Cell:
    values = {"seconds": 0.1, "number": number, "dataset": "none", "partition": "-", "seed": 0}
    return Cell("sleep", values, (), digest(number))


def job(name: str, number: str, state: str = "RUNNING", status: int = 0, reason: str = "None") -> str:
    """A line of `squeue`."""
    return f"{name}|{number}|{state}|{status}|{user()}|{reason}|/nowhere\n"


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `squeue` that prints the lines of a file; asked anew each time, and at once."""
    listing, command = tmp_path / "listing", tmp_path / "bin" / "squeue"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\ncat {listing}\n")
    command.chmod(0o755)
    scontrol = command.with_name("scontrol")
    scontrol.write_text("#!/bin/sh\necho 'ClusterName = test'\n")
    scontrol.chmod(0o755)
    listing.write_text("")
    slurm._told.clear()
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "SQUEUE_S", 0.0)
    monkeypatch.setattr(slurm, "GRACE_S", 0.5)
    return listing


@pytest.mark.parametrize("skew_s", SKEWS_S)
@pytest.mark.parametrize("whose", ["worker", "driver"])
def test_a_wrong_clock_makes_no_living_worker_dead_and_no_dead_one_alive(
    skew_s: int, whose: str, squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell, now = Store(tmp_path / "cells"), sleeper(0), time.time

    def clock_of(host: str) -> None:
        monkeypatch.setattr(time, "time", lambda: now() + (skew_s if host == whose else 0))

    clock_of("worker")
    store.claim(cell.key, "s")
    store.hold(cell.to_json(), {"submission": "s", "host": "elsewhere", "pid": 1, "job": "7_1"})
    clock_of("driver")
    holder = store.holder(cell.key) or {}
    squeue.write_text("")  # asked too early: nothing may be concluded
    assert not liveness.holder_dead(store, holder)
    time.sleep(0.7)
    squeue.write_text(job("cells-s", "7_1"))
    assert not liveness.holder_dead(store, holder)
    squeue.write_text(job("cells-s", "7_2") + job("others", "7_1"))
    assert liveness.holder_dead(store, holder)


@pytest.mark.parametrize("skew_s", SKEWS_S)
def test_a_wrong_clock_makes_no_submission_dead(
    skew_s: int, squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = Store(tmp_path / "cells"), time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew_s)
    record = {"host": "elsewhere", "pid": 1, "time": store.now(), "clock": time.time(), "job_name": "cells-s"}
    write_json(store.submissions / "s" / "submission.json", record | {"site": {"executor": "slurm"}})
    monkeypatch.setattr(time, "time", now)
    assert liveness.submission_alive(store, "s")
    time.sleep(0.7)
    squeue.write_text(job("cells-s", "7_1"))
    assert liveness.submission_alive(store, "s")
    squeue.write_text("")
    assert not liveness.submission_alive(store, "s")


@pytest.mark.parametrize(
    ("accounting", "controller", "cause"),
    [
        ("OUT_OF_MEMORY|0:125", "", "memory"),
        ("FAILED|0:9", "", "memory"),
        ("FAILED|9:0", "", "memory"),
        ("CANCELLED by 0|0:9", "", "cluster"),
        ("PREEMPTED|0:9", "", "cluster"),
        ("TIMEOUT|0:9", "", "time"),
        ("FAILED|1:0", "", "unknown"),
        (None, job("cells-s", "7_1", "FAILED", 137 * 256), "memory"),
        (None, job("cells-s", "7_1", "FAILED", 9), "memory"),
        (None, job("cells-s", "7_1", "CANCELLED", 9), "cluster"),
        (None, job("cells-s", "7_1", "NODE_FAIL"), "cluster"),
        (None, "", "unknown"),
    ],
)
def test_why_a_job_died_is_known_by_its_state_and_signal(
    accounting: str | None, controller: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"sacct": accounting and f"7_1|{accounting}\n", "squeue": controller}
    monkeypatch.setattr(slurm, "_output", lambda command: told[command[0]])
    assert slurm.causes_of_death(Store(tmp_path / "cells"), ["7_1", "7_2"]) == {"7_1": cause, "7_2": "unknown"}


def test_memory_is_doubled_for_each_time_it_did_not_suffice(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell = Store(tmp_path / "cells"), sleeper(0)
    site: dict[str, Any] = {"parameters": {"mem_gb": 10, "timeout_min": 5}, "kinds": {}, "datasets": {}}
    asked = []
    causes = {"7_1": "memory", "8_1": "unknown"}
    monkeypatch.setattr(slurm, "causes_of_death", lambda _, jobs: {job: causes[job] for job in jobs})
    for job in ("7_1", "7_1", "8_1"):
        asked.append(launch.resources(site, cell, doublings=launch.memory_losses(store)[cell.key])["mem_gb"])
        store.claim(cell.key, "s")
        store.hold(cell.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": job})
        time.sleep(0.7)
        liveness.release_dead(store)
    assert asked == [10, 20, 40]
    assert site["parameters"]["mem_gb"] == 10
    reason = (store.failure(cell.key) or {})["reason"]
    assert reason.startswith("its worker died 3 times at the same step, the last as job 8_1 on n1")
    events = [line.get("memory") for line in store.executions() if line["event"] == "lost"]
    assert events == [True, True, False]
    store.retry(cell.key)
    assert launch.memory_losses(store)[cell.key] == 0


def test_eight_times_the_memory_is_tried_before_a_cell_has_failed(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell = Store(tmp_path / "cells"), sleeper(0)
    site: dict[str, Any] = {"parameters": {"mem_gb": 10}, "kinds": {}, "datasets": {}}
    monkeypatch.setattr(slurm, "causes_of_death", lambda _, jobs: dict.fromkeys(jobs, "memory"))
    asked = []
    while store.state(cell.key) != "failed" and len(asked) < 9:
        asked.append(launch.resources(site, cell, doublings=launch.memory_losses(store)[cell.key])["mem_gb"])
        store.claim(cell.key, "s")
        store.hold(cell.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"})
        write_json(store.work(cell.key) / "holder.json", (store.holder(cell.key) or {}) | {"time": store.now() - 1000})
        liveness.release_dead(store)
    assert asked == [10, 20, 40, 80]


def test_what_the_cluster_takes_away_again_and_again_is_not_the_cells_fault(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preempted four times before its first checkpoint, it stands where it stood after two crashes."""
    store, cell = Store(tmp_path / "cells"), sleeper(0)
    causes = ["cluster", "unknown", "cluster", "cluster", "unknown", "cluster", "unknown"]
    monkeypatch.setattr(slurm, "causes_of_death", lambda _, jobs: dict.fromkeys(jobs, causes.pop(0)))
    states = []
    while causes:
        store.claim(cell.key, "s")
        token = store.hold(cell.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"})
        assert token is not None
        write_json(store.work(cell.key) / "holder.json", (store.holder(cell.key) or {}) | {"time": store.now() - 1000})
        liveness.release_dead(store)
        states.append(store.state(cell.key))
    assert states == ["missing"] * 6 + ["failed"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as two other users")
def test_two_users_share_a_store_that_is_open_to_their_group() -> None:
    """The second goes on with the cell that the first left with a checkpoint, and may write all that is there."""
    group, users = 54321, (54322, 54323)
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        root = Path(folder) / "cache" / "cells"
        root.mkdir(parents=True)
        for open_to_all in (Path(folder), root.parent):
            open_to_all.chmod(0o755)
        os.chown(root, 0, group)
        root.chmod(0o2775)
        store, cells = Store(root), [sleeper(number) for number in range(3)]
        write_json(store.submissions / "s" / "submission.json", {})  # root's; a user's own folders lie beside it
        as_user(users[0], group, lambda: begin(store, cells[:2]))
        as_user(users[1], group, lambda: go_on(store, cells))
        assert {store.state(cell.key) for cell in cells} == {"done"}
        assert (store.done(cells[1].key) / "log.txt").read_text() == "first\nsecond\n"
        theirs = [path for path in root.rglob("*") if path.stat().st_uid in users]
        assert len(theirs) > 10
        assert [path for path in theirs if not path.stat().st_mode & stat.S_IWGRP or path.stat().st_gid != group] == []


def begin(store: Store, cells: list[Cell]) -> None:
    """Publish the first cell, and leave the second with a log and a checkpoint."""
    store.share_with_group()
    for cell in cells:
        assert store.claim(cell.key, "first")
        token = store.hold(cell.to_json(), {"submission": "first", "host": "n1", "pid": 1, "job": "7_1"})
        (store.work(cell.key) / "log.txt").write_text("first\n")
        (store.work(cell.key) / "checkpoint.pt").write_text("half")
        if cell is cells[0]:
            store.publish(cell.key, str(token), result={"state": "done"})


def go_on(store: Store, cells: list[Cell]) -> None:
    """Take the abandoned cell over as a driver does, and publish all that is not done."""
    store.share_with_group()
    let_go(store, cells[1].key)
    for cell in cells[1:]:
        assert store.claim(cell.key, "second")
        token = store.hold(cell.to_json(), {"submission": "second", "host": "n1", "pid": 1, "job": "8_1"})
        with (store.work(cell.key) / "log.txt").open("a") as log:
            log.write("second\n")
        (store.work(cell.key) / "checkpoint.pt").write_text("whole")
        store.publish(cell.key, str(token), result={"state": "done"})


def as_user(user: int, group: int, act: Callable[[], None]) -> None:
    """Act in a forked process as a user of a group, with the umask most have."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            os.umask(0o022)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
