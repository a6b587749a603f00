"""What the number of cells costs: `python -m tests.benchmarks.store [COUNT …]` (10 to 10,000; needs no SLURM).

On simulated stores, and with an `sbatch` that only answers: milliseconds a cell to claim, to submit as a job of its
own, and to take, run for no time and publish with where the result comes from, once more without waiting for the disk;
seconds to look at all once. Then MLflow: milliseconds a run to bring it in, and seconds of a later pass that finds
nothing new (to 1,000 cells, which take half a minute; the database grows by rows, as at 100).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from pipeline.cell import Cell, digest
from pipeline.spool import Spool
from pipeline.store import Store
from pipeline.worker import Stop, run_cell, take
from tests.benchmarks.report import fitted, table, write

DIGITS = (0, 2, 2, 2, 2, 3, 1, 2)
PROJECT = Path(__file__).parents[2]
COUNTS = (10, 100, 1000, 10_000)
MOST_RUNS = 1000
HOLDER = {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}
RECORD = dict.fromkeys(("commit", "dirty", "patch", "snapshot", "dvc_stage", "dvc_experiment"))
RECORD |= {"threads": 1, "site": {"executor": "local"}}
SUBMIT = """
import json, sys, time
from pathlib import Path
from pipeline.cell import from_json
from pipeline.launch import submit
from pipeline.store import Store
root, cells = Path(sys.argv[1]), [from_json(cell) for cell in json.load(sys.stdin)]
began = time.perf_counter()
submit(Store(root / "cells"), cells, root=root, data_root=root)
print(time.perf_counter() - began)
"""
INGEST = """
import sys, time
from pathlib import Path
from pipeline.tracking.sending import Ingester
ingester = Ingester(Path(sys.argv[1]), (), uri=f"sqlite:///{sys.argv[1]}/mlflow.db")
ingester.database
for _ in range(2):
    began = time.perf_counter()
    ingester.work()
    print(time.perf_counter() - began)
"""


HEAD = ["cells", "claim", "submit", "take, run, publish", "without fsync", "look at all, s", "MLflow", "idle pass, s"]
WORDS = f"""\
Milliseconds a cell, wall time, unless the head says otherwise; single shots. *without fsync* is the same loop where
`os.fsync` does nothing. MLflow is given {MOST_RUNS:,} runs at most: its milliseconds a run are then known.

"""


def main() -> None:
    """Measure and write the section."""
    counts = list(map(int, sys.argv[1:] or COUNTS))
    lines = [line(num) for num in counts]
    rows = [
        ["-" if value is None else f"{value:.{digits}f}" for value, digits in zip(one, DIGITS, strict=True)]
        for one in lines
    ]
    body = WORDS + table(HEAD, rows) + "\n" + laws(lines)
    if sys.argv[1:]:
        print(body)
    else:
        write("store", "Cells in a store", body)


def line(num: int) -> list[float | None]:
    """Return the line of a number of cells."""
    cells = sleepers(num, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        submit_s = submitted(Path(folder), cells)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "cells")
        claim_s = timed(lambda: [store.claim(cell.key, "s") for cell in cells])
        look_s = timed(lambda: [store.state(cell.key) for cell in cells])
        drain_s = timed(lambda: drain(store, list(cells)))
    with tempfile.TemporaryDirectory() as folder, mock.patch("os.fsync", return_value=None):
        unsynced_s = timed(lambda: drain(Store(Path(folder) / "cells"), list(cells)))
    each = [1e3 * seconds / num for seconds in (claim_s, submit_s, drain_s, unsynced_s)]
    return [num, *each, look_s, *((None, None) if num > MOST_RUNS else ingested(cells))]


def laws(lines: list[list[float | None]]) -> str:
    """Return the cost of a cell as lines a + b N of whole seconds, and what fsync's share of publishing is."""
    said = []
    for index, name in ((1, "claim"), (2, "submit"), (3, "take, run, publish"), (5, "look at all"), (6, "MLflow")):
        known = [(one[0], one[index]) for one in lines if one[index] is not None]
        if len(known) < 2:
            continue
        num, value = (np.array(column, dtype=float) for column in zip(*known, strict=True))
        fixed, each, off = fitted(num, value if name == "look at all" else value * num / 1e3)
        said.append(f"{name}: {1e3 * fixed:.3g} ms + {1e3 * each:.3g} ms a cell, off by {off:.0%} at most")
    _, _, _, synced, unsynced, *_ = lines[-1]
    assert synced is not None
    assert unsynced is not None
    share = 1 - unsynced / synced
    said.append(f"of taking, running and publishing {share:.0%} is fsync, measured with {lines[-1][0]:,} cells")
    return "".join(f"* {one}\n" for one in said)


def sleepers(num: int, seconds: float) -> list[Cell]:
    """Return cells that only sleep."""
    values = {"seconds": seconds, "dataset": "none", "partition": "-", "seed": 0}
    return [Cell("sleep", values | {"number": i}, (), digest([time.time(), num, i])) for i in range(num)]


def submitted(root: Path, cells: list[Cell]) -> float:
    """Return the seconds that the launcher takes to submit every cell as a job of its own."""
    local = yaml.safe_load((PROJECT / "slurm" / "local.yaml").read_text())
    site = local | {"executor": "slurm", "workers": 64, "pack": 1, "parameters": {"timeout_min": 30, "mem_gb": 1}}
    for name in ("slurm", "bin"):
        (root / name).mkdir()
    (root / "slurm" / "bench.yaml").write_text(yaml.safe_dump(site))
    for name, answer in (("sbatch", "Submitted batch job 7"), ("srun", ""), ("scontrol", "MaxArraySize = 1001")):
        (root / "bin" / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
        (root / "bin" / name).chmod(0o755)
    path = f"{root}/bin:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "CLUSTER": "bench", "PYTHONPATH": str(PROJECT)}
    given = json.dumps([cell.to_json() for cell in cells])
    command = [sys.executable, "-c", SUBMIT, str(root)]
    said = subprocess.run(command, input=given, text=True, check=True, env=environment, stdout=subprocess.PIPE)
    return float(said.stdout.split()[-1])


def drain(store: Store, cells: list[Cell]) -> None:
    """Take, run and publish every cell, as one worker does, with where its result comes from."""
    while (taken := take(store, cells, me=HOLDER)[0]) is not None:
        run_cell(store, taken, record=RECORD, stop=Stop())


def ingested(cells: list[Cell]) -> tuple[float, float]:
    """Return the milliseconds that a trained cell with 20 points of 3 curves costs, and the seconds of an idle pass."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for cell in cells:
            token = store.hold(cell.to_json() | {"kind": "train"}, HOLDER)
            assert token is not None
            spool = Spool(store.work(cell.key) / "spool.jsonl")
            for step in range(20):
                spool.append(step, {"loss/supervised": 1.0, "loss/contrastive": 2.0, "lr": 0.1})
            store.publish(cell.key, token, result={"state": "done", "steps": 20, "provenance": {}})
        command = [sys.executable, "-c", INGEST, folder]
        said = subprocess.run(command, text=True, check=True, cwd=PROJECT, stdout=subprocess.PIPE)
        first, idle = map(float, said.stdout.split()[-2:])
    return 1e3 * first / len(cells), idle


def timed(act: Any) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
