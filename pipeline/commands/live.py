"""What runs now, how far it is, and why the rest waits: the board of `python -m pipeline status`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from pipeline.cell import Cell, chain, from_json
from pipeline.cluster import slurm
from pipeline.cluster.liveness import read_outline
from pipeline.files import read_json
from pipeline.listings import STATES, Listings, counts, tables_of
from pipeline.progress import WORDS
from pipeline.reporting.provenance import duration
from pipeline.spool import read
from pipeline.store import Store

REFRESH_S = 2.0
STEP_OF = re.compile(r"step \d+ of (\d+)")
"""How the log of a training names its length."""


def show_status(root: Path, store: Store, *, watch: bool, as_json: bool) -> None:
    """Print the tables' cells by state and what runs now: once, or with `watch` again and again until Ctrl-C."""
    if as_json:
        listed = tables_of(root)
        tables = {name: dict(states) for name, states in _tables(store, listed).items()}
        facts = {"tables": tables, "running": running(store), "waiting": waiting(store)}
        print(json.dumps(facts | {"without_network": num_without_network(store, listed)}, indent=1))
    elif watch and sys.stdout.isatty():
        with Live(_board(root, store), screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(_board(root, store), refresh=True)
    else:
        Console(soft_wrap=True).print(_board(root, store))


def running(store: Store) -> list[dict[str, Any]]:
    """Return the cells under way: name, node, job, restarts, seconds, step of how many, epoch, mIoU, seconds left.

    What is not known yet is left out. The time left follows from the steps since the job took the cell.
    """
    found, now = [], store.now()
    for path in sorted((store.root / "work").glob("*/holder.json")):
        holder, record = read_json(path), read_json(path.with_name("cell.json"))
        if holder is None or record is None:  # it ended just now
            continue
        cell, age_s = from_json(record), round(now - holder["time"])
        facts = {"cell": cell.name, "node": holder["host"], "job": holder["job"], "restarts": holder.get("restarts", 0)}
        found.append(facts | {"s": age_s} | _progress(path.parent, cell, since=holder.get("clock", holder["time"])))
    return found


def waiting(store: Store) -> list[dict[str, Any]]:
    """Return why SLURM lets jobs of the store's queued cells wait: each `reason`, and how many `jobs` have it."""
    owners = {store.owner(path.stem) for path in (store.root / "claims").glob("[!.]*.json")}
    records = [outline.record for name in owners if name and (outline := read_outline(store.submissions / name))]
    names = {record["job_name"] for record in records if record["site"]["executor"] == "slurm"}
    listing = None
    if names:  # else SLURM may not be there
        with contextlib.suppress(OSError):  # a full disk, say
            listing = slurm.jobs(store)
    reasons = Counter(job.reason for job in listing or [] if job.name in names and job.state == "PENDING")
    return [{"reason": reason, "jobs": jobs} for reason, jobs in reasons.most_common()]


def num_without_network(store: Store, tables: Listings) -> int:
    """Return how many trainings are measured and have no network here: of a fresh clone, whose figures git holds."""
    pairs = {cells[-1].key: cells[-2].key for rows in tables.values() for cells in map(chain, rows)}
    return sum(store.is_done(evaluate) and store.state(train) == "missing" for evaluate, train in pairs.items())


def _progress(work: Path, cell: Cell, *, since: float) -> dict[str, Any]:
    """Return what the spool and the log of a cell say of its progress since `since`, by the clock of its host."""
    spool, log = work / "spool.jsonl", work / "log.txt"
    try:
        records = list(read(spool))
    except FileNotFoundError:  # not begun, or published just now
        records = []
    if not records:
        return {}
    step = max(record.step for record in records)
    progress: dict[str, Any] = {"step": step}
    text = ""
    with contextlib.suppress(FileNotFoundError):
        text = log.read_text(encoding="utf-8", errors="replace")
    lengths = STEP_OF.findall(text)
    if lengths:
        steps, epochs = int(lengths[-1]), _epochs(cell)
        progress |= {"steps": steps, "epoch": min(step * epochs // steps + 1, epochs)}
        own = [record for record in records if record.time_ms >= 1000 * since]
        if own and own[-1].step > own[0].step:
            pace_s = (own[-1].time_ms - own[0].time_ms) / 1000 / (own[-1].step - own[0].step)
            progress["left_s"] = round(max(steps - step, 0) * pace_s)
    for record in records:
        progress |= {name: round(value, 2) for name, value in record.metrics.items() if name.endswith("_miou")}
    return progress


def _epochs(cell: Cell) -> int:
    """Return how many epochs the cell's own steps are; the schedule of a warm start is the whole run's."""
    return cell.values["training"]["warm_start_epochs" if cell.kind == "warm_start" else "epochs"]


def _tables(store: Store, tables: Listings) -> dict[str, Mapping[str, int]]:
    return {f"{scale}/{table}": counts(store, rows) for (scale, table), rows in tables.items()}


def _board(root: Path, store: Store) -> Group:
    """Return both tables as they are to be drawn."""
    listed, tables = tables_of(root), Table("table", box=None)
    for state in STATES:
        tables.add_column(WORDS.get(state, state), justify="right")
    for name, states in _tables(store, listed).items():
        tables.add_row(name, *(str(states[state] or "-") for state in STATES))
    cells = Table("running", "node", "job", "epoch", "step", "mIoU", "time left", "restarts", box=None)
    for line in running(store):
        scores = ", ".join(f"{value:g}" for name, value in line.items() if name.endswith("_miou"))
        step = f"{line['step']} of {line['steps']}" if "steps" in line else str(line.get("step", "-"))
        left = duration(line["left_s"]) if "left_s" in line else "-"
        cells.add_row(
            line["cell"], line["node"], line["job"], str(line.get("epoch", "-")), step, scores or "-", left,
            str(line["restarts"]),
        )  # fmt: skip
    jobs = Table("jobs that wait", "SLURM's reason", box=None)
    for line in (waits := waiting(store)):
        jobs.add_row(str(line["jobs"]), line["reason"])
    notes = []
    if lost := num_without_network(store, listed):
        notes.append(
            f" {lost} trainings are measured, as `python -m pipeline tables` shows, and their networks are not here:"
            " `dvc pull` fetches them from a remote of yours, `dvc repro` trains them again"
        )
    return Group(tables, *notes, cells, *([jobs] if waits else []))
