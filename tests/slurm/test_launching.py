"""Cells on a real SLURM: every one once, whatever happens to jobs, drivers and nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from pipeline import attach, slurm
from pipeline.cell import Cell, chain, digest
from pipeline.params import load_params, resolve_table
from pipeline.store import Store, find_store, read_json

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
PROJECT = Path(__file__).parents[2]
SUBMIT = """
import json, sys
from pathlib import Path
from pipeline.cell import from_json
from pipeline.launch import submit
from pipeline.store import Store
store, root, cells = json.load(sys.stdin)
data_root = Path(root) / "data" / "smoke"
submit(Store(Path(store)), [from_json(cell) for cell in cells], root=Path(root), data_root=data_root)
"""


def sleeper(number: int, seconds: float) -> Cell:
    values = {"seconds": seconds, "number": number, "dataset": "none", "partition": "-", "seed": 0}
    return Cell("sleep", values, (), digest([number, seconds]))


@pytest.fixture
def site(project: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose cluster is the test cluster: one training a job, asked about every two seconds."""
    assert cluster
    local = yaml.safe_load((project / "slurm" / "local.yaml").read_text())
    parameters = {"timeout_min": 30, "cpus_per_task": 1, "mem_gb": 1, "slurm_signal_delay_s": 30}
    chosen = local | {"executor": "slurm", "workers": 8, "pack": 1, "parameters": parameters}
    (project / "slurm" / "test.yaml").write_text(yaml.safe_dump(chosen))
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLUSTER", "test")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
    monkeypatch.setattr(slurm, "SQUEUE_S", 2.0)
    monkeypatch.setattr(slurm, "GRACE_S", 4.0)
    monkeypatch.setattr(attach, "LIVENESS_S", 2.0)
    yield project
    subprocess.run(["scancel", "-u", os.environ.get("USER", "root")], check=False, capture_output=True)


def send(project: Path, cells: list[Cell], *, root: Path | None = None) -> None:
    """Submit cells, by default to the project's own store."""
    given = json.dumps([str(root or find_store(project)), str(project), [cell.to_json() for cell in cells]])
    subprocess.run([sys.executable, "-c", SUBMIT], input=given, text=True, check=True, cwd=project)


def finish(project: Path, cells: list[Cell], *, root: Path | None = None) -> Store:
    """Wait as a stage does, and return the store when every cell has ended."""
    store = Store(root or find_store(project))
    keyed = {cell.key: cell for cell in cells}
    assert attach.wait(store, keyed, lambda: send(project, cells, root=root), title="test") == {}
    return store


def starts(store: Store) -> list[str]:
    return sorted(line["key"] for line in store.executions() if line["event"] in ("start", "resume"))


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
    done = [line for line in store.executions() if line["event"] == "done"]
    assert len(done) == 1


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


def cells_of_a_minute(**training: Any) -> list[Cell]:
    """U2PL at toy size with so many epochs that there is time to interrupt it, and queues that fill."""
    params = load_params(PROJECT / "params.yaml") | {"scale": "smoke"}
    (row,) = resolve_table(params, "experiment")
    row["training"] |= {
        "epochs": 40,
        "warm_start_epochs": 2,
        "evaluate_every_epochs": 20,
        "unlabelled_batch": 4,
    } | training
    row["parameters"] |= {"anchor_threshold": 0.0}
    return chain(row)


def reached(store: Store, key: str) -> int:
    """The last step that the cell's spool tells of."""
    spool = store.work(key) / "spool.jsonl"
    lines = spool.read_text().splitlines() if spool.exists() else []
    steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
    return max(steps, default=0)


def interrupt(cluster: Cluster, store: Store, key: str, *command: str) -> None:
    """Let the cell get on by some steps, then do to its job what the command says, and let it start again at once."""
    before = reached(store, key)
    cluster.wait_for(lambda: store.state(key) == "running" and reached(store, key) > before + 15, seconds=120)
    job = (store.holder(key) or {})["job"]
    cluster.run(*command, job)
    cluster.restart_requeued(job)


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert torch.equal(left, right)


def test_preempted_twice_and_out_of_time_once_a_training_ends_with_the_same_bits(site: Path, cluster: Cluster) -> None:
    cells = cells_of_a_minute()
    _, train, evaluate = cells
    calm, rough = finish(site, cells, root=site / "calm"), Store(site / "rough")
    send(site, cells, root=rough.root)
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scancel", "--signal=USR2")  # as SLURM does before the time limit
    finish(site, cells, root=rough.root)
    events = [line["event"] for line in rough.executions() if line["key"] == train.key]
    assert events == ["start", "resume", "resume", "resume", "done"]
    weights = [torch.load(store.done(train.key) / "weights.pt", weights_only=True) for store in (calm, rough)]
    assert_equal(*weights)
    results = [read_json(store.done(evaluate.key) / "result.json") or {} for store in (calm, rough)]
    assert results[0]["metrics"] == results[1]["metrics"]
    trained = read_json(rough.done(train.key) / "result.json") or {}
    assert trained["provenance"]["restarts"] == 3


def test_two_nodes_train_one_cell_and_end_with_the_same_bits_after_interruptions(site: Path, cluster: Cluster) -> None:
    """The nodes of the test cluster have no address of their own: they meet on this host."""
    chosen = yaml.safe_load((site / "slurm" / "test.yaml").read_text())
    chosen["parameters"] |= {"nodes": 2, "tasks_per_node": 1}
    chosen["setup"] = ["export MASTER_ADDR=127.0.0.1"]
    (site / "slurm" / "test.yaml").write_text(yaml.safe_dump(chosen))
    cells = cells_of_a_minute(labelled_batch=2, epochs=30)
    train = cells[1]
    calm, rough = finish(site, cells, root=site / "calm"), Store(site / "rough")
    send(site, cells, root=rough.root)
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scancel", "--signal=USR2")
    finish(site, cells, root=rough.root)
    events = [line["event"] for line in rough.executions() if line["key"] == train.key]
    assert events == ["start", "resume", "resume", "done"]
    weights = [torch.load(store.done(train.key) / "weights.pt", weights_only=True) for store in (calm, rough)]
    assert_equal(*weights)
    assert (read_json(rough.done(train.key) / "result.json") or {})["provenance"]["ranks"] == 2
