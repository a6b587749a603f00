"""Claim what is missing and submit it: the part of a stage that starts work, run in a process of its own that ends.

The first cell stage of a `dvc repro` submits every missing cell of every stage that will run, so that the cluster is
full although DVC runs one stage at a time; later stages find their cells running or done.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.adopt import adopt
from pipeline.cell import COUNTED, PACKAGE, Cell, cells_of, digest, forget_code, read_rows
from pipeline.cluster.gpus import deal
from pipeline.cluster.liveness import gpus_in_use, surplus
from pipeline.cluster.lost import memory_losses
from pipeline.cluster.origin import origin, user
from pipeline.cluster.pulse import begin_pulse
from pipeline.cluster.site import MAX_DOUBLINGS, load_site, resources
from pipeline.cluster.slurm import JOB_PREFIX, cluster
from pipeline.files import write_json
from pipeline.guard import check_copies, check_made, data_stages, data_state
from pipeline.launcher import GROWN, LATER, RETRY_S
from pipeline.models.prepare import prepare_weights
from pipeline.plan import read_plan, start_plan
from pipeline.provenance import source_state
from pipeline.records import GIVEN_UP, LaunchFacts, Site, Submission
from pipeline.sbatch import JobsRefusedError, LaterError, Queue, num_workers, shares
from pipeline.store import Store, open_store

CELL_STAGES = ("warm_start@", "train@", "evaluate@", "reliability@")
CHANGED = "the code, weights or images changed while cells were being submitted; run it again"


def launch(root: Path, scale: str, *, stage: str, waited_for: str) -> list[str]:
    """Submit every missing cell of the stages that will run and whose data is there; return the submissions' ids.

    What was computed elsewhere and is recorded here is adopted before. Raises RuntimeError where the table's keys are
    not those that its driver waits for, by their digest `waited_for`, or where its data is stale again by now: it
    would wait for ever. Raises ValueError where a folder of one's own was edited after it was copied.

    With targets, DVC may come to a table before another one's data; that table's own stage submits its cells.
    """
    store, data_root, table = open_store(root), root / "data" / scale, stage.split("@")[1]
    data = data_state(data_root)  # before DVC is asked, so that what it finds up to date is this
    plan = start_plan(root, stage)
    adopt(store, root, scale=scale)
    stale = read_plan(plan, stage)
    rows = _rows_to_run(root / "reports" / scale / "cells", stale, table=table)
    chains = [(row, cells_of(row)) for row in rows]
    if digest(sorted({cell.key for row, cells in chains if row["table"] == table for cell in cells})) != waited_for:
        raise RuntimeError(CHANGED)
    check_made(root, [row for row in rows if row["table"] == table], stale=stale)
    there = [(row, cells) for row, cells in chains if not data_stages(root, row).keys() & set(stale)]
    rows = [row for row, _ in there]
    check_copies(root, rows)
    every = {cell.key: cell for _, cells in there for cell in cells}
    return submit(store, list(every.values()), root=root, data_root=data_root, rows=rows, data=data)


def _rows_to_run(listings: Path, stale: list[str], *, table: str) -> list[dict[str, Any]]:
    """Return the rows of all tables of which DVC has a cell stage still to run; those of `table` must be listed."""
    stages = [name.split("@") for name in stale if name.startswith(CELL_STAGES)]
    paths = {name: listings / f"{name}.json" for name in dict.fromkeys(name for _, name in stages)}
    # A table that dvc.yaml was given during this run has no listing yet.
    return [row for name, path in paths.items() if name == table or path.exists() for row in read_rows(path)]


def submit(
    store: Store,
    cells: list[Cell],
    *,
    root: Path,
    data_root: Path,
    rows: Sequence[dict[str, Any]] = (),
    data: dict[str, str] | None = None,
) -> list[str]:
    """Claim the cells that are missing in the store and submit them: one submission for each class of resources.

    `rows` are those that the cells were made of, each of a table that this `dvc` command still has to run; `data` is
    the state of the data they read. A cell whose turn comes only when another submission is done with the one before
    it is left for later: its worker would sit on the cluster and wait. A class of resources that the cluster refuses
    for good fails its cells. Raises RuntimeError where the rows make other keys by now; after all classes were tried
    JobsRefusedError, where it refuses all of them, as for a mistake in the site's file, and LaterError where it takes
    no more jobs for now.
    """
    site, submissions, later, refusals = load_site(root), [], None, []
    ready = _ready(store, cells)
    prepare_weights(cell.values["model"] for cell in ready if cell.kind in ("warm_start", "train"))
    facts = _facts(store, root, data_root=data_root, data=data or {})
    facts["tables"] = _check_keys(rows, cells)  # after the snapshot was taken
    facts["cluster"] = cluster() if site["executor"] == "slurm" else None
    grown = memory_losses(store)
    classes = _classes(site, ready, grown=grown)
    sizes = [sum(cell.kind in COUNTED for cell in members) for _, members in classes]
    dealt = deal(site, [asked for asked, _ in classes], sizes=sizes, in_use=lambda: gpus_in_use(store))
    for (parameters, members), workers, theirs in zip(classes, shares(site, sizes), dealt, strict=True):
        gpus = theirs[:workers] if site["workers"] else theirs  # not where that is this class's share of the cores
        name = uuid.uuid4().hex[:12]
        record: Submission = {
            **facts,
            "submission": name,
            "job_name": f"{JOB_PREFIX}{name}",
            "site": {**site, "workers": len(gpus) or workers},
            "parameters": parameters,
            "gpus": gpus,
            "threads": site["threads"],
            "cells": [cell.to_json() for cell in members],
            "time": store.now(),
            "clock": time.time(),
        }
        try:
            if _send(store, record, cells=members):
                submissions.append(name)
                _tell_growth(parameters, members, grown=grown)
        except LaterError as error:
            later = error
        except JobsRefusedError as error:
            refusals.append((error, members))
    _fail_refused(store, refusals, blame_site=len(refusals) == len(classes) and not any(grown[c.key] for c in ready))
    if later is not None:
        raise later
    return submissions


def _fail_refused(store: Store, refusals: list[tuple[JobsRefusedError, list[Cell]]], *, blame_site: bool) -> None:
    """Fail the cells whose class the cluster refuses for good, or raise its reason where that is no fault of theirs."""
    for error, members in refusals:
        if blame_site:
            raise error
        for cell in members:
            if store.state(cell.key) == "missing":  # not what was sent before the refusal
                store.fail(cell.key, None, reason={"reason": str(error), "name": cell.name})


def _tell_growth(parameters: dict[str, Any], members: list[Cell], *, grown: Counter[str]) -> None:
    """Say which cells are submitted with twice the memory."""
    for cell in members:
        if "mem_gb" in parameters and 0 < grown[cell.key] <= MAX_DOUBLINGS:
            new = parameters["mem_gb"]
            print(f"{GROWN}{cell.name} died for want of it: mem_gb {new / 2:g} -> {new:g}", flush=True)


def _check_keys(rows: Sequence[dict[str, Any]], cells: list[Cell]) -> dict[str, list[str]]:
    """Return the keys that each table needs. Raises RuntimeError where they are not those of the cells any more.

    The jobs run the snapshot, which was taken seconds after the keys were made, or minutes where weights were fetched.
    """
    forget_code()
    tables: dict[str, list[str]] = {}
    for row in rows:
        tables.setdefault(f"{row['scale']}/{row['table']}", []).extend(cell.key for cell in cells_of(row))
    if rows and {key for keys in tables.values() for key in keys} != {cell.key for cell in cells}:
        raise RuntimeError(CHANGED)
    return tables


def _ready(store: Store, cells: list[Cell]) -> list[Cell]:
    """Return the missing cells, upstream first, that need no other submission; end those behind one that has failed."""
    ready: dict[str, Cell] = {}
    for cell in cells:
        if store.state(cell.key) != "missing":
            continue
        before = {key: store.state(key) for key in cell.upstream if key not in ready}
        if ended := [key for key, state in before.items() if state in GIVEN_UP]:
            store.end_after(cell.key, ended[0], name=cell.name)
        elif all(state == "done" for state in before.values()):
            ready[cell.key] = cell
    return list(ready.values())


def _classes(site: Site, cells: list[Cell], *, grown: Counter[str]) -> list[tuple[dict[str, Any], list[Cell]]]:
    """Return the classes of resources with their cells. What goes with a training goes into its class.

    A worker runs the whole chain: in a class of their own, evaluations would wait on the cluster for their trainings.
    """
    given = {cell.key for cell in cells}
    leads = {cell.key: cell for cell in cells if cell.kind in COUNTED}
    for cell in list(leads.values()):
        leads |= dict.fromkeys((key for key in cell.upstream if key not in leads), cell)
    classes: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in cells:
        lead = next((leads[key] for key in (cell.key, *cell.upstream) if key in leads), cell)
        doublings = max(grown[key] for key in (lead.key, *lead.upstream) if key in given)
        parameters = resources(site, lead, doublings=doublings)
        classes.setdefault(json.dumps(parameters, sort_keys=True), (parameters, []))[1].append(cell)
    return list(classes.values())


def _facts(store: Store, root: Path, *, data_root: Path, data: dict[str, str]) -> LaunchFacts:
    """Return what all submissions of this process have in common, and take the snapshot of the code that they run."""
    return {
        **source_state(store, root),
        **origin(),
        "user": user(),
        "pid": os.getpid(),
        "root": str(root),
        "snapshot": take_snapshot(store).name,
        "dvc_stage": os.environ.get("DVC_STAGE"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "data_root": str(data_root),
        "data": data,
        "tables": {},
        "cluster": None,
    }


def _send(store: Store, record: Submission, *, cells: list[Cell]) -> bool:
    """Write the intent, claim, submit, write the job ids; return whether there was anything left to claim.

    What dies in between is found again by the job's name. Where the cluster takes a part of the workers, theirs are
    the cells they can do; the rest is released. The intent names all candidates, since claims show who owns which.
    """
    folder, submission = store.submissions / record["submission"], record["submission"]
    write_json(folder / "submission.json", record)
    if record["site"]["executor"] != "slurm":
        begin_pulse(folder)
    claimed = [cell for cell in cells if store.claim(cell.key, submission)]
    queue = Queue(store.root, record)
    try:
        if claimed:
            queue.send(num_workers(record["site"], [cell.kind for cell in claimed]))
    except BaseException:
        _release_rest(store, record, claimed=claimed, num_jobs=len(queue.jobs))
        raise
    finally:
        if queue.jobs:
            write_json(folder / "jobs.json", {"jobs": queue.jobs, "time": store.now()})
        else:
            shutil.rmtree(folder)
    return bool(claimed)


def _release_rest(store: Store, record: Submission, *, claimed: list[Cell], num_jobs: int) -> None:
    """Release the claimed cells that so few jobs will not come to."""
    keys, pack = {cell.key for cell in claimed}, record["site"]["pack"]
    if num_jobs:
        chains = {cell.key: (cell.kind, list(cell.upstream)) for cell in claimed}
        keys = surplus(chains, keys, room=num_jobs * pack) if pack else set()
    for key in keys:
        store.unclaim(key, record["submission"])


def take_snapshot(store: Store) -> Path:
    """Copy the code into the store, named by its content: jobs run from it whatever is edited meanwhile."""
    paths = [path for path in sorted(PACKAGE.rglob("*")) if _is_code(path)]
    files = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in paths}
    folder = store.root / "snapshots" / digest(files)[:16]
    if folder.exists():
        os.utime(folder)  # `gc` removes what was not touched for long and is not yet in use
    else:
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        for name, text in files.items():
            target = temporary / PACKAGE.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:  # another driver was first
            shutil.rmtree(temporary)
    return folder


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".j2", ".css")


def main(arguments: list[str]) -> int:
    """Launch for `ROOT SCALE STAGE KEYS`; return 0, LATER where the cluster takes no more for now, 1 where it failed.

    The reason is printed, as where there is no network for weights; what a user cannot mend raises.
    """
    try:
        launch(Path(arguments[0]), arguments[1], stage=arguments[2], waited_for=arguments[3])
    except LaterError as error:
        print(f"{error}\n(what it took runs; the rest is tried again every {RETRY_S:.0f} s)")
        return LATER
    except (RuntimeError, ValueError, OSError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
