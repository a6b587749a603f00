"""Killed with -9 at each point between a claim and a published result; the next run finishes, and repeats nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster import liveness
from pipeline.files import write_json
from pipeline.store import Store
from pipeline.worker import Stop, run_submission
from tests.pipeline import test_launch
from tests.pipeline.test_launch import SUBMIT, finished, send, sleeper, until

local_store = test_launch.local_store

DIE = "import os, signal\ndef die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
DRIVER = {
    "claim": """
import pipeline.store as store
claim = store.Store.claim
store.Store.claim = lambda *given: (claim(*given), die())
""",
    "intent": """
import pipeline.launch as launch
launch.Queue.send = die
""",
    "sbatch": """
import pipeline.launch as launch
send_jobs = launch.Queue.send
launch.Queue.send = lambda *given: (send_jobs(*given), die())
""",
    "record": """
import pipeline.launch as launch
send = launch._send
launch._send = lambda *given, **named: (send(*given, **named), die())
""",
}
"""Where the driver dies: after its first claim, the written intent, the submitted jobs, the written job ids."""

WORKER = {
    "hold": "import pipeline.worker as worker\nworker.run_cell = die\n",
    "result": "import pipeline.store as store\nstore.Store._own = die\n",
    "publish": "import pipeline.store as store\nstore.fsync_folder = die\n",
}
"""Where the worker dies: holding a cell, with its result written but not published, just after publishing it."""

RUN = """
import sys
from pathlib import Path
from pipeline.store import Store
from pipeline.worker import Stop, run_submission
run_submission(Store(Path(sys.argv[1])), "s", limit=None, stop=Stop())
"""


def lines(store: Store, event: str) -> list[str]:
    return sorted(line["key"] for line in store.executions() if line["event"] == event)


@pytest.mark.parametrize("point", list(DRIVER))
def test_a_driver_that_dies_anywhere_costs_no_second_computation(local_store: Store, project: Path, point: str) -> None:
    cells = [sleeper(number, 0.2) for number in range(4)]
    keys = sorted(cell.key for cell in cells)
    given = json.dumps([str(local_store.root), str(project), [cell.to_json() for cell in cells]])
    killed = subprocess.run([sys.executable, "-c", DIE + DRIVER[point] + SUBMIT], input=given, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (project / "submitted").exists()

    def everything_done() -> bool:
        liveness.release_dead(local_store)
        send(local_store, cells, project)
        return all(local_store.is_done(key) for key in keys)

    until(everything_done)
    until(lambda: len(finished(local_store)) >= len(keys))
    assert finished(local_store) == keys
    assert lines(local_store, "start") == keys


@pytest.mark.parametrize("point", list(WORKER))
def test_a_worker_that_dies_anywhere_publishes_each_result_once(local_store: Store, point: str) -> None:
    first, second = sleeper(1), sleeper(2)
    for cell in (first, second):
        local_store.claim(cell.key, "s")
    record = {"cells": [first.to_json(), second.to_json()], "threads": 1, "site": {"executor": "local"}, "time": 0}
    record |= dict.fromkeys(("commit", "dirty", "snapshot", "dvc_stage", "dvc_experiment", "host", "pid"))
    record |= {"data_root": str(local_store.root)}
    write_json(local_store.submissions / "s" / "submission.json", record)
    killed = subprocess.run([sys.executable, "-c", DIE + WORKER[point] + RUN, str(local_store.root)], check=False)
    assert killed.returncode == -signal.SIGKILL
    published = [cell.key for cell in (first, second) if local_store.is_done(cell.key)]
    assert len(published) == (point == "publish")
    liveness.release_dead(local_store)
    for cell in (first, second):
        local_store.claim(cell.key, "s")
    run_submission(local_store, "s", limit=None, stop=Stop())
    assert local_store.is_done(first.key)
    assert local_store.is_done(second.key)
    ends = lines(local_store, "done")  # the log's line may be lost with the worker, a result never
    assert set(ends) | set(published) == {first.key, second.key}
    assert len(ends) == len(set(ends))
    started = lines(local_store, "start")
    assert [started.count(key) for key in published] == [1] * len(published)


def test_two_drivers_at_once_on_two_clones_share_the_work(local_store: Store, project: Path, tmp_path: Path) -> None:
    cells, clone = [sleeper(number, 0.1) for number in range(8)], tmp_path / "clone"
    shutil.copytree(project, clone, ignore=shutil.ignore_patterns("cells", "cache", "clone"))
    drivers = [
        subprocess.Popen([sys.executable, "-c", SUBMIT], stdin=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(2)
    ]
    for driver, root in zip(drivers, (project, clone), strict=True):
        assert driver.stdin is not None
        driver.stdin.write(json.dumps([str(local_store.root), str(root), [cell.to_json() for cell in cells]]))
        driver.stdin.close()
    assert [driver.wait(60) for driver in drivers] == [0, 0]
    until(lambda: len(finished(local_store)) >= len(cells))
    assert finished(local_store) == sorted(cell.key for cell in cells)
    assert lines(local_store, "start") == sorted(cell.key for cell in cells)


def test_a_full_disk_fails_the_cell_with_its_reason_and_loses_no_other(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, late = sleeper(1), sleeper(2)
    for cell in (done, late):
        local_store.claim(cell.key, "s")
    token = local_store.hold(done.to_json(), {"host": "n", "pid": os.getpid(), "job": "1", "submission": "s"})
    assert token is not None
    local_store.publish(done.key, token, result={"state": "done"})
    token = local_store.hold(late.to_json(), {"host": "n", "pid": os.getpid(), "job": "1", "submission": "s"})
    assert token is not None

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.store.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            local_store.publish(late.key, token, result={"state": "done"})
    assert local_store.is_done(done.key)
    assert not local_store.is_done(late.key)
    local_store.publish(late.key, token, result={"state": "done"})  # with room again
    assert local_store.is_done(late.key)
