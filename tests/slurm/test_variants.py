"""Our launcher on other kinds of clusters: no accounting, GPUs that are only counted, short arrays, preemption."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.store import Store, find_store, read_json
from tests.slurm.driving import finish, send, sleeper, starts

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
