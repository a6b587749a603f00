"""Finds workers that died holding a cell, and submissions without enough jobs left for their cells; lets go of these.

Drivers do so every few seconds, the ingester every minute, `doctor` when asked. A cell that was let go of is submitted
again by a driver that waits for it, with more memory where that was the reason. Several drivers may find one loss: the
one that takes the holder or claim away counts it (`lost.py`).

How a worker is known to be dead depends on where it runs:

    as a job of SLURM        `squeue` was asked a minute after the record was written, and no longer lists the job
    on this machine          no process has its number, or a younger one has it, or the machine has started since
    on another machine       it has not touched its submission's `pulse` for five minutes

Where SLURM gives no answer, or does not show us a colleague's jobs, nothing is called dead.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from pipeline.cell import COUNTED
from pipeline.cluster import slurm
from pipeline.cluster.lost import count_loss, count_unbegun
from pipeline.cluster.origin import is_before_boot, is_of_this_machine, process_alive, user
from pipeline.cluster.pulse import is_silent
from pipeline.files import read_json
from pipeline.records import UNDER_WAY, Holder, Submission
from pipeline.store import Store

Chain = Mapping[str, tuple[str, list[str]]]
"""The cells of a submission: key -> kind and the keys before it."""

INTERRUPTED = "interrupted"
"""The file in a submission's folder which says that Ctrl-C ended its workers."""


@dataclass(frozen=True)
class Outline:
    """What is asked of a submission again and again: its record without the cells' values."""

    folder: Path
    record: Submission
    cells: Chain


@dataclass(frozen=True)
class Dead:
    """What was found dead.

    `holders`: cells (key, holder) whose worker is gone; `claims`: cells (key, submission) which no job of their
    submission will come to; `ended`: submissions without a job left; `empty`: cells whose claim or holder is empty, as
    a power cut leaves it. `postponed`: cells of these that wait until SLURM says why their job ended.
    """

    holders: list[tuple[str, Holder]]
    claims: list[tuple[str, str]]
    ended: set[str]
    empty: list[str]
    postponed: frozenset[str] = frozenset()


def find_dead(store: Store) -> Dead:
    """Return what is to be let go of.

    Jobs are asked about before it is read which cells are left and who holds them: a worker that ends in between (a
    controller that restarts answers after many seconds) leaves room for one cell too many then, never for one too few.
    """
    owners = {path.stem: store.owner(path.stem) for path in (store.root / "claims").glob("*.json")}
    outlines = {name: read_outline(store.submissions / name) for name in set(owners.values()) if name}
    workers = {name: 0 if outline is None else live_workers(store, outline) for name, outline in outlines.items()}
    claimed: dict[str, set[str]] = defaultdict(set)
    for path in (store.root / "claims").glob("*.json"):
        if owner := owners.get(path.stem):
            claimed[owner].add(path.stem)
    held_keys = [path.parent.name for path in (store.root / "work").glob("*/holder.json")]
    found = {key: store.holder(key) for key in held_keys}
    holders = {key: holder for key, holder in found.items() if holder}
    dead = {key: holder for key, holder in holders.items() if holder_dead(store, holder)}
    claims = []
    for submission, keys in claimed.items():
        held = {key for key, holder in holders.items() if key not in dead and holder["submission"] == submission}
        lost = {key for key, holder in dead.items() if key in keys and not _is_local(holder)}
        gone = _given_up(outlines[submission], workers[submission], keys=keys - held, held=held, lost=lost)
        claims += [(key, submission) for key in sorted(gone)]
    unsaid = {key for key, owner in owners.items() if owner is None} | {key for key, one in found.items() if not one}
    empty = sorted(key for key in unsaid if store.state(key) in UNDER_WAY)
    ended = {name for name, number in workers.items() if number == 0}
    return Dead(sorted(dead.items()), claims, ended, empty)


def _given_up(
    outline: Outline | None, workers: int | None, *, keys: set[str], held: set[str], lost: set[str]
) -> set[str]:
    """Return which of the claimed cells `keys` that no living worker holds their submission will not come to.

    All, where its jobs are gone; else the `lost` ones with what comes after them, and what the jobs left cannot reach:
    a worker of a few trainings has no time for another's.
    """
    if outline is None or workers == 0:
        return keys
    gone = lost | _after(outline.cells, lost) & keys
    if workers is not None and (pack := outline.record["site"]["pack"]):
        room = workers * pack - _num_counted(outline.cells, held)
        gone |= surplus(outline.cells, keys - gone, held=held, room=room)
    return gone


def release_dead(store: Store) -> Dead:
    """Let go of what died, and return what was found, with what has to wait."""
    dead = find_dead(store)
    numbers = sorted({holder["job"] for _, holder in dead.holders if not _is_local(holder)})
    causes = slurm.causes_of_death(store, numbers) if numbers else {}
    postponed = {key for key, holder in dead.holders if causes is None and not _is_local(holder)}
    for key, holder in dead.holders:
        if key not in postponed and store.lose(key, holder["token"]):
            count_loss(store, key, holder=holder, cause=(causes or {}).get(holder["job"], "unknown"))
    for key in dead.empty:
        store.lose(key, None)
        store.unclaim(key, None)
    unbegun = _unbegun(store, dead)
    for submission, keys in _by_submission(dead.claims).items():
        if submission in unbegun and unbegun[submission] is None:
            postponed |= set(keys)
            continue
        let_go = [
            key for key in keys if key not in postponed and store.holder(key) is None and store.unclaim(key, submission)
        ]
        if facts := unbegun.get(submission):
            count_unbegun(store, let_go, facts=facts)
    return replace(dead, postponed=frozenset(postponed))


def _by_submission(claims: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = defaultdict(list)
    for key, submission in claims:
        keys[submission].append(key)
    return keys


def _unbegun(store: Store, dead: Dead) -> dict[str, dict[str, Any] | None]:
    """Return how the first job of each submission ended of which none took a cell, None where that is not known yet."""
    submissions = dead.ended & {submission for _, submission in dead.claims}
    lines = store.executions() if submissions else []
    begun = {line.get("submission") for line in lines if line["event"] in ("start", "resume")}
    found: dict[str, dict[str, Any] | None] = {}
    first: dict[str, str] = {}
    for name in submissions - begun:
        record, jobs = store.submission(name), store.jobs(name)
        if not record or not jobs or not jobs["jobs"]:
            continue
        if record["site"]["executor"] == "slurm":
            first[name] = jobs["jobs"][0]
        else:
            interrupted = (store.submissions / name / INTERRUPTED).exists()
            faultless = interrupted or not is_of_this_machine(record) or is_before_boot(record)
            found[name] = {"submission": name, "job": jobs["jobs"][0], "cause": "cluster" if faultless else "unknown"}
    causes = slurm.causes_of_death(store, sorted(first.values())) if first else {}
    if causes is None:
        return found | dict.fromkeys(first)
    return found | {name: {"submission": name, "job": job, "cause": causes[job]} for name, job in first.items()}


def surplus(cells: Chain, queued: set[str], *, held: Iterable[str] = (), room: int) -> set[str]:
    """Return the queued cells that workers with room for so many trainings cannot reach.

    A training goes with the evaluations after it, and with the warm starts before it that no other one needs.
    Evaluations whose training was done elsewhere, or before, need one worker together.
    """
    trainings = sorted(key for key in queued if cells.get(key, ("", []))[0] in COUNTED)
    ours = {*trainings, *held}
    tied = ours | _after(cells, ours) | {before for key in ours for before in _before(cells, key)}
    loose = queued - tied
    room = max(room, 0)
    kept = max(room - bool(loose), 0)
    left, staying = set(trainings[kept:]), {*trainings[:kept], *held}
    needed = {before for key in staying for before in _before(cells, key)}
    gone = left | _after(cells, left) | ({before for key in left for before in _before(cells, key)} - needed)
    return (gone | (loose if room == 0 else set())) & queued


def _before(cells: Chain, key: str) -> list[str]:
    return cells.get(key, ("", []))[1]


def _after(cells: Chain, keys: Iterable[str]) -> set[str]:
    """Return all cells that come after these."""
    found: set[str] = set()
    reached = set(keys)
    while reached:
        reached = {key for key, (_, before) in cells.items() if reached & set(before)} - found
        found |= reached
    return found


def _num_counted(cells: Chain, keys: Iterable[str]) -> int:
    return sum(cells.get(key, ("", []))[0] in COUNTED for key in keys)


def _is_local(holder: Holder) -> bool:
    return holder["job"].startswith("local-")


def holder_dead(store: Store, holder: Holder) -> bool:
    """Tell whether the worker that holds a cell is surely gone."""
    if _is_local(holder):
        if not is_of_this_machine(holder):
            return is_silent(store, holder["submission"])
        alive = process_alive(holder["pid"], holder)
        # Another user's process may be hidden from us.
        return not alive and (holder.get("user") in (None, user()) or is_silent(store, holder["submission"]))
    if not slurm.is_of_this_cluster(store, holder):
        return False
    live = slurm.live_jobs(store, since=holder["time"] + slurm.GRACE_S)
    if live is None or any(holder["job"] in numbers for numbers in live.values()):
        return False
    return _is_visible(store, holder)


def _is_visible(store: Store, record: Holder | Submission) -> bool:
    """Return whether `squeue` shows us the jobs of this record's user, so that absence means something."""
    return record.get("user") in (None, user()) or slurm.sees_everybody(store)


def read_outline(folder: Path) -> Outline | None:
    """Return what a submission's driver wrote down, or None where it did not come so far."""
    try:
        return _outline(folder)
    except FileNotFoundError:
        return None


@cache
def _outline(folder: Path) -> Outline:
    """Read a record once: it never changes."""
    record = cast(Submission | None, read_json(folder / "submission.json"))
    if record is None:
        raise FileNotFoundError(folder)
    cells = {cell["key"]: (cell["kind"], list(cell["upstream"])) for cell in record.get("cells", [])}
    return Outline(folder, {**record, "cells": []}, cells)


def live_workers(store: Store, outline: Outline) -> int | None:
    """Return how many jobs of a submission may still wait or run; None: some, each for any number of cells."""
    record, jobs = outline.record, store.jobs(outline.folder.name)
    if jobs is None and is_of_this_machine(record) and process_alive(record["pid"], record):
        return None  # it is being submitted
    if record["site"]["executor"] != "slurm":
        if not is_of_this_machine(record):
            return 0 if is_silent(store, outline.folder.name) else None
        alive = [process_alive(int(job), record, later_s=60) for job in (jobs["jobs"] if jobs else [])]
        hidden = record.get("user") not in (None, user()) and not is_silent(store, outline.folder.name)
        return None if any(alive) or hidden else 0
    if not slurm.is_of_this_cluster(store, record):
        return None
    # By name: that finds orphans, whose submission was cut off before their ids were written down.
    live = slurm.live_jobs(store, since=(jobs or record)["time"] + slurm.GRACE_S)
    if live is None or (record["job_name"] not in live and not _is_visible(store, record)):
        return None
    num_jobs = len(live.get(record["job_name"], []))
    return num_jobs if num_jobs == 0 or record["site"].get("pack") else None


def gpus_in_use(store: Store) -> Counter[str]:
    """Return how many living workers of this machine and store have each of its GPUs."""
    used: Counter[str] = Counter()
    for path in store.submissions.glob("*/jobs.json"):
        outline, jobs = read_outline(path.parent), store.jobs(path.parent.name)
        if outline is not None and jobs is not None and is_of_this_machine(outline.record):
            for job, gpus in zip(jobs["jobs"], outline.record.get("gpus", []), strict=False):  # none: SLURM's, or a CPU
                if process_alive(int(job), outline.record, later_s=60):
                    used.update(gpus.split(","))
    return used


def submission_alive(store: Store, submission: str) -> bool:
    """Tell whether any job of a submission may still wait or run."""
    outline = read_outline(store.submissions / submission)
    return outline is not None and live_workers(store, outline) != 0
