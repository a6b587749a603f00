"""What SLURM is asked: which of our jobs wait, run or ended, and how large an array may be. As seldom as possible.

All drivers of a store share one answer of `squeue`, also the answer that there is none: at most one is asked for in
SQUEUE_S, and none while another process still waits for it. Where users may not see each other's jobs, each has an
answer of their own, and so has each of several clusters. `sacct` is asked as seldom, only about jobs that died and that
the controller has forgotten.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.origin import user
from pipeline.files import modified, read_json, try_lock, write_json
from pipeline.records import Holder, Submission
from pipeline.store import Store

SQUEUE_S = 30.0
"""At most one `squeue`, and one `sacct`, in so many seconds, for all drivers of a store together."""

JOB_PREFIX = "cells-"
"""How the names of all our jobs begin."""

GRACE_S = 60.0
"""How long a job may be unknown to `squeue` after its submission."""

COMMAND_S = 60.0
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
OPTION_VARIABLES = ("SQUEUE_", "SACCT_", "SCANCEL_")
"""Prefixes of the variables in which a user may keep options of SLURM's commands."""

FIELDS = "Name:|,JobArrayID:|,State:|,exit_code:|,UserName:|,Reason:|,WorkDir:"
ENDED_STATES = (
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("REVOKED", "TIMEOUT"),
)
"""SLURM's states of jobs that neither wait nor run."""

TAKEN_AWAY = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED")
"""Those among them in which the cluster, or somebody, ended the job: that says nothing about its cell."""


@dataclass(frozen=True)
class Job:
    """A job as `squeue -t all` prints it. `status` is what `wait` would return: a signal, or an exit code * 256.

    `reason` is why it waits.
    """

    name: str
    number: str
    state: str
    status: str
    user: str
    folder: str
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Return whether it neither waits nor runs."""
        return self.state in ENDED_STATES


def jobs(store: Store, since: float = 0.0) -> list[Job] | None:
    """Return the jobs for cells that this user may see, those that ended some minutes ago included.

    The answer may be SQUEUE_S old but was asked after `since` (the store's clock). None where SLURM gives no answer,
    or none so young: then nothing is known, and nothing may be called dead.
    """
    name = cluster(store)
    if name is None:
        return None
    path = store.root / ".".join(["squeue", name, *([] if sees_everybody(store) else [user()]), "json"])
    known = read_json(path)
    if not _is_young(store, known):
        try:
            known = _ask_for_all(store, path)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            known = _unshared.get(store.root)
            if not _is_young(store, known):
                known = _unshared[store.root] = _ask(store)
    if known is None or known["jobs"] is None or known["time"] < since:
        return None
    reasons = known.get("reasons", {})  # beside the jobs: drivers of older code read these too, and have none
    return [Job(*(*fields, reasons.get(fields[1], ""))) for fields in known["jobs"]]


def live_jobs(store: Store, since: float = 0.0) -> dict[str, list[str]] | None:
    """Return the waiting and running ones of `jobs`: job name -> ids as `squeue -r` prints them."""
    listing = jobs(store, since)
    if listing is None:
        return None
    live: dict[str, list[str]] = {}
    for job in listing:
        if not job.ended:
            live.setdefault(job.name, []).append(job.number)
    return live


def _is_young(store: Store, known: dict[str, Any] | None) -> bool:
    return known is not None and 0 <= store.now() - known["time"] <= SQUEUE_S


_unshared: dict[Path, dict[str, Any]] = {}
"""What this process was told for a store that it may only read."""


def _ask_for_all(store: Store, path: Path) -> dict[str, Any] | None:
    """Ask, and write down what was said; None where another process is asking."""
    lock = try_lock(path.with_suffix(".lock"))
    if lock is None:
        return None
    with lock:
        known = read_json(path)
        if known is None or not _is_young(store, known):
            known = _ask(store)
            write_json(path, known)
        return known


def _ask(store: Store) -> dict[str, Any]:
    """Return the answer of `squeue`, or that it gave none, and when."""
    asked = store.now()
    listing = _output(["squeue", "-a", "-h", "-r", "-t", "all", "-O", FIELDS])  # -a: in hidden partitions too
    known: dict[str, Any] = {"time": store.now(), "jobs": None}  # of no answer: when it was given up
    if listing is not None:
        lines = [line.strip().split("|", 6) for line in listing.splitlines() if line.startswith(JOB_PREFIX)]
        ours = [fields for fields in lines if len(fields) == 7]
        known = {"time": asked, "jobs": [[*fields[:5], fields[6]] for fields in ours]}
        known["reasons"] = {fields[1]: fields[5] for fields in ours if fields[2] == "PENDING"}
    return known


def causes_of_death(store: Store, numbers: list[str]) -> dict[str, str] | None:
    """Tell why jobs ended: for want of `memory` or `time`, taken away by the `cluster`, or `unknown`.

    None: it has to be asked again, later. Signal 9 is how the kernel takes memory; with it SLURM also ends what is
    cancelled, preempted or out of time.
    """
    listing = jobs(store)
    if listing is None:
        return None
    told = {job.number: _cause(job.state, job.status) for job in listing if job.ended}
    unknown = [number for number in numbers if number not in told]
    if unknown:
        accounts = _accounts(store, unknown)
        if accounts is None:
            return None
        told |= accounts
    return {number: told.get(number, "unknown") for number in numbers}


def _cause(state: str, status: str) -> str:
    if state.startswith(TAKEN_AWAY):  # accounting writes `CANCELLED by 1000`
        return "cluster"
    if state == "TIMEOUT":
        return "time"
    return "memory" if _of_memory(state, status) else "unknown"


def _of_memory(state: str, status: str) -> bool:
    """`status` is that of `wait`, or accounting's `code:signal`, which may write the shell's 137 as 9."""
    if state == "FAILED" and ":" in status:
        code, signal = status.split(":")
        return signal == "9" or code in ("9", "137")
    return state == "OUT_OF_MEMORY" or (state == "FAILED" and status in ("9", str(137 * 256)))


def _accounts(store: Store, numbers: list[str]) -> dict[str, str] | None:
    """Ask accounting about jobs, unless it was asked just now."""
    path = store.root / "sacct.json"
    lock = try_lock(path.with_suffix(".lock"))
    if lock is None:
        return None
    with lock:
        if _is_young(store, read_json(path)):
            return None
        write_json(path, {"time": store.now()})
        listing = _output(["sacct", "-n", "-P", "-X", "-j", ",".join(numbers), "-o", "JobID,State,ExitCode"]) or ""
    found = [line.split("|") for line in listing.splitlines()]
    return {fields[0]: _cause(*fields[1:]) for fields in found if len(fields) == 3}


def sees_everybody(store: Store) -> bool:
    """Return whether `squeue` shows the jobs of all users: with PrivateData=jobs a colleague's seem to be gone."""
    private = _setting("PrivateData", "jobs", store=store)
    return private is not None and "jobs" not in private.split(",")


def max_array_size() -> int | None:
    """Return how many tasks one job array may have (1000 where SLURM does not say); None where it does not answer."""
    size = _setting("MaxArraySize", "1000")
    return None if size is None else int(size)


def cluster(store: Store | None = None) -> str | None:
    """Return the name of the cluster that is asked; None where it does not answer."""
    return _setting("ClusterName", "cluster", store=store)


def is_of_this_cluster(store: Store, record: Holder | Submission) -> bool:
    """Return whether the jobs of a record are those of the cluster that is asked; older records do not say."""
    return record.get("cluster") in (None, cluster(store))


def _setting(name: str, default: str, *, store: Store | None = None) -> str | None:
    """Return one value of SLURM's configuration; None where SLURM does not answer."""
    told = _configuration(store)
    found = re.search(rf"\b{name}\s*=\s*(\S+)", told or "")
    return None if told is None else found.group(1) if found else default


CONFIGURATION = ["scontrol", "show", "config"]
_told: list[str] = []
"""Its answer, once there is one: no cluster changes it while a stage runs."""


def _configuration(store: Store | None = None) -> str | None:
    """Return what SLURM says of itself. A process asks until it has an answer.

    With a store, one process of its drivers at a time, and where there is no answer as seldom as `squeue`.
    """
    if _told:
        return _told[0]
    try:
        answer = _output(CONFIGURATION) if store is None else _ask_courteously(store)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        answer = _output(CONFIGURATION)
    if answer is not None:
        _told.append(answer)
    return answer


def _ask_courteously(store: Store) -> str | None:
    silent = store.root / "slurm.silent"
    lock = try_lock(silent.with_suffix(".lock"))
    if lock is None:
        return None
    with lock:
        since = modified(silent)
        if since is not None and 0 <= store.now() - since <= SQUEUE_S:
            return None
        answer = _output(CONFIGURATION)
        if answer is None:
            silent.write_text(".", encoding="utf-8")
        else:
            silent.unlink(missing_ok=True)
        return answer


def client_fault() -> str:
    """Return what SLURM's own tool says where it cannot ask the controller."""
    try:
        result = _run(CONFIGURATION)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return str(error)
    return result.stderr.strip() if result.returncode else ""


def cancel_jobs(numbers: list[str]) -> None:
    """Cancel jobs by id; ids that ended already do no harm."""
    if numbers:
        _output(["scancel", *numbers])


def cancel_pending(name: str) -> None:
    """Cancel those jobs of a name that have not begun."""
    _output(["scancel", "--state=PENDING", f"--name={name}"])


def _output(command: list[str]) -> str | None:
    try:
        result = _run(command)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of SLURM's as if its user had no habits: SQUEUE_PARTITION, say, would hide jobs from everybody.

    Names of strangers' jobs are bytes in any encoding.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OPTION_VARIABLES)}
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "timeout": COMMAND_S, "env": environment}
    return subprocess.run(command, capture_output=True, check=False, **options)
