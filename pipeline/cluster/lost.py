"""How often cells were lost, by the execution log, and when a loss is one too many."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.cluster.site import MAX_DOUBLINGS
from pipeline.files import modified
from pipeline.records import Holder
from pipeline.store import Store

MAX_LOST = 3
"""A cell whose worker died this often, without a word and without getting further, has failed."""


def count_loss(store: Store, key: str, *, holder: Holder, cause: str) -> None:
    """Log that a worker died without a word, and give up on a cell that goes nowhere between its deaths.

    What the cluster took away says nothing about the cell, nor does memory that can still be doubled. Where another
    rank of a team left its last words the cell has failed at once.
    """
    if cause not in ("cluster", "memory") and _fail_with_last_words(store, key):
        return
    reached = modified(store.work(key) / "checkpoint.pt")
    facts = {"host": holder["host"], "job": holder["job"], "checkpoint": reached, "memory": cause == "memory"}
    store.log_execution(key, "lost", facts=facts | {"cause": cause})
    losses: list[dict[str, Any]] = []
    for line in store.executions():
        if line["key"] == key and line["event"] in ("lost", "retry") and line.get("cause") != "cluster":
            losses = [] if line["event"] == "retry" else [*losses, line]
    more_memory = cause == "memory" and sum(bool(line.get("memory")) for line in losses) <= MAX_DOUBLINGS
    stuck = [line["checkpoint"] for line in losses[-MAX_LOST:]].count(reached) >= MAX_LOST
    if stuck and not more_memory and store.state(key) in ("queued", "missing"):
        reason = f"its worker died {MAX_LOST} times at the same step, the last as job {holder['job']}"
        log = str(store.work(key) / "log.txt")
        why = {"memory": "out of memory", "time": "out of time"}.get(cause, "cause unknown, possibly out of memory")
        store.fail(key, None, reason={"reason": f"{reason} on {holder['host']} ({why})", "log": log})


def _fail_with_last_words(store: Store, key: str) -> bool:
    """Fail a cell of which a rank said why it failed, though the first was ended before it could write that down.

    So NCCL's watchdog ends it. The words go: after `retry` they are of another life.
    """
    from pipeline.cluster.team import LAST_WORDS, last_words  # imports submitit

    cause, log = last_words(store.work(key)), store.work(key) / "log.txt"
    if cause is None or store.state(key) not in ("queued", "missing"):
        return False
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.writelines(cause.__notes__)
    store.fail(key, None, reason={"reason": f"{type(cause).__name__}: {cause}", "log": str(log)})
    (store.work(key) / LAST_WORDS).unlink(missing_ok=True)
    return True


def count_unbegun(store: Store, keys: Sequence[str], *, facts: dict[str, Any]) -> None:
    """Log that a submission ended before any of its jobs took a cell, and fail the cells to which that happens again
    and again, as where a line of the site's `setup` fails.

    `facts` are the submission, its first job, and why that ended: what the cluster took away says nothing about a cell.
    """
    for key in keys:
        store.log_execution(key, "unbegun", facts=facts | {"memory": facts["cause"] == "memory"})
    if facts["cause"] == "cluster":
        return
    times: Counter[str] = Counter()
    for line in store.executions():
        if line["event"] in ("start", "resume", "retry"):
            times.pop(line["key"], None)
        elif line["event"] == "unbegun" and line["cause"] != "cluster":
            times[line["key"]] += 1
    logs = store.submissions / facts["submission"] / "jobs"
    for key in keys:
        if times[key] >= MAX_LOST and store.state(key) == "missing":
            last = f"the last as {facts['job']}: see {logs}/*_log.err"
            reason = f"its job ended {MAX_LOST} times before it began, {last}"
            store.fail(key, None, reason={"reason": reason})


def memory_losses(store: Store) -> Counter[str]:
    """Return how often each cell died for want of memory since it was last retried."""
    losses: Counter[str] = Counter()
    for line in store.executions():
        if line["event"] == "retry":
            losses.pop(line["key"], None)
        elif line["event"] in ("lost", "unbegun") and line.get("memory"):
            losses[line["key"]] += 1
    return losses
