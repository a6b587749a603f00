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
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.helpers import DelayedSubmission

from pipeline.cell import COUNTED, Cell, from_json
from pipeline.cluster.gpus import see_gpus, seen_gpus
from pipeline.cluster.origin import origin, user
from pipeline.cluster.pulse import pulse
from pipeline.cluster.stopping import Stop, StoppedError, doze, or_cancelled
from pipeline.cluster.team import LAST_WORDS, announce, explain, follow_first_rank, join_team, team_size
from pipeline.files import in_utf8, read_json
from pipeline.guard import DataChangedError, changed_data, check_data
from pipeline.provenance import provenance
from pipeline.store import Store, TakenOverError, UnloggedError

POLL_S, LONGEST_POLL_S = 0.2, 10.0
BUSY_SHARE = 0.02
"""What share of its time a worker that waits may spend on looking at the shared file system."""

ORDER = {"evaluate": 0, "reliability": 0, "train": 1, "warm_start": 2, "sleep": 3}
"""Among the cells that are ready, what finishes a row goes first; warm starts are begun when nothing else is left."""

LET_GO = "let-go"
"""Marks in its work folder that a cell was let go of before it began, since its data was not as submitted."""


@dataclass
class Worker:
    """The callable that submitit carries: `store` and `submission` name what to work on, `limit` how many trainings.

    `gpus` are its own of this machine, as CUDA_VISIBLE_DEVICES names them; None: what the scheduler gives it.
    """

    store_root: str
    submission: str
    limit: int | None
    gpus: str | None = None
    needs_gpu: bool = False

    def __call__(self) -> int:
        """Run cells until none is left; return how many were published."""
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
    holder = {"submission": submission, "pid": os.getpid(), "job": job_id(record), "user": user()}
    holder |= {"cluster": record.get("cluster")}
    on_slurm = record["site"]["executor"] == "slurm"
    if on_slurm:
        _drop_own(store, cells, me=holder)
    with contextlib.nullcontext() if on_slurm else pulse(store.submissions / submission):
        return _run_ready(store, cells, record=record, holder=holder, limit=limit, stop=stop)


def _run_ready(
    store: Store,
    cells: list[Cell],
    *,
    record: dict[str, Any],
    holder: dict[str, Any],
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
        taken, waiting = take(store, cells, holder=holder)
        if taken is not None:
            begun, pause_s = begun + (taken[0].kind in COUNTED), POLL_S
            published += run_cell(store, taken, record=record, stop=stop)
        elif exhausted or not waiting or not Path(record["data_root"]).exists():
            break  # also where the workspace is gone: others have the cells before those that wait
        else:
            doze(max(pause_s, (time.monotonic() - began) / BUSY_SHARE), stop)
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
    return published


def read_submission(store: Store, submission: str) -> dict[str, Any]:
    """Return what a submission's driver wrote down: its cells, its site, where its data lies."""
    record = read_json(store.submissions / submission / "submission.json")
    if record is None:
        raise ValueError(f"{store.submissions / submission}: no such submission")
    os.environ.setdefault("OMP_NUM_THREADS", str(record["threads"]))
    return record


def job_id(record: dict[str, Any]) -> str:
    """Return the SLURM job of this process as `squeue -r` prints it, or `local-<pid>` where SLURM started none."""
    if record["site"]["executor"] != "slurm":  # in an allocation all workers inherit the driver's job
        return f"local-{os.getpid()}"
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        return f"{array}_{task}"
    return os.environ["SLURM_JOB_ID"]


def take(store: Store, cells: list[Cell], *, holder: dict[str, Any]) -> tuple[tuple[Cell, str] | None, bool]:
    """Hold the first cell that is ready; also tell whether it is worth waiting for others.

    Cells that have ended are removed from `cells`: nobody asks the file system for them again.
    """
    waiting, ended, taken = False, set(), None
    for cell in sorted(cells, key=lambda cell: ORDER[cell.kind]):
        state = store.state(cell.key)
        if state in ("done", "failed", "cancelled"):
            ended.add(cell.key)
        if state != "queued" or store.owner(cell.key) != holder["submission"]:
            continue
        upstream = [store.state(key) for key in cell.upstream]
        broken = [key for key, state in zip(cell.upstream, upstream, strict=True) if state in ("failed", "cancelled")]
        if broken:
            store.end_after(cell.key, broken[0], name=cell.name)
        elif all(state == "done" for state in upstream):
            token = store.hold(cell.to_json(), holder | origin())
            if token is not None:
                taken = (cell, token)
                break
        else:
            waiting = True
    cells[:] = [cell for cell in cells if cell.key not in ended]
    return taken, waiting or taken is not None


def run_cell(store: Store, taken: tuple[Cell, str], *, record: dict[str, Any], stop: Stop) -> bool:
    """Compute one held cell and publish it; on a crash record why. Return whether it was published."""
    cell, token = taken
    work, started, spent_s = store.work(cell.key), time.time(), time.process_time()
    holder = store.holder(cell.key) or {"submission": None, "job": job_id(record), "restarts": 0}
    begun = False
    try:
        with (work / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
            place = f"on {holder.get('host', '?')} as job {job_id(record)}{seen_gpus()}"
            print(f"{time.strftime('%F %T')} {cell.name} {place}")
            check_data(cell.values, record)
            begun = True
            for mark in (LAST_WORDS, LET_GO):
                (work / mark).unlink(missing_ok=True)
            announce(cell.to_json())
            result = compute(cell, store, record=record, work=work, stop=or_cancelled(store, cell.key, stop=stop))
        check_data(cell.values, record)
        result["provenance"] = provenance(cell, record, holder=holder, ranks=team_size(), started=started)
        result["provenance"]["cpu_s"] = round(time.process_time() - spent_s, 2)  # of this process alone
        store.publish(cell.key, token, result=result)
    except StoppedError:
        if changed_data(cell.values, record):
            _forget_training(work)
        with contextlib.suppress(TakenOverError):
            store.drop(cell.key, token)
        return False
    except TakenOverError as error:
        print(f"{cell.name}: {error}", flush=True)
        return False
    except UnloggedError:
        raise
    except Exception as error:  # one cell's crash must not end the others
        if store.is_done(cell.key):  # its folder went while this one computed
            print(f"{cell.name}: published by another worker meanwhile ({error})", flush=True)
        elif (why := _why_left(error, work, record=record, begun=begun)) is not None:
            print(f"{cell.name}: left to others, {why} ({error})", flush=True)
            _leave(store, cell, token=token, record=record, submission=holder["submission"])
        elif (cause := explain(error, work)) is not None:
            if begun and (isinstance(cause, DataChangedError) or changed_data(cell.values, record)):
                _forget_training(work)
            _record_crash(store, cell, token=token, error=cause)
        else:  # the cell stays held: whoever finds the job gone asks SLURM why
            print(f"{cell.name}: another rank is gone ({error})", flush=True)
        if begun and team_size() > 1:
            raise  # the other ranks may still wait inside the cell: end the job with them
        return False
    return True


def _why_left(error: Exception, work: Path, *, record: dict[str, Any], begun: bool) -> str | None:
    """Return why a cell is let go of, with its checkpoint, for another submission of it; None where it has failed.

    Data that is not as submitted may be what DVC made again, of the same bytes; the next submission knows it. Once in
    a row: on a host that sees other files than the driver the cell would be let go of for ever.
    """
    if not Path(record["data_root"]).exists():  # with the workspace it was submitted from; others have theirs
        return f"{record['data_root']} is gone"
    if begun or not isinstance(error, DataChangedError) or (work / LET_GO).exists():
        return None
    (work / LET_GO).touch()
    return "to begin with the data as it is when it is submitted again"


def _leave(store: Store, cell: Cell, *, token: str, record: dict[str, Any], submission: str | None) -> None:
    """Let go of a cell, and of those of its submission that wait for it: their worker would sit and wait."""
    store.lose(cell.key, token)
    left = {cell.key}
    for one in record["cells"]:  # upstream first
        if one["key"] in left or left & set(one["upstream"]):
            left.add(one["key"])
            store.unclaim(one["key"], submission)


def _forget_training(work: Path) -> None:
    """Remove what was computed with data that changed meanwhile: nothing may go on from it."""
    for name in ("checkpoint.pt", "spool.jsonl"):
        (work / name).unlink(missing_ok=True)


def _record_crash(store: Store, cell: Cell, *, token: str, error: Exception) -> None:
    """Write down why a cell crashed, on a full disk too: the room that the cell kept is given up for it."""
    log = store.work(cell.key) / "log.txt"
    report, said = map(in_utf8, ("".join(traceback.format_exception(error)), str(error)))
    store.make_room(cell.key)
    with contextlib.suppress(OSError):  # the worker's own log may lie on the same disk
        print(f"{cell.name} failed\n{report}", flush=True)
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(report)
    reason = {"reason": f"{type(error).__name__}: {said}", "name": cell.name, "log": str(log)}
    with contextlib.suppress(TakenOverError):
        store.fail(cell.key, token, reason=reason)


def compute(
    cell: Cell, store: Store, *, record: dict[str, Any], work: Path, stop: Callable[[], bool]
) -> dict[str, Any]:
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
        raise StoppedError(f"{cell.name}: stopped at a step boundary") from None


def _drop_own(store: Store, cells: list[Cell], *, me: dict[str, Any]) -> None:
    """Let go of what an earlier life of this job held: it was requeued, and goes on from the checkpoint."""
    for cell in cells:
        holder = store.holder(cell.key)
        if holder is not None and all(holder.get(name) == me[name] for name in ("job", "cluster")):
            store.lose(cell.key, holder["token"])
