"""Our launcher on other kinds of clusters: no accounting, GPUs that are only counted, short arrays, preemption."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pipeline.files import read_json
from pipeline.store import Store, find_store
from tests.slurm.driving import edit, events, finish, reached, send, sleeper, slow_down, starts, u2pl_cells

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]


def test_without_accounting_with_counted_gpus_and_short_arrays_each_cell_runs_once(
    running_cluster: Start, make_site: Callable[..., Path]
) -> None:
    """A limit of five minutes is below submitit's usual lead for its signal, too."""
    with running_cluster("--no-accounting", "--gres=2", "--max-array-size=4"):
        site, cells = make_site({"timeout_min": 5, "gpus_per_node": 1}), [sleeper(number, 0.2) for number in range(10)]
        send(site, cells)
        store = finish(site, cells)
        assert starts(store) == sorted(cell.key for cell in cells)
        (jobs,) = [read_json(path) or {} for path in store.submissions.glob("*/jobs.json")]
        assert len({job.split("_")[0] for job in jobs["jobs"]}) >= 3  # arrays of at most four tasks


def test_a_job_killed_for_memory_is_submitted_again_with_twice_as_much(
    running_cluster: Start, make_site: Callable[..., Path]
) -> None:
    """Containers enforce no memory here: the worker is killed with signal 9 instead, as the kernel would."""
    with running_cluster() as cluster:
        site, cells = make_site(), [sleeper(0, 5.0)]
        send(site, cells)
        store = Store(find_store(site))
        cluster.wait_for(lambda: store.state(cells[0].key) == "running")
        holder = store.holder(cells[0].key) or {}
        os.kill(holder["pid"], 9)
        finish(site, cells)
        (lost,) = [line for line in store.executions() if line["event"] == "lost"]
        assert lost["memory"]
        records = [read_json(path) or {} for path in store.submissions.glob("*/submission.json")]
        assert sorted(record["parameters"]["mem_gb"] for record in records) == [1, 2]


@pytest.fixture
def team(make_site: Callable[..., Path]) -> Path:
    """A site whose cells are each trained by two tasks of a node, slowly enough to disturb them."""
    site = make_site({"nodes": 1, "tasks_per_node": 2}, setup=["export MASTER_ADDR=127.0.0.1"])
    slow_down(site, 0.03)
    return site


def test_a_second_rank_killed_for_memory_has_its_cell_submitted_again_with_twice_as_much(
    running_cluster: Start, team: Path
) -> None:
    with running_cluster() as cluster:
        cells = u2pl_cells(labelled_batch=2, epochs=3)
        send(team, cells)
        store, train = Store(find_store(team)), cells[1].key
        cluster.wait_for(lambda: reached(store, train) > 0)
        first = psutil.Process((store.holder(train) or {})["pid"])
        (second,) = [process for process in first.parent().children() if process.pid != first.pid]
        second.kill()
        finish(team, cells)
        (lost,) = [line for line in store.executions() if line["event"] == "lost"]
        assert (lost["key"], lost["memory"]) == (train, True)
        records = [read_json(path) or {} for path in store.submissions.glob("*/submission.json")]
        assert sorted(record["parameters"]["mem_gb"] for record in records) == [1, 2]


def test_a_second_rank_that_fails_says_why(running_cluster: Start, team: Path) -> None:
    """The reason is the error of the rank that failed, not the broken connection that the first one sees."""
    fault = "if ranks.rank() == 1 and run.step == 3:\n            raise ValueError('no image 17')\n"
    edit(team, "pipeline/training/engine.py", "        run.step += 1\n", f"        {fault}        run.step += 1\n")
    with running_cluster() as cluster:
        cells = u2pl_cells(labelled_batch=2)
        send(team, cells)
        store, warm_start = Store(find_store(team)), cells[0].key
        cluster.wait_for(lambda: store.failure(warm_start) is not None)
        assert (store.failure(warm_start) or {})["reason"].startswith("RankError: rank 1: ValueError: no image 17")
        assert "in _loop\n" in (store.work(warm_start) / "log.txt").read_text()  # where it failed
        assert "lost" not in events(store, warm_start)
