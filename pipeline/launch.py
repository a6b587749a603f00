"""Claim what is missing and submit it: the part of a stage that starts work, run in a process of its own that ends.

The first cell stage of a `dvc repro` submits every missing cell of every stage that will run, so that the cluster is
full although DVC runs one stage at a time; later stages find their cells running or done.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pipeline.adopt import adopt
from pipeline.cell import PACKAGE, Cell, cells_of, digest, read_rows
from pipeline.slurm import JOB_PREFIX, max_array_size
from pipeline.store import Store, find_store, write_json
from pipeline.worker import COUNTED, Worker

FOREVER_MIN = 60 * 24 * 365
ATTEMPTS = 8
PASSING = ("Socket timed out", "Unable to contact", "temporarily", "try again", "Connection refused", "Transport")
"""What sbatch says when its controller is busy or down for a while."""

SITE_KEYS = ("executor", "workers", "threads", "pack", "parameters", "kinds", "datasets", "setup")


def load_site(root: Path) -> dict[str, Any]:
    """Read `slurm/<CLUSTER>.yaml`. Raises ValueError naming an unknown or missing key, or the sites there are."""
    name = os.environ.get("CLUSTER", "local")
    path = root / "slurm" / f"{name}.yaml"
    if not path.exists():
        sites = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"CLUSTER={name}: {path} does not exist; there are: {sites}")
    site = yaml.safe_load(path.read_text(encoding="utf-8"))
    if set(site) != set(SITE_KEYS):
        wrong = sorted(set(site) ^ set(SITE_KEYS))
        raise ValueError(f"{path}: unknown or missing keys {wrong}; it holds: {', '.join(SITE_KEYS)}")
    if site["executor"] not in ("local", "slurm", "debug"):
        raise ValueError(f"{path}: executor {site['executor']!r}; allowed: local, slurm, debug")
    return site


def stale_stages(root: Path, stage: str) -> list[str]:
    """Return the stages that the running `dvc` command has still to run, in its order, `stage` among them."""
    plan = subprocess.run(
        [sys.executable, "-m", "pipeline.plan", str(root), stage], capture_output=True, text=True, check=False, cwd=root
    )
    if plan.returncode != 0:
        raise RuntimeError(f"the plan failed: {plan.stderr.strip()[-2000:]}")
    return [name.split(":")[-1] for name in [*json.loads(plan.stdout), stage]]


def launch(root: Path, scale: str, stage: str) -> list[str]:
    """Submit every missing cell of the stages that will run and whose data is there; return the submissions' ids.

    What was computed elsewhere and is recorded here is adopted before.

    With targets, DVC may come to a table before another one's data; that table's own stage submits its cells.
    """
    store, stale = Store(find_store(root)), stale_stages(root, stage)
    store.share_with_group()
    prefixes = ("warm_start@", "train@", "evaluate@", "reliability@")
    tables = dict.fromkeys(name.split("@")[1] for name in stale if name.startswith(prefixes))
    cells: dict[str, Cell] = {}
    for table in tables:
        for row in read_rows(root / "reports" / scale / "cells" / f"{table}.json"):
            data = {f"partitions@{row['dataset']}", f"download@{row['data']['source']}"}
            if data.isdisjoint(stale):
                cells |= {cell.key: cell for cell in cells_of(row)}
    adopt(store, root, scale)
    return submit(store, list(cells.values()), root=root, data_root=root / "data" / scale)


def submit(store: Store, cells: list[Cell], *, root: Path, data_root: Path) -> list[str]:
    """Claim the cells that are missing in the store and submit them: one submission for each class of resources."""
    site, grown = load_site(root), memory_losses(store)
    classes: dict[str, tuple[dict[str, Any], list[Cell]]] = {}
    for cell in cells:
        if store.state(cell.key) == "missing":
            parameters = resources(site, cell, doublings=grown[cell.key])
            classes.setdefault(json.dumps(parameters, sort_keys=True), (parameters, []))[1].append(cell)
    submissions = []
    for parameters, members in classes.values():
        submission = uuid.uuid4().hex[:12]
        claimed = [cell for cell in members if store.claim(cell.key, submission)]
        if claimed:
            record = _record(store, submission, claimed, root) | {"site": site, "data_root": str(data_root)}
            _send(store, record | {"parameters": parameters})
            submissions.append(submission)
    return submissions


def resources(site: dict[str, Any], cell: Cell, *, doublings: int = 0) -> dict[str, Any]:
    """Return the submitit keywords of a cell: for all jobs, over them those of its kind, over them its data set's.

    `mem_gb`, where it is among them, is doubled for each time that the cell died for want of memory.
    """
    dataset = site["datasets"].get(cell.values["dataset"], {})
    parameters = site["parameters"] | site["kinds"].get(cell.kind, {}) | dataset
    if doublings and "mem_gb" in parameters:
        parameters["mem_gb"] *= 2**doublings
    return parameters


def memory_losses(store: Store) -> Counter[str]:
    """Return how often each cell died for want of memory."""
    return Counter(line["key"] for line in store.executions() if line["event"] == "lost" and line.get("memory"))


def _record(store: Store, submission: str, cells: list[Cell], root: Path) -> dict[str, Any]:
    commit, dirty = _commit(root)
    return {
        "submission": submission,
        "job_name": f"{JOB_PREFIX}{submission}",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "root": str(root),
        "snapshot": take_snapshot(store).name,
        "commit": commit,
        "dirty": dirty,
        "dvc_stage": os.environ.get("DVC_STAGE"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
        "time": store.now(),
        "clock": time.time(),
        "cells": [cell.to_json() for cell in cells],
    }


def _send(store: Store, record: dict[str, Any]) -> None:
    """Write the intent, submit, write the job ids. What dies in between is found again by the job's name."""
    folder = store.submissions / record["submission"]
    record["threads"] = record["site"]["threads"]
    write_json(folder / "submission.json", record)
    try:
        jobs = _submit_jobs(store, record)
    except Exception:
        for cell in record["cells"]:
            store.release(cell["key"])
        raise
    write_json(folder / "jobs.json", {"jobs": jobs, "time": store.now()})


def take_snapshot(store: Store) -> Path:
    """Copy the code into the store, named by its content: jobs run from it whatever is edited meanwhile."""
    files = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*")) if _is_code(path)}
    folder = store.root / "snapshots" / digest(files)[:16]
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        for name, text in files.items():
            target = temporary / PACKAGE.name / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        try:
            temporary.rename(folder)
        except OSError:  # another driver was first
            shutil.rmtree(temporary)
    return folder


def _is_code(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".html", ".json", ".css")


def _submit_jobs(store: Store, record: dict[str, Any]) -> list[str]:
    """Submit the workers of a submission through submitit, in arrays no larger than the cluster takes."""
    import submitit

    site, num_jobs = record["site"], num_workers(record)
    executor = submitit.AutoExecutor(
        folder=store.submissions / record["submission"] / "jobs",
        cluster=site["executor"],
        slurm_max_num_timeout=10**9,  # whether a cell is tried again is ours to decide
    )
    parameters: dict[str, Any] = {"timeout_min": FOREVER_MIN} | record["parameters"]
    chunk = num_jobs
    if site["executor"] == "slurm":
        chunk = min(num_jobs, max_array_size())
        parameters |= {"name": record["job_name"], "slurm_array_parallelism": site["workers"] or num_jobs}
        parameters["slurm_setup"] = [*site["setup"], *parameters.get("slurm_setup", [])]
    executor.update_parameters(**parameters)
    worker = Worker(str(store.root), record["submission"], site["pack"])
    os.environ["PYTHONPATH"] = str(store.root / "snapshots" / record["snapshot"])  # jobs inherit it
    os.environ |= {name: str(site["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    os.chdir(store.root / "snapshots" / record["snapshot"])  # and this: `python -m` looks here first
    jobs = []
    for start in range(0, num_jobs, chunk):
        jobs += _patiently(executor, [worker] * min(chunk, num_jobs - start))
    return [job.job_id for job in jobs]


def _patiently(executor: Any, workers: list[Worker]) -> list[Any]:
    """Submit one array, again and again while SLURM's controller is busy or restarting."""
    from submitit.core.utils import FailedJobError

    for attempt in range(ATTEMPTS):
        try:
            with executor.batch():
                jobs = [executor.submit(worker) for worker in workers]
            return jobs
        except FailedJobError as error:
            if attempt == ATTEMPTS - 1 or not any(word in str(error) for word in PASSING):
                raise RuntimeError(f"sbatch refused the jobs: {error}") from error
            time.sleep(2.0**attempt)
    raise AssertionError


def num_workers(record: dict[str, Any]) -> int:
    """Return how many workers a submission needs: on one machine as many as cores, on a cluster as many as chains."""
    site, num_cells = record["site"], len(record["cells"])
    if site["executor"] != "slurm":
        return min(site["workers"] or os.cpu_count() or 1, num_cells)
    counted = sum(cell["kind"] in COUNTED for cell in record["cells"]) or num_cells
    return -(-counted // site["pack"]) if site["pack"] else min(site["workers"] or counted, counted)


def _commit(root: Path) -> tuple[str | None, bool]:
    """Return the git commit at `root` and whether the tree differs from it."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=False)
    return commit.stdout.strip() or None, bool(status.stdout.strip())


if __name__ == "__main__":
    launch(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
