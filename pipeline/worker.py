"""A worker: the process that runs cells, on a laptop or on a SLURM node, one after another.

It takes the cells of its submission as they become ready, so short cells do not pay a process start each and no
worker idles while another has a queue. torch is imported once, by the first cell that needs it.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import sys
import time
import traceback
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import DelayedSubmission

from pipeline.cell import Cell, from_json
from pipeline.store import Store, TakenOverError, read_json
from pipeline.team import announce, follow, join_team, team_size

POLL_S = 0.2
ORDER = {"evaluate": 0, "reliability": 0, "train": 1, "warm_start": 2, "sleep": 3}
"""Among the cells that are ready, what finishes a row goes first; warm starts are begun when nothing else is left."""


COUNTED = ("train", "sleep")
"""What the limit of a worker counts; the warm starts before and the evaluations after ride along."""


class Stop:
    """A flag that a signal sets and the engine reads at every step boundary."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether to save and leave."""
        return self.signal is not None

    def set(self, signum: int, _frame: FrameType | None) -> None:
        """Remember the signal; nothing else is safe inside a handler."""
        self.signal = signum


class StoppedError(RuntimeError):
    """The engine saved its checkpoint at a step boundary and left, as it was asked to."""


@dataclass
class Worker:
    """The callable that submitit carries: `store` and `submission` name what to work on, `limit` how many trainings."""

    store_root: str
    submission: str
    limit: int | None

    def __call__(self) -> int:
        """Run cells until none is left; return how many were published."""
        stop = Stop()
        requeue = signal.signal(signal.SIGUSR2, stop.set)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop.set)
        store, published = Store(Path(self.store_root)), 0
        store.share_with_group()
        if join_team() == 0:
            published = run_submission(store, self.submission, limit=self.limit, stop=stop)
            announce(None)
        else:
            record = read_submission(store, self.submission)
            follow(
                lambda cell, work: compute(from_json(cell), store, record, work=work, stop=stop), stopped=StoppedError
            )
        if stop.signal == signal.SIGUSR2 and callable(requeue):
            requeue(signal.SIGUSR2, None)  # submitit's own: asks SLURM to queue this job again
        if stop():
            sys.exit(143)
        return published

    def checkpoint(self) -> DelayedSubmission:
        """Tell submitit to run the same worker again. Saves nothing: the engine already has, between two steps."""
        return DelayedSubmission(self)


def run_submission(store: Store, submission: str, *, limit: int | None, stop: Stop) -> int:
    """Take and run the submission's cells until none is left that this worker could run."""
    record = read_submission(store, submission)
    cells = [from_json(cell) for cell in record["cells"]]
    job = job_id()
    holder = {"submission": submission, "host": socket.gethostname(), "pid": os.getpid(), "job": job}
    _drop_own(store, cells, job)
    published = begun = 0
    while not stop():
        exhausted = limit is not None and begun >= limit
        if exhausted:
            cells = [cell for cell in cells if cell.kind in ("evaluate", "reliability")]
        taken, waiting = take(store, cells, holder)
        if taken is not None:
            begun += taken[0].kind in COUNTED
            published += run_cell(store, taken, record, stop=stop)
        elif exhausted:
            break
        elif waiting:
            time.sleep(POLL_S)
        else:
            break
    return published


def read_submission(store: Store, submission: str) -> dict[str, Any]:
    """Return what a submission's driver wrote down: its cells, its site, where its data lies."""
    record = read_json(store.submissions / submission / "submission.json")
    if record is None:
        raise ValueError(f"{store.submissions / submission}: no such submission")
    os.environ.setdefault("OMP_NUM_THREADS", str(record["threads"]))
    return record


def job_id() -> str:
    """Return the SLURM job of this process as `squeue -r` prints it, or `local-<pid>`."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID") or f"local-{os.getpid()}"


def take(store: Store, cells: list[Cell], holder: dict[str, Any]) -> tuple[tuple[Cell, str] | None, bool]:
    """Hold the first cell that is ready; also tell whether it is worth waiting for others.

    Cells that have ended are removed from `cells`: nobody asks the file system for them again.
    """
    waiting, ended, taken = False, set(), None
    for cell in sorted(cells, key=lambda cell: ORDER[cell.kind]):
        state = store.state(cell.key)
        if state in ("done", "failed"):
            ended.add(cell.key)
        if state != "queued" or store.owner(cell.key) != holder["submission"]:
            continue
        upstream = [store.state(key) for key in cell.upstream]
        failed = [key for key, state in zip(cell.upstream, upstream, strict=True) if state == "failed"]
        if failed:
            store.fail(cell.key, None, {"reason": f"the cell before it failed: {failed[0]}", "name": cell.name})
        elif all(state == "done" for state in upstream):
            token = store.hold(cell.to_json(), holder)
            if token is not None:
                taken = (cell, token)
                break
        else:
            waiting = True
    cells[:] = [cell for cell in cells if cell.key not in ended]
    return taken, waiting or taken is not None


def run_cell(store: Store, taken: tuple[Cell, str], record: dict[str, Any], *, stop: Stop) -> bool:
    """Compute one held cell and publish it; on a crash record why. Return whether it was published."""
    cell, token = taken
    work, started = store.work(cell.key), time.time()
    try:
        with (work / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
            print(f"{time.strftime('%F %T')} {cell.name} on {socket.gethostname()} as job {job_id()}")
            announce(cell.to_json())
            result = compute(cell, store, record, work=work, stop=stop)
        result["provenance"] = provenance(store, cell, record, started=started)
        store.publish(cell.key, token, result)
    except StoppedError:
        store.drop(cell.key, token)
        return False
    except TakenOverError as error:
        print(f"{cell.name}: {error}", flush=True)
        return False
    except Exception as error:  # one cell's crash must not end the others
        report = traceback.format_exc()
        print(f"{cell.name} failed\n{report}", flush=True)
        with (work / "log.txt").open("a", encoding="utf-8") as log:
            log.write(report)
        reason = {"reason": f"{type(error).__name__}: {error}", "name": cell.name, "log": str(work / "log.txt")}
        store.fail(cell.key, token, reason)
        if team_size() > 1:
            raise  # the other ranks may still wait inside the cell: end the job with them
        return False
    return True


def compute(cell: Cell, store: Store, record: dict[str, Any], *, work: Path, stop: Stop) -> dict[str, Any]:
    """Run the science of a cell in a work folder and return its result; every rank of a team calls it."""
    if cell.kind == "sleep":  # what the launching benchmarks submit: a cell that costs nothing but time
        time.sleep(cell.values["seconds"])
        return {"state": "done"}
    import torch  # after the first signal handlers are in place; takes seconds

    from pipeline.evaluation.cell import evaluate_cell
    from pipeline.evaluation.reliability import reliability_cell
    from pipeline.training.engine import Interrupted, train_cell

    torch.set_num_threads(record["threads"])
    data = Path(record["data_root"])
    upstream = [store.done(key) for key in cell.upstream]
    try:
        if cell.kind == "evaluate":
            return evaluate_cell(cell.values, data_root=data, trained=upstream[0])
        if cell.kind == "reliability":
            return reliability_cell(cell.values, data_root=data, trained=upstream[0])
        return train_cell(cell, work, data_root=data, upstream=upstream, stop=stop)
    except Interrupted:
        raise StoppedError(f"{cell.name}: stopped by signal {stop.signal}") from None


def provenance(store: Store, cell: Cell, record: dict[str, Any], *, started: float) -> dict[str, Any]:
    """Return where a result comes from: commit, node, job, versions, restarts, times (seconds since the epoch)."""
    torch = sys.modules.get("torch")
    restarts = sum(line["key"] == cell.key and line["event"] == "resume" for line in store.executions())
    recorded = ("commit", "dirty", "snapshot", "dvc_stage", "dvc_experiment")
    return {name: record[name] for name in recorded} | {
        "node": socket.gethostname(),
        "job": job_id(),
        "ranks": team_size(),
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", "torchvision")},
        "restarts": restarts,
        "started": started,
        "ended": time.time(),
    }


def _drop_own(store: Store, cells: list[Cell], job: str) -> None:
    """Let go of what an earlier life of this job held: it was requeued, and goes on from the checkpoint."""
    for cell in cells:
        holder = store.holder(cell.key)
        if holder is not None and holder["job"] == job:
            (store.work(cell.key) / "holder.json").unlink(missing_ok=True)
