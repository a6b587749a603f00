"""A worker: the process that runs cells, on a laptop or on a SLURM node, one after another.

It takes the cells of its submission as they become ready, so short cells do not pay a process start each and no
worker idles while another has a queue. torch is imported once, by the first cell that needs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from submitit.helpers import DelayedSubmission

from pipeline.cell import COUNTED, Cell, from_json
from pipeline.cluster.gpus import see_gpus
from pipeline.cluster.origin import origin, user
from pipeline.cluster.pulse import pulse
from pipeline.cluster.stopping import Stop, doze
from pipeline.cluster.team import announce, follow_first_rank, join_team
from pipeline.records import ENDED, GIVEN_UP, Submission, WorkerFacts
from pipeline.run import compute, run_cell
from pipeline.store import Store

POLL_S, LONGEST_POLL_S = 0.2, 10.0
BUSY_SHARE = 0.02
"""What share of its time a worker that waits may spend on looking at the shared file system."""

ORDER = {"evaluate": 0, "reliability": 0, "train": 1, "warm_start": 2, "sleep": 3}
"""Among the cells that are ready, what finishes a row goes first; warm starts are begun when nothing else is left."""


@dataclass
class Worker:
    """What submitit pickles, and calls in each task of a job.

    It runs cells of `submission` in the store at `store_root`, and begins `limit` trainings at most (None: any number).
    `gpus` are its own of this machine, as CUDA_VISIBLE_DEVICES names them; None: what the scheduler gives it. With
    `needs_gpu` it fails at once where torch can use none.
    """

    store_root: str
    submission: str
    limit: int | None
    gpus: str | None = None
    needs_gpu: bool = False

    def __call__(self) -> int:
        """Run cells until none is left; return how many were published.

        A signal only sets a flag; the engine then saves between two steps. After SIGUSR2, SLURM's warning before a time
        limit, the job is queued again; after SIGTERM and SIGINT the process exits with 143. Where a cell has several
        tasks, the first takes cells and the others follow it.
        """
        stop = Stop()
        requeue = signal.signal(signal.SIGUSR2, stop.set)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, stop.set)
        see_gpus(self.gpus, needed=self.needs_gpu)
        store, published = Store(Path(self.store_root)), 0
        store.share_with_group()
        if (rank := join_team()) == 0:
            published = run_submission(store, self.submission, limit=self.limit, stop=stop)
            announce(None)
        else:
            record = read_submission(store, self.submission)
            follow_first_rank(
                store, lambda cell, work: compute(from_json(cell), store, record=record, work=work, stop=stop)
            )
        if stop.signal == signal.SIGUSR2 and callable(requeue):
            requeue(signal.SIGUSR2, None)  # submitit's own: asks SLURM to queue this job again
        if stop() and (rank == 0 or stop.signal != signal.SIGUSR2):  # another's exit may end the one that requeues
            sys.exit(143)
        return published

    def checkpoint(self) -> DelayedSubmission:
        """Tell submitit to run the same worker again. Saves nothing: the engine already has, between two steps."""
        return DelayedSubmission(self)


def run_submission(store: Store, submission: str, *, limit: int | None, stop: Stop) -> int:
    """Take and run the submission's cells until none is left that this worker could run."""
    record = read_submission(store, submission)
    cells = [from_json(cell) for cell in record["cells"]]
    me: WorkerFacts = {
        **origin(),
        "submission": submission,
        "pid": os.getpid(),
        "job": job_id(record),
        "user": user(),
        "cluster": record.get("cluster"),
    }
    on_slurm = record["site"]["executor"] == "slurm"
    if on_slurm:
        _drop_own(store, cells, me=me)
    with contextlib.nullcontext() if on_slurm else pulse(store.submissions / submission):
        return _run_ready(store, cells, record=record, me=me, limit=limit, stop=stop)


def _run_ready(
    store: Store,
    cells: list[Cell],
    *,
    record: Submission,
    me: WorkerFacts,
    limit: int | None,
    stop: Stop,
) -> int:
    """Run cells as they become ready; return how many were published."""
    published, begun, pause_s = 0, 0, POLL_S
    while not stop():
        exhausted = limit is not None and begun >= limit
        if exhausted:
            cells = [cell for cell in cells if cell.kind in ("evaluate", "reliability")]
        began = time.monotonic()
        taken, waiting = take(store, cells, me=me)
        if taken is not None:
            begun, pause_s = begun + (taken[0].kind in COUNTED), POLL_S
            published += run_cell(store, taken, record=record, stop=stop)
        elif exhausted or not waiting or not Path(record["data_root"]).exists():
            break  # also where the workspace is gone: others have the cells before those that wait
        else:
            doze(max(pause_s, (time.monotonic() - began) / BUSY_SHARE), stop)
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
    return published


def read_submission(store: Store, submission: str) -> Submission:
    """Return what a submission's driver wrote down: its cells, its site, where its data lies."""
    record = store.submission(submission)
    if record is None:
        raise ValueError(f"{store.submissions / submission}: no such submission")
    return record


def job_id(record: Submission) -> str:
    """Return the SLURM job of this process as `squeue -r` prints it, or `local-<pid>` where SLURM started none."""
    if record["site"]["executor"] != "slurm":  # in an allocation all workers inherit the driver's job
        return f"local-{os.getpid()}"
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ["SLURM_JOB_ID"]


def take(store: Store, cells: list[Cell], *, me: WorkerFacts) -> tuple[tuple[Cell, str] | None, bool]:
    """Hold the first cell that is ready; also tell whether it is worth waiting for others.

    Cells that have ended are removed from `cells`: nobody asks the file system for them again.
    """
    waiting, ended, taken = False, set(), None
    for cell in sorted(cells, key=lambda cell: ORDER[cell.kind]):
        state = store.state(cell.key)
        if state in ENDED:
            ended.add(cell.key)
        if state != "queued" or store.owner(cell.key) != me["submission"]:
            continue
        upstream = [store.state(key) for key in cell.upstream]
        broken = [key for key, state in zip(cell.upstream, upstream, strict=True) if state in GIVEN_UP]
        if broken:
            store.end_after(cell.key, broken[0], name=cell.name)
        elif all(state == "done" for state in upstream):
            token = store.hold(cell.to_json(), {**me, **origin()})  # with the boot's time by the clock of now
            if token is not None:
                taken = (cell, token)
                break
        else:
            waiting = True
    cells[:] = [cell for cell in cells if cell.key not in ended]
    return taken, waiting or taken is not None


def _drop_own(store: Store, cells: list[Cell], *, me: WorkerFacts) -> None:
    """Let go of what an earlier life of this job held: it was requeued, and goes on from the checkpoint."""
    for cell in cells:
        holder = store.holder(cell.key)
        if holder is not None and (holder["job"], holder.get("cluster")) == (me["job"], me["cluster"]):
            store.lose(cell.key, holder["token"])
