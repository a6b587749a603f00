"""Run one cell that a worker holds: compute it, publish the result, or say what became of it.

A cell ends as a result, as a failure with its reason, or it is let go of and goes on elsewhere from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from pipeline.cell import Cell
from pipeline.cluster.gpus import seen_gpus
from pipeline.cluster.stopping import Stop, StoppedError, or_cancelled
from pipeline.cluster.team import LAST_WORDS, announce, explain, team_size
from pipeline.files import in_utf8
from pipeline.guard import DataChangedError, changed_data, check_data
from pipeline.provenance import provenance
from pipeline.records import Submission
from pipeline.store import Store, TakenOverError, UnloggedError

LET_GO = "let-go"
"""Marks in its work folder that a cell was let go of before it began, since its data was not as submitted."""


def run_cell(store: Store, taken: tuple[Cell, str], *, record: Submission, stop: Stop) -> bool:
    """Compute one held cell and publish it; on a crash record why. Return whether it was published."""
    cell, token = taken
    try:
        check_data(cell.values, record)
    except (DataChangedError, OSError) as error:
        _refuse(store, cell, token=token, record=record, error=error)
        return False
    try:
        result = _compute_logged(store, cell, record=record, stop=stop)
        store.publish(cell.key, token, result=result)
    except StoppedError:
        if changed_data(cell.values, record):
            _forget_training(store.work(cell.key))
        with contextlib.suppress(TakenOverError):
            store.drop(cell.key, token)
        return False
    except TakenOverError as error:
        print(f"{cell.name}: {error}", flush=True)
        return False
    except UnloggedError:
        raise
    except Exception as error:  # one cell's crash must not end the others
        _settle(store, cell, token=token, record=record, error=error)
        if team_size() > 1:
            raise  # the other ranks may still wait inside the cell: end the job with them
        return False
    return True


def _compute_logged(store: Store, cell: Cell, *, record: Submission, stop: Stop) -> dict[str, Any]:
    """Compute a cell, with what it prints in its log; return its result and where that comes from."""
    work, started, spent_s = store.work(cell.key), time.time(), time.process_time()
    holder = store.holder(cell.key)
    if holder is None:
        raise TakenOverError(f"{cell.key}: taken from this worker before it began")
    with (work / "log.txt").open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log):
        place = f"on {holder.get('host', '?')} as job {holder['job']}{seen_gpus()}"
        print(f"{time.strftime('%F %T')} {cell.name} {place}")
        for mark in (LAST_WORDS, LET_GO):
            (work / mark).unlink(missing_ok=True)
        announce(cell.to_json())
        result = compute(cell, store, record=record, work=work, stop=or_cancelled(store, cell.key, stop=stop))
    check_data(cell.values, record)
    result["provenance"] = provenance(cell, record, holder=holder, ranks=team_size(), started=started)
    result["provenance"]["cpu_s"] = round(time.process_time() - spent_s, 2)  # of this process alone
    return result


def _refuse(store: Store, cell: Cell, *, token: str, record: Submission, error: Exception) -> None:
    """Let go of a cell whose data is not as submitted, for another submission of it; at the second time fail it.

    What DVC made again may be of the same bytes, and the next submission knows it. But on a host that sees other files
    than the driver does, the cell would be let go of for ever.
    """
    mark = store.work(cell.key) / LET_GO
    if not Path(record["data_root"]).exists():
        _leave(store, cell, token=token, record=record, why=f"{record['data_root']} is gone ({error})")
    elif mark.exists() or not isinstance(error, DataChangedError):
        _record_crash(store, cell, token=token, error=error)
    else:
        mark.touch()
        why = f"to begin with the data as it is when it is submitted again ({error})"
        _leave(store, cell, token=token, record=record, why=why)


def _settle(store: Store, cell: Cell, *, token: str, record: Submission, error: Exception) -> None:
    """Decide what becomes of a cell that ended with an error, and say so."""
    work = store.work(cell.key)
    if store.is_done(cell.key):  # its folder went while this one computed
        print(f"{cell.name}: published by another worker meanwhile ({error})", flush=True)
    elif not Path(record["data_root"]).exists():  # with the workspace it was submitted from; others have theirs
        _leave(store, cell, token=token, record=record, why=f"{record['data_root']} is gone ({error})")
    elif (cause := explain(error, work)) is None:  # it stays held: whoever finds the job gone asks SLURM why
        print(f"{cell.name}: another rank is gone ({error})", flush=True)
    else:
        if isinstance(cause, DataChangedError) or changed_data(cell.values, record):
            _forget_training(work)
        _record_crash(store, cell, token=token, error=cause)


def _leave(store: Store, cell: Cell, *, token: str, record: Submission, why: str) -> None:
    """Let go of a cell, and of those of its submission that wait for it: their worker would sit and wait."""
    print(f"{cell.name}: left to others, {why}", flush=True)
    store.lose(cell.key, token)
    left = {cell.key}
    for one in record["cells"]:  # upstream first
        if one["key"] in left or left & set(one["upstream"]):
            left.add(one["key"])
            store.unclaim(one["key"], record["submission"])


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


def compute(cell: Cell, store: Store, *, record: Submission, work: Path, stop: Callable[[], bool]) -> dict[str, Any]:
    """Run the science of a cell in a work folder and return its result; every rank of a team calls it."""
    if cell.kind == "sleep":  # what the launching benchmarks submit: a cell that costs nothing but time
        time.sleep(cell.values["seconds"])
        return {"state": "done"}
    os.environ.setdefault("OMP_NUM_THREADS", str(record["threads"]))  # which torch reads as it is imported
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
