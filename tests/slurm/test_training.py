"""A real training on a real SLURM, interrupted and taken up again: it ends with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from pipeline import attach, slurm
from pipeline.cell import Cell, chain
from pipeline.params import load_params, resolve_table
from pipeline.store import Store, read_json

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
store, root, data, cells = json.load(sys.stdin)
submit(Store(Path(store)), [from_json(cell) for cell in cells], root=Path(root), data_root=Path(data))
"""


@pytest.fixture
def site(project: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project whose cluster is the test cluster."""
    assert cluster
    local = yaml.safe_load((project / "slurm" / "local.yaml").read_text())
    parameters = {"timeout_min": 30, "cpus_per_task": 1, "mem_gb": 2, "slurm_signal_delay_s": 30}
    chosen = local | {"executor": "slurm", "workers": 2, "pack": 1, "threads": 1, "parameters": parameters}
    (project / "slurm" / "test.yaml").write_text(yaml.safe_dump(chosen))
    monkeypatch.chdir(project)
    monkeypatch.setenv("CLUSTER", "test")
    monkeypatch.setattr(slurm, "SQUEUE_S", 2.0)
    monkeypatch.setattr(slurm, "GRACE_S", 4.0)
    monkeypatch.setattr(attach, "GRACE_S", 4.0)
    monkeypatch.setattr(attach, "LIVENESS_S", 2.0)
    yield project
    subprocess.run(["scancel", "-u", os.environ.get("USER", "root")], check=False, capture_output=True)


def cells_of_a_minute() -> list[Cell]:
    """U2PL at toy size with so many epochs that there is time to interrupt it, and queues that fill."""
    params = load_params(PROJECT / "params.yaml") | {"scale": "smoke"}
    (row,) = resolve_table(params, "experiment")
    row["training"] |= {"epochs": 40, "warm_start_epochs": 2, "evaluate_every_epochs": 20, "unlabelled_batch": 4}
    row["parameters"] |= {"anchor_threshold": 0.0}
    return chain(row)


def send(site: Path, store: Store, data_root: Path, cells: list[Cell]) -> None:
    given = json.dumps([str(store.root), str(site), str(data_root), [cell.to_json() for cell in cells]])
    subprocess.run([sys.executable, "-c", SUBMIT], input=given, text=True, check=True, cwd=site)


def finish(site: Path, store: Store, data_root: Path, cells: list[Cell]) -> None:
    keyed = {cell.key: cell for cell in cells}
    assert attach.wait(store, keyed, lambda: send(site, store, data_root, cells), title="test") == {}


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
    cluster.wait_for(lambda: "PENDING" in cluster.states(job), seconds=60)
    cluster.run("scontrol", "update", f"jobid={job}", "StartTime=now")


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert torch.equal(left, right)


def test_preempted_twice_and_out_of_time_once_a_training_ends_with_the_same_bits(
    site: Path, cluster: Cluster, data_root: Path
) -> None:
    cells = cells_of_a_minute()
    _, train, evaluate = cells
    calm, rough = (Store(site / name) for name in ("calm", "rough"))
    finish(site, calm, data_root, cells)
    send(site, rough, data_root, cells)
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scancel", "--signal=USR2")  # as SLURM does before the time limit
    finish(site, rough, data_root, cells)
    events = [line["event"] for line in rough.executions() if line["key"] == train.key]
    assert events == ["start", "resume", "resume", "resume", "done"]
    weights = [torch.load(store.done(train.key) / "weights.pt", weights_only=True) for store in (calm, rough)]
    assert_equal(*weights)
    results = [read_json(store.done(evaluate.key) / "result.json") or {} for store in (calm, rough)]
    assert results[0]["metrics"] == results[1]["metrics"]
    trained = read_json(rough.done(train.key) / "result.json") or {}
    assert trained["provenance"]["restarts"] == 3
