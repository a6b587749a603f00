"""Cells for the test cluster, and what drives them: submit, wait as a stage does, compare what came of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline import attach
from pipeline.cell import Cell, chain, digest
from pipeline.files import read_json
from pipeline.params import resolve_table
from pipeline.store import Store, find_store
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
SUBMIT = """
import json, sys
from pathlib import Path
from pipeline.cell import from_json
from pipeline.launch import submit
from pipeline.sbatch import LaterError
from pipeline.store import Store
store, root, cells = json.load(sys.stdin)
data_root = Path(root) / "data" / "smoke"
try:
    submit(Store(Path(store)), [from_json(cell) for cell in cells], root=Path(root), data_root=data_root)
except RuntimeError as error:
    sys.exit(75 if isinstance(error, LaterError) else repr(error))
"""


def write_site(project: Path, parameters: dict[str, Any], **site: Any) -> Path:
    """Write the site `test`: eight workers of one training each, with further keys and submitit parameters."""
    local = yaml.safe_load((project / "slurm" / "local.yaml").read_text())
    given = {"timeout_min": 30, "cpus_per_task": 1, "mem_gb": 1, "slurm_signal_delay_s": 30} | parameters
    chosen = local | {"executor": "slurm", "workers": 8, "pack": 1, "parameters": given} | site
    (project / "slurm" / "test.yaml").write_text(yaml.safe_dump(chosen))
    return project


def edit(project: Path, file: str, old: str, new: str) -> None:
    """Replace words in a copy of the project, which must hold them once."""
    text = (project / file).read_text()
    assert text.count(old) == 1, f"{file}: {old!r} stands there {text.count(old)} times"
    (project / file).write_text(text.replace(old, new))


def sleeper(number: int, seconds: float, dataset: str = "none") -> Cell:
    values = {"seconds": seconds, "number": number, "dataset": dataset, "partition": "-", "seed": 0}
    return Cell("sleep", values, (), digest([number, seconds, dataset]))


def u2pl_cells(**training: Any) -> list[Cell]:
    """The cells of `u2pl_row`."""
    return chain(u2pl_row(**training))


def u2pl_row(**training: Any) -> dict[str, Any]:
    """U2PL at toy size, with steps enough to interrupt it within an epoch, and queues that fill."""
    params = project_params()
    (row,) = resolve_table(params, "experiment")
    schedule = {"steps_per_epoch": 25, "epochs": 10, "evaluate_every_epochs": 5, "unlabelled_batch": 4}
    row["training"] |= schedule | training
    row["parameters"] |= {"anchor_threshold": 0.0}
    return row


def slow_down(project: Path, seconds: float) -> None:
    """Let the trainings of a copy of the project sleep in each step, which changes no number: time to disturb them."""
    edit(project, "pipeline/training/engine.py", "run.step += 1\n", f"run.step += 1\n        time.sleep({seconds})\n")


def checkpoint_often(project: Path) -> None:
    """Let the trainings of a copy of the project save themselves as often as they may."""
    edit(project, "pipeline/training/engine.py", "CHECKPOINT_S = 60.0", "CHECKPOINT_S = 0.0")
    edit(project, "pipeline/training/engine.py", "SAVING_SHARE = 0.02", "SAVING_SHARE = 1e9")


def send(project: Path, cells: list[Cell], *, root: Path | None = None) -> None:
    """Submit cells, by default to the project's own store; what the cluster does not take for now is left."""
    given = json.dumps([str(root or find_store(project)), str(project), [cell.to_json() for cell in cells]])
    sent = subprocess.run([sys.executable, "-c", SUBMIT], input=given, text=True, cwd=project)
    assert sent.returncode in (0, 75)


def finish(project: Path, cells: list[Cell], *, root: Path | None = None) -> Store:
    """Wait as a stage does, and return the store when every cell has ended."""
    store = Store(root or find_store(project))
    keyed = {cell.key: cell for cell in cells}
    assert attach.wait(store, keyed, start=lambda: send(project, cells, root=root), title="test") == {}
    return store


def starts(store: Store) -> list[str]:
    return sorted(line["key"] for line in store.executions() if line["event"] in ("start", "resume"))


def events(store: Store, key: str) -> list[str]:
    return [line["event"] for line in store.executions() if line["key"] == key]


def most_at_once(store: Store) -> int:
    """How many cells ran at the same time, at most, by the execution log."""
    lines = [line for line in store.executions() if line["event"] in ("start", "resume", "done")]
    running = most = 0
    for line in sorted(lines, key=lambda line: (line["time"], line["event"] != "done")):
        running += -1 if line["event"] == "done" else 1
        most = max(most, running)
    return most


def reached(store: Store, key: str) -> int:
    """The last step that the cell's spool tells of."""
    spool = store.work(key) / "spool.jsonl"
    lines = spool.read_text().splitlines() if spool.exists() else []
    steps = [json.loads(line).get("step", 0) for line in lines if line.endswith("}")]
    return max(steps, default=0)


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert torch.equal(left, right)


def assert_same_bits(calm: Store, rough: Store, cells: list[Cell]) -> None:
    """The weights of the training and the row of its evaluation are those of the other store, to the last bit."""
    *_, train, evaluate = cells
    assert_equal(*(torch.load(store.done(train.key) / "weights.pt", weights_only=True) for store in (calm, rough)))
    rows = [read_json(store.done(evaluate.key) / "result.json") or {} for store in (calm, rough)]
    assert rows[0]["metrics"] == rows[1]["metrics"]
