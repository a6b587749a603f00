"""Looking into cells and steering them: `logs`, `why`, `cancel`, `retry`.

A cancelled cell stays so until `retry`, whoever waits for it. Nobody is killed: the worker that has the cell saves
between two steps, within ten of them, lets go of it, and goes on with other cells.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.cell import Cell, cells_of
from pipeline.cluster import slurm
from pipeline.cluster.origin import user
from pipeline.cluster.waiting import live_needs
from pipeline.files import read_json
from pipeline.listings import current_scale, find_cell, find_target, recorded, tables_of
from pipeline.progress import WORDS
from pipeline.provenance import patch_path
from pipeline.records import ENDED, GIVEN_UP, UNDER_WAY
from pipeline.store import Store


def show_log(root: Path, store: Store, *, prefix: str, follow: bool) -> None:
    """Print the log of a cell; with `follow` until the cell has ended. Raises ValueError where there is none."""
    key, shown = _with_log(root, store, prefix=prefix), 0
    while True:
        state, text = store.state(key), _log_text(store, key)
        ended = state in ENDED
        if text is None and (state not in UNDER_WAY or not follow):  # there is nobody to wait for
            raise ValueError(_why_no_log(root, store, key=key))
        text = text or ""
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if ended or not follow:
            return
        time.sleep(1)


def log_lines(root: Path, store: Store, *, prefix: str) -> dict[str, Any]:
    """Return the log of a cell so far as lines, with its key and state."""
    key = _with_log(root, store, prefix=prefix)
    return {"key": key, "state": store.state(key), "lines": (_log_text(store, key) or "").splitlines()}


def _with_log(root: Path, store: Store, *, prefix: str) -> str:
    """Return the key of a cell, or of the training that it measures where it has no log of its own."""
    cell = find_cell(root, store, prefix=prefix)
    if cell.kind not in ("evaluate", "reliability") or _log_text(store, cell.key) is not None:
        return cell.key
    print(f"{cell.name} has no log; that of its training {cell.upstream[0][:12]}:", file=sys.stderr)
    return cell.upstream[0]


def _why_no_log(root: Path, store: Store, *, key: str) -> str:
    state = store.state(key)
    told = f"cell {key[:12]} is {WORDS.get(state, state)} and has no log"
    origin = recorded(root, key)
    if origin is None:
        return f"{told}: its result was taken over from the DVC cache" if state == "done" else told
    came = origin["provenance"]
    return f"{told} here: its result was taken over from {origin['file']}; it ran on {came['node']}, job {came['job']}"


def _log_text(store: Store, key: str) -> str | None:
    for folder in (store.done(key), store.work(key), store.done(key)):  # it may be published between two looks
        try:
            return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
    return None


def explain(root: Path, store: Store, *, prefix: str) -> dict[str, Any]:
    """Return all that is known of where a cell's result comes from."""
    cell = find_cell(root, store, prefix=prefix)
    result = read_json(store.done(cell.key) / "result.json") or {"state": store.state(cell.key)}
    log = [line for line in store.executions() if line["key"] == cell.key]
    facts: dict[str, Any] = {"cell": cell.name, "key": cell.key, "upstream": cell.upstream, "result": result}
    facts |= {"executions": log, "failure": store.failure(cell.key) or store.cancelled(cell.key), "values": cell.values}
    facts["recorded"] = recorded(root, cell.key)
    patch = result.get("provenance", {}).get("patch")
    if patch and patch_path(store, patch).exists():
        text = patch_path(store, patch).read_text(encoding="utf-8", errors="replace")
        facts["patch"] = {"file": str(patch_path(store, patch)), "lines": text.splitlines()}
    return facts


def cancel(root: Path, store: Store, *, targets: Sequence[str]) -> str:
    """Cancel the cells of tables of the current scale, or single cells and what comes after them; say what happened.

    Cells that another live table needs are spared. Raises ValueError for a single cell that several live tables need.
    """
    scale, tables, live = current_scale(root), tables_of(root), live_needs(store)
    cells: dict[str, Cell] = {}
    ours: set[tuple[str, frozenset[str]]] = set()
    for target in targets:
        if (scale, target) in tables:
            found = [cell for row in tables[scale, target] for cell in cells_of(row)]
            ours.add((f"{scale}/{target}", frozenset(cell.key for cell in found)))
        else:
            found = _with_later(find_target(root, store, name=target), tables.values())
            users = [name for name, keys in live if found[0].key in keys]
            if len(users) > 1:
                raise ValueError(f"{found[0].name} is spared: {', '.join(users)} need it; cancel these tables together")
            ours |= {need for need in live if found[0].key in need[1]}
        cells |= {cell.key: cell for cell in found}
    needed = {key for need in live if need not in ours for key in need[1]}
    stopped = _stop(store, cells, needed=needed)
    if not stopped and not cells.keys() & needed:
        return f"nothing of {', '.join(targets)} is queued or running"
    return f"{stopped} cells cancelled until `retry`, {len(cells.keys() & needed)} spared that another live table needs"


def _with_later(first: Cell, tables: Iterable[list[dict[str, Any]]]) -> list[Cell]:
    """Return a cell and those of the current tables that come after it."""
    found, keys = [first], {first.key}
    for cell in (cell for rows in tables for row in rows for cell in cells_of(row)):
        if cell.key not in keys and keys & set(cell.upstream):
            found.append(cell)
            keys.add(cell.key)
    return found


def _stop(store: Store, cells: dict[str, Cell], *, needed: set[str]) -> int:
    """Cancel what has not ended of these cells, and the waiting jobs of submissions that own none any more."""
    submissions, stopped = set(), 0
    for key in cells.keys() - needed:
        if store.state(key) not in ENDED:
            submissions.add(store.owner(key))
            reason = {"reason": f"cancelled by {user()} on {socket.gethostname()}", "name": cells[key].name}
            store.cancel(key, reason)
            stopped += 1
    owning = {store.owner(path.stem) for path in (store.root / "claims").glob("*.json")}
    for submission in filter(None, submissions - owning):
        record = store.submission(submission)
        if record and record["site"]["executor"] == "slurm":
            slurm.cancel_pending(record["job_name"])
    return stopped


def retry(root: Path, store: Store, *, target: str | None) -> str:
    """Forget failures and cancellings: all, or those of a table or a cell and of what ended with it.

    Raises ValueError where `target` is no table and begins the key of no cell that ended so, or of several.
    """
    paths = [path for state in GIVEN_UP for path in (store.root / state).glob("[!.]*.json")]
    before = {path.stem: (read_json(path) or {}).get("before") for path in paths}
    forgotten = set(before)
    if target is not None:
        table = current_scale(root), target
        if table in (tables := tables_of(root)):
            forgotten &= {cell.key for row in tables[table] for cell in cells_of(row)}
        else:
            forgotten = {key for key in before if key.startswith(target)}
            if not forgotten:
                cell = find_target(root, store, name=target)
                return f"{cell.name} has not failed and is not cancelled"
            if len(forgotten) > 1:
                found = ", ".join(sorted(key[:12] for key in forgotten))
                raise ValueError(f"{target!r} begins {len(forgotten)} keys of failed or cancelled cells ({found})")
        size = -1
        while size != len(forgotten):
            size = len(forgotten)
            forgotten |= {key for key, other in before.items() if other in forgotten}
            forgotten |= {other for key in forgotten if (other := before[key]) in before}
    for key in forgotten:
        store.retry(key)
    return f"{len(forgotten)} failures and cancellings forgotten; `dvc repro` runs those cells again"
