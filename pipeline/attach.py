"""The driver of a cell stage: start what is missing, wait until the stage's cells have ended, link their results.

The waiting process stays small (no torch, MLflow, pandas or DVC in it): a hundred of them may wait on one login node.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from pipeline.adopt import manifest_entry
from pipeline.cell import Cell, cells_of, chain, forget_code, read_rows
from pipeline.ingester import start_ingester
from pipeline.slurm import GRACE_S, cancel_jobs, died_of_memory, live_jobs
from pipeline.store import Store, find_store, read_json, write_json

POLL_S = 0.5
LIVENESS_S = 5.0
BUSY_SHARE = 0.02
"""What share of its time the waiting process may spend on looking, however many cells there are."""

MAX_LOST = 3
"""A cell whose worker died this often, without a word and without getting further, has failed."""


def run_stage(kind: str, scale: str, table: str) -> int:
    """Run the cell stage `<kind>@<table>`; return the exit status (1 where a cell failed, 130 after Ctrl-C)."""
    from pipeline.doctor import keep_lock

    root = Path.cwd()  # not DVC_ROOT, which in an experiment's own workspace still names the project's
    store = Store(find_store(root))
    store.share_with_group()
    path = root / "reports" / scale / "cells" / f"{table}.json"
    keep_lock(root)
    start_ingester(store, root)
    try:
        before = path.read_bytes() if path.exists() else b""
        chains = [cells_of(row) for row in read_rows(path)]
    except ValueError as error:
        print(f"{kind}@{table}: {error}", file=sys.stderr)
        return 1
    cells = {cell.key: cell for cells in chains for cell in cells if cell.kind == kind}
    try:
        failed = wait(store, cells, lambda: _launch(root, scale, f"{kind}@{table}"), title=f"{kind}@{table}")
    except RuntimeError as error:
        print(f"{kind}@{table}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        interrupt(store, cells)
        print(f"{kind}@{table}: interrupted; the next `dvc repro` goes on from the checkpoints", file=sys.stderr)
        return 130
    if failed:
        for key, reason in failed.items():
            print(f"{cells[key].name}: {reason['reason']}\n  log: {reason.get('log', '-')}", file=sys.stderr)
        print(
            f"{kind}@{table}: {len(failed)} of {len(cells)} cells failed; see `python -m pipeline retry`",
            file=sys.stderr,
        )
        return 1
    forget_code()
    if path.read_bytes() != before or [cells_of(row) for row in read_rows(path)] != chains:
        print(f"{kind}@{table}: the code or {path} changed while the stage ran; run it again", file=sys.stderr)
        return 1
    if kind == "evaluate":
        write_metrics(store, root, scale, table)
    elif kind == "reliability":
        write_reliability(store, cells, root / "reports" / scale / "reliability" / f"{table}.json")
    else:
        link_weights(store, cells, root / "runs" / scale / kind / table)
    return 0


def wait(store: Store, cells: dict[str, Cell], start: Any, *, title: str) -> dict[str, dict[str, Any]]:
    """Wait until every cell is done or failed, starting what nobody runs; return the failures by key."""
    from pipeline.progress import Board

    next_check, states = 0.0, dict.fromkeys(cells, "missing")
    with Board(store, title) as board:
        while True:
            began = time.monotonic()
            states = {key: state if state == "done" else store.state(key) for key, state in states.items()}
            if all(state in ("done", "failed") for state in states.values()):
                break
            looked_s = time.monotonic() - began
            if "missing" in states.values():
                start()
            if time.monotonic() > next_check:
                began = time.monotonic()
                release_dead(store)
                next_check = began + max(LIVENESS_S, (time.monotonic() - began) / BUSY_SHARE)
            board.show(states)
            time.sleep(max(POLL_S, looked_s / BUSY_SHARE))
    failures = {key: store.failure(key) for key in cells if states[key] == "failed"}
    return {key: failure or {"reason": "forgotten"} for key, failure in failures.items()}


def _launch(root: Path, scale: str, stage: str) -> None:
    """Submit in a process of its own, in its own session: Ctrl-C here must not split a submission.

    Its output goes to a file, since the jobs of one machine inherit it and would keep a pipe open.
    """
    command = [sys.executable, "-m", "pipeline.launch", str(root), scale, stage]
    with tempfile.TemporaryFile("w+") as output:
        result = subprocess.run(
            command,
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )
        if result.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"nothing could be submitted: {output.read().strip()[-3000:]}")


def release_dead(store: Store) -> None:
    """Let go of cells whose worker or whose whole submission is gone, so that they are submitted again."""
    for path in (store.root / "work").glob("*/holder.json"):
        holder = read_json(path)
        if holder and holder_dead(store, holder):
            path.unlink(missing_ok=True)
            _count_loss(store, path.parent.name, holder)
    alive: dict[str, bool] = {}
    for path in (store.root / "claims").glob("*.json"):
        owner = store.owner(path.stem)
        if owner is not None and owner not in alive:
            alive[owner] = submission_alive(store, owner)
        if owner is not None and not alive[owner] and store.holder(path.stem) is None:
            store.release(path.stem)


def _count_loss(store: Store, key: str, holder: dict[str, Any]) -> None:
    """Log that a worker died without a word, and give up on a cell that goes nowhere between its deaths."""
    checkpoint = store.work(key) / "checkpoint.pt"
    reached = checkpoint.stat().st_mtime if checkpoint.exists() else None
    memory = not holder["job"].startswith("local-") and died_of_memory(holder["job"])
    facts = {"host": holder["host"], "job": holder["job"], "checkpoint": reached, "memory": memory}
    store.log_execution(key, "lost", facts)
    losses = [line for line in store.executions() if line["key"] == key and line["event"] == "lost"]
    if len([line for line in losses[-MAX_LOST:] if line["checkpoint"] == reached]) >= MAX_LOST:
        reason = f"its worker died {MAX_LOST} times at the same step, the last as job {holder['job']}"
        log = str(store.work(key) / "log.txt")
        store.fail(key, None, {"reason": f"{reason} on {holder['host']} (killed for memory?)", "log": log})


def holder_dead(store: Store, holder: dict[str, Any]) -> bool:
    """Tell whether the worker that holds a cell is surely gone."""
    if holder["job"].startswith("local-"):
        return holder["host"] == socket.gethostname() and not _process_alive(holder["pid"], _clock(holder))
    jobs = live_jobs(store, since=holder["time"] + GRACE_S)
    return jobs is not None and not any(holder["job"] in numbers for numbers in jobs.values())


def _process_alive(pid: int, since: float) -> bool:
    """Tell whether a process of this host lives that was there at `since` by this host's clock."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= since + 1
    except psutil.NoSuchProcess:
        return False


def _clock(record: dict[str, Any]) -> float:
    return record.get("clock", record["time"])  # absent in what older versions wrote


def submission_alive(store: Store, submission: str) -> bool:
    """Tell whether any job of a submission may still wait or run."""
    folder = store.submissions / submission
    record, jobs = read_json(folder / "submission.json"), read_json(folder / "jobs.json")
    if record is None:
        return False
    if jobs is None and record["host"] == socket.gethostname() and _process_alive(record["pid"], _clock(record)):
        return True  # it is being submitted
    if record["site"]["executor"] != "slurm":
        return jobs is not None and any(_process_alive(int(job), _clock(record) + 60) for job in jobs["jobs"])
    # By name: that finds orphans, whose submission was cut off before their ids were written down.
    live = live_jobs(store, since=(jobs or record)["time"] + GRACE_S)
    return live is None or record["job_name"] in live


def interrupt(store: Store, cells: dict[str, Cell]) -> None:
    """After Ctrl-C on one machine: ask the local jobs that own these cells to save and leave."""
    for submission in {store.owner(key) for key in cells} - {None}:
        folder = store.submissions / str(submission)
        record, jobs = read_json(folder / "submission.json"), read_json(folder / "jobs.json")
        if record and jobs and record["site"]["executor"] == "local":
            for job in jobs["jobs"]:
                if _process_alive(int(job), _clock(record) + 60):
                    os.kill(int(job), signal.SIGTERM)  # the job's controller hands it on to its worker


def cancel(store: Store, keys: set[str]) -> int:
    """Stop cells that are queued or running: give up their claims, and ask local workers to save and leave."""
    stopped = 0
    for key in keys:
        holder = store.holder(key)
        if store.state(key) in ("queued", "running"):
            store.release(key)
            stopped += 1
        if holder and not holder["job"].startswith("local-"):
            cancel_jobs([holder["job"]])
        elif holder and not holder_dead(store, holder):
            os.kill(holder["pid"], signal.SIGTERM)
    return stopped


def link_weights(store: Store, cells: dict[str, Cell], folder: Path) -> None:
    """Hard-link the cells' weights and curves into the stage's output folder, beside a manifest of results."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", {key: manifest_entry(store, key, folder) for key in sorted(cells)})


def write_reliability(store: Store, cells: dict[str, Cell], path: Path) -> None:
    """Write how far the networks of a table can be believed: of each cell what it is and what it counted."""
    records = []
    for key, cell in cells.items():
        result = json.loads((store.done(key) / "result.json").read_text())
        sets = {
            name: {fact: value for fact, value in each.items() if not fact.startswith("class_entropy")}  # bulky
            for name, each in result["sets"].items()
        }
        what = {name: cell.values[name] for name in ("dataset", "partition", "method", "seed", "data")}
        records.append({"key": key, "train_key": cell.upstream[0]} | what | result | {"sets": sets})
    write_json(path, records)


def write_metrics(store: Store, root: Path, scale: str, table: str) -> None:
    """Write the measured rows of a table."""
    rows = [measured_row(store, row) for row in read_rows(root / "reports" / scale / "cells" / f"{table}.json")]
    write_json(root / "reports" / scale / "metrics" / f"{table}.json", rows)


def measured_row(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved row with its results, whose cells are done, and where they come from."""
    *_, train, evaluate = chain(row)
    trained = json.loads((store.done(train.key) / "result.json").read_text())
    evaluated = json.loads((store.done(evaluate.key) / "result.json").read_text())
    own = {"key": evaluate.key, "train_key": train.key, "state": trained["state"], "provenance": trained["provenance"]}
    return row | trained | evaluated | own
