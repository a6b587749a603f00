"""Two processes of one job train a cell together, through submitit, and end as one process does."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.cell import Cell, chain
from pipeline.cluster.liveness import release_dead
from pipeline.params import resolve_table
from pipeline.store import Store
from tests.params import project_params
from tests.pipeline import test_launch
from tests.pipeline.test_launch import send, until

local_store = test_launch.local_store
pytestmark = pytest.mark.slow


@pytest.fixture
def two_ranks(project: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose jobs have two tasks, with the smoke scale's data."""
    site = yaml.safe_load((project / "slurm" / "local.yaml").read_text())
    site |= {"workers": 1, "parameters": {"tasks_per_node": 2, "gpus_per_node": 0}}
    (project / "slurm" / "two.yaml").write_text(yaml.safe_dump(site))
    monkeypatch.setenv("CLUSTER", "two")
    for part in data_root.iterdir():
        (project / part.name).symlink_to(part)
    return project


def tiny_chain(**training: Any) -> list[Cell]:
    (row,) = resolve_table(project_params(), "experiment")
    row["training"] |= {"labelled_batch": 2, "unlabelled_batch": 6, "crop": 32, "precision": "float32"} | training
    return chain(row)


def result(store: Store, cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((store.done(cell.key) / "result.json").read_text())
    return found


def test_a_chain_is_done_once_by_two_ranks_together(local_store: Store, two_ranks: Path) -> None:
    cells = tiny_chain(epochs=3)
    send(local_store, cells, two_ranks)
    until(lambda: all(local_store.state(cell.key) in ("done", "failed") for cell in cells), seconds=180)
    assert [local_store.state(cell.key) for cell in cells] == ["done"] * len(cells)
    assert {result(local_store, cell)["provenance"]["ranks"] for cell in cells} == {2}
    starts = [line["key"] for line in local_store.executions() if line["event"] == "start"]
    assert sorted(starts) == sorted(cell.key for cell in cells)
    weights = torch.load(local_store.done(cells[-2].key) / "weights.pt", weights_only=True)
    assert all(value.isfinite().all() for network in weights["last"].values() for value in network.values())


def test_a_rank_that_dies_takes_its_job_along_and_the_cell_is_not_lost(local_store: Store, two_ranks: Path) -> None:
    cells = tiny_chain(epochs=400)
    send(local_store, cells, two_ranks)
    train = cells[-2]
    until((local_store.work(train.key) / "spool.jsonl").exists, seconds=120)
    first = (local_store.holder(train.key) or {})["pid"]
    os.kill(other_rank(first), signal.SIGKILL)
    until(lambda: not alive(first), seconds=60)
    assert local_store.state(train.key) == "running"  # by what it left behind, until somebody looks
    until(lambda: release_dead(local_store) is not None and local_store.state(train.key) == "missing", seconds=60)
    assert [line["event"] for line in local_store.executions() if line["key"] == train.key] == ["start", "lost"]


def other_rank(first: int) -> int:
    """Return the process that shares the parent of the first rank."""
    import psutil

    siblings = psutil.Process(first).parent().children()  # type: ignore[union-attr]
    (other,) = [process.pid for process in siblings if process.pid != first]
    return other


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
