"""The driver of a cell stage: start what is missing, wait until the stage's cells have ended, link their results.

The waiting process stays small (no torch, MLflow, pandas or DVC in it): a hundred of them may wait on one login node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.cell import Cell
from pipeline.cluster.liveness import INTERRUPTED, release_dead
from pipeline.cluster.origin import is_of_this_machine, process_alive, user
from pipeline.cluster.waiting import Waiting
from pipeline.guard import edited, read_inputs
from pipeline.launcher import RETRY_S, Launcher
from pipeline.records import ENDED, GIVEN_UP, Ending, State
from pipeline.results import link_weights, write_metrics, write_reliability
from pipeline.store import Store, open_store
from pipeline.tracking.ingester import start_ingester

POLL_S = 0.25
LIVENESS_S = 5.0
BUSY_SHARE = 0.02
"""What share of its time the waiting process may spend on looking, however many cells there are."""

INGESTER_S = 60.0
"""How often the driver checks that an ingester runs."""


def run_stage(kind: str, scale: str, *, table: str) -> int:
    """Run the cell stage `<kind>@<table>`; return the exit status (1 where a cell failed, 130 after Ctrl-C)."""
    try:
        return _run(kind, scale, table=table)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{kind}@{table}: {error}", file=sys.stderr)
        return 1


def _run(kind: str, scale: str, *, table: str) -> int:
    from pipeline.locks import keep_lock

    root = Path.cwd()  # not DVC_ROOT, which in an experiment's own workspace still names the project's
    store = open_store(root)
    path = root / "reports" / scale / "cells" / f"{table}.json"
    keep_lock(root)
    before = read_inputs(root, path)
    every = {cell.key: cell for cell in before.cells}
    cells = {key: cell for key, cell in every.items() if cell.kind == kind}
    launcher = Launcher(root, scale, stage=f"{kind}@{table}", keys=every)
    earlier = sum(store.state(key) in GIVEN_UP for key in cells)
    try:
        with Waiting(store, f"{scale}/{table}", keys=every) as mark:
            failed = wait(store, cells, start=launcher, title=f"{kind}@{table}", mark=mark, root=root)
    except KeyboardInterrupt:
        more = "goes on from the checkpoints"
        if interrupt(store, cells, root=root):
            more = f"attaches to SLURM's jobs, which go on; `python -m pipeline cancel {table}` stops them"
        print(f"{kind}@{table}: interrupted; the next `dvc repro` {more}", file=sys.stderr)
        return 130
    if failed:
        _report(failed, cells, title=f"{kind}@{table}", earlier=earlier)
        return 1
    if changed := edited(before, read_inputs(root, path)):
        print(f"{kind}@{table}: {' and '.join(changed)} changed while the stage ran; run it again", file=sys.stderr)
        return 1
    _write_results(kind, scale, table=table, store=store, root=root, cells=cells)
    return 0


def _report(failed: dict[str, Ending], cells: dict[str, Cell], *, title: str, earlier: int) -> None:
    """Print why cells failed, and how many of them did so `earlier` than this stage."""
    for key, reason in failed.items():
        print(f"{cells[key].name}: {reason['reason']}\n  log: {reason.get('log', '-')}", file=sys.stderr)
    untried = f", {earlier} of them before this stage began and not tried again" if earlier else ""
    told = f"{len(failed)} of {len(cells)} cells failed{untried}; see `python -m pipeline retry`"
    print(f"{title}: {told}", file=sys.stderr)


def _write_results(kind: str, scale: str, *, table: str, store: Store, root: Path, cells: dict[str, Cell]) -> None:
    """Write the stage's outputs: rows of evaluations, records of reliability, or links to what was trained."""
    if kind == "evaluate":
        write_metrics(store, root, scale=scale, table=table)
    elif kind == "reliability":
        write_reliability(store, cells, path=root / "reports" / scale / "reliability" / f"{table}.json")
    else:
        link_weights(store, cells, folder=root / "runs" / scale / kind / table)


def wait(
    store: Store,
    cells: dict[str, Cell],
    *,
    start: Any,
    title: str,
    mark: Waiting | None = None,
    root: Path | None = None,
) -> dict[str, Ending]:
    """Wait until every cell has ended, starting what nobody runs; return by key why cells failed or were cancelled.

    With the project's `root` an ingester is kept running meanwhile.
    """
    from pipeline.progress import Board

    next_check = next_start = next_ingester = 0.0
    states: dict[str, State] = dict.fromkeys(cells, "missing")
    with Board(store, title) as board:
        while True:
            began = time.monotonic()
            states = {key: state if state == "done" else store.state(key) for key, state in states.items()}
            if all(state in ENDED for state in states.values()):
                break
            looked_s = time.monotonic() - began
            if "missing" in states.values() and time.monotonic() > next_start:
                start()
                if any(store.state(key) == "missing" for key, state in states.items() if state == "missing"):
                    next_start = time.monotonic() + RETRY_S
            if root is not None and time.monotonic() > next_ingester:
                with contextlib.suppress(OSError):  # no room for its log, say, or no process more: cells need none
                    start_ingester(store, root)  # after the submission: it takes seconds of a core to begin
                next_ingester = time.monotonic() + INGESTER_S
            if time.monotonic() > next_check:
                began = time.monotonic()
                with contextlib.suppress(OSError):  # a full disk, say: the cells under way may end all the same
                    release_dead(store)
                next_check = began + max(LIVENESS_S, (time.monotonic() - began) / BUSY_SHARE)
            if mark is not None:
                mark.beat()
            board.show(states)
            time.sleep(max(POLL_S, looked_s / BUSY_SHARE))
    ends = {key: store.failure(key) or store.cancelled(key) for key in cells if states[key] != "done"}
    return {key: end or {"reason": "forgotten", "time": store.now()} for key, end in ends.items()}


def interrupt(store: Store, cells: dict[str, Cell], *, root: Path) -> bool:
    """After Ctrl-C on one machine: ask this project's and user's local jobs that own these cells to save and leave.

    Return whether jobs of SLURM own some: they go on.
    """
    on_slurm = False
    for submission in filter(None, {store.owner(key) for key in cells}):
        record, jobs = store.submission(submission), store.jobs(submission)
        if not record or not jobs:
            continue
        if record["site"]["executor"] == "slurm":
            on_slurm = True
            continue
        if not is_of_this_machine(record) or (record.get("root"), record.get("user")) != (str(root), user()):
            continue
        with contextlib.suppress(OSError):
            (store.submissions / submission / INTERRUPTED).touch()  # what they did not begin is not counted against it
        for job in jobs["jobs"]:
            if process_alive(int(job), record, later_s=60):
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended; its number is another's
                    os.kill(int(job), signal.SIGTERM)  # the job's controller hands it on to its worker
    return on_slurm
