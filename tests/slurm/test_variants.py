"""Our launcher on other kinds of clusters: no accounting, GPUs that are only counted, short arrays, preemption."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from pipeline import attach, slurm
from pipeline.store import Store, find_store, read_json
from tests.slurm.test_launching import finish, send, sleeper, starts

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]


@pytest.fixture
def make_site(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """A project on whatever cluster is up, with further submitit parameters."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLUSTER", "test")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
    for module, name, seconds in ((slurm, "SQUEUE_S", 2.0), (slurm, "GRACE_S", 4.0), (attach, "LIVENESS_S", 2.0)):
        monkeypatch.setattr(module, name, seconds)

    def make(**parameters: Any) -> Path:
        local = yaml.safe_load((project / "slurm" / "local.yaml").read_text())
        given = {"timeout_min": 5, "cpus_per_task": 1, "mem_gb": 1, "slurm_signal_delay_s": 30} | parameters
        site = local | {"executor": "slurm", "workers": 8, "pack": 1, "parameters": given}
        (project / "slurm" / "test.yaml").write_text(yaml.safe_dump(site))
        return project

    yield make
    subprocess.run(["scancel", "-u", os.environ.get("USER", "root")], check=False, capture_output=True)


def test_without_accounting_with_counted_gpus_and_short_arrays_each_cell_runs_once(
    running_cluster: Start, make_site: Callable[..., Path]
) -> None:
    """A limit of five minutes is below submitit's usual lead for its signal, too."""
    with running_cluster("--no-accounting", "--gres=2", "--max-array-size=4"):
        site, cells = make_site(gpus_per_node=1), [sleeper(number, 0.2) for number in range(10)]
        send(site, cells)
        store = finish(site, cells)
        assert starts(store) == sorted(cell.key for cell in cells)
        (jobs,) = [read_json(path) or {} for path in store.submissions.glob("*/jobs.json")]
        assert len({job.split("_")[0] for job in jobs["jobs"]}) >= 3  # arrays of at most four tasks


@pytest.mark.parametrize("mode", ["REQUEUE", "CANCEL"])
def test_a_preempted_cell_is_taken_up_again(
    mode: str, running_cluster: Start, make_site: Callable[..., Path], tmp_path: Path
) -> None:
    with running_cluster(f"--preempt={mode}", "--nodes=1") as cluster:
        site, cells = make_site(cpus_per_task=4), [sleeper(0, 8.0)]
        send(site, cells)
        store = Store(find_store(site))
        cluster.wait_for(lambda: store.state(cells[0].key) == "running")
        job = (store.holder(cells[0].key) or {})["job"]
        urgent = ("--partition=urgent", "--cpus-per-task=4", f"--output={tmp_path}/urgent")
        cluster.submit(*urgent, "--wrap=sleep 1")
        cluster.wait_for(lambda: cluster.states(job.split("_")[0]) != ["RUNNING"])
        if mode == "REQUEUE":
            cluster.restart_requeued(job)
        finish(site, cells)
        assert store.state(cells[0].key) == "done"
        assert len([line for line in store.executions() if line["event"] == "done"]) == 1


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
