"""Cells on a real SLURM: every one once, whatever happens to jobs, drivers and nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.files import read_json
from pipeline.store import Store, find_store
from tests.slurm.driving import SUBMIT, finish, send, sleeper, starts

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm


def test_every_cell_runs_once_as_one_throttled_array(site: Path) -> None:
    cells = [sleeper(number, 0.2) for number in range(12)]
    send(site, cells)
    store = finish(site, cells)
    assert starts(store) == sorted(cell.key for cell in cells)
    (jobs,) = [read_json(path) for path in store.submissions.glob("*/jobs.json")]
    assert jobs is not None
    assert len(jobs["jobs"]) == 12
    assert len({job.split("_")[0] for job in jobs["jobs"]}) == 1


def test_a_cancelled_task_is_submitted_again(site: Path, cluster: Cluster) -> None:
    cancel_one_of_three(site, cluster)


def test_a_cancelled_task_is_submitted_again_where_nothing_is_accounted(
    running_cluster: Callable[..., AbstractContextManager[Cluster]], make_site: Callable[..., Path]
) -> None:
    """What ended is known to the controller alone, and to it for some seconds."""
    with running_cluster("--no-accounting", "--nodes=1") as cluster:
        cancel_one_of_three(make_site(), cluster)


def cancel_one_of_three(site: Path, cluster: Cluster) -> None:
    cells = [sleeper(number, 6.0) for number in range(3)]
    send(site, cells)
    store = Store(find_store(site))
    cluster.wait_for(lambda: sum(store.state(cell.key) == "running" for cell in cells) == 3)
    victim = (store.holder(cells[1].key) or {})["job"]
    cluster.run("scancel", "--signal=KILL", victim)
    cluster.run("scancel", victim)
    time.sleep(5)
    finish(site, cells)
    assert sorted(starts(store)) == sorted([*(cell.key for cell in cells), cells[1].key])


def test_a_requeued_job_takes_its_cell_up_again(site: Path, cluster: Cluster) -> None:
    cells = [sleeper(1, 8.0)]
    send(site, cells)
    store = Store(find_store(site))
    cluster.wait_for(lambda: store.state(cells[0].key) == "running")
    job = (store.holder(cells[0].key) or {})["job"]
    cluster.run("scontrol", "requeue", job)
    cluster.restart_requeued(job)
    finish(site, cells)
    cluster.wait_for(lambda: "done" in [line["event"] for line in store.executions()])  # written after the publishing
    assert [line["event"] for line in store.executions()].count("done") == 1


def test_an_orphan_of_a_killed_driver_is_adopted_by_its_name(site: Path) -> None:
    cells = [sleeper(number, 5.0) for number in range(2)]
    send(site, cells)
    store = Store(find_store(site))
    for path in store.submissions.glob("*/jobs.json"):
        path.unlink()  # as if the driver had died between sbatch and the record
    finish(site, cells)
    assert starts(store) == sorted(cell.key for cell in cells)


def test_submission_waits_for_a_controller_that_restarts(site: Path, cluster: Cluster) -> None:
    cells = [sleeper(1, 0.2)]
    cluster.stop("slurmctld")
    given = json.dumps([str(find_store(site)), str(site), [cell.to_json() for cell in cells]])
    driver = subprocess.Popen([sys.executable, "-c", SUBMIT], stdin=subprocess.PIPE, text=True, cwd=site)
    assert driver.stdin is not None
    driver.stdin.write(given)
    driver.stdin.close()
    time.sleep(4)
    cluster.start("slurmctld")
    assert driver.wait(timeout=180) == 0
    store = finish(site, cells)
    assert starts(store) == [cells[0].key]


def test_two_drivers_at_once_submit_a_cell_once(site: Path) -> None:
    cells = [sleeper(number, 1.0) for number in range(6)]
    given = json.dumps([str(find_store(site)), str(site), [cell.to_json() for cell in cells]])
    drivers = [
        subprocess.Popen([sys.executable, "-c", SUBMIT], stdin=subprocess.PIPE, text=True, cwd=site) for _ in range(2)
    ]
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write(given)
        driver.stdin.close()
    assert [driver.wait(timeout=120) for driver in drivers] == [0, 0]
    store = finish(site, cells)
    assert starts(store) == sorted(cell.key for cell in cells)
