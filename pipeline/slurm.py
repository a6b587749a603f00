"""What SLURM is asked: which of our jobs wait or run, and how large an array may be. As seldom as possible."""

from __future__ import annotations

import re
import subprocess

from pipeline.store import Store, read_json, write_json

SQUEUE_S = 30.0
"""At most one `squeue` in so many seconds, for all drivers of a store together."""

JOB_PREFIX = "cells-"
"""How the names of all our jobs begin."""

GRACE_S = 60.0
"""How long a job may be unknown to `squeue` after its submission."""

COMMAND_S = 60.0


def live_jobs(store: Store, since: float = 0.0) -> dict[str, list[str]] | None:
    """Return everybody's waiting and running jobs for cells, job name -> ids as `squeue -r` prints them.

    The answer may be SQUEUE_S old but was asked after `since` (the store's clock). None where SLURM gives no answer,
    or none so young: then nothing is known, and nothing may be called dead.
    """
    path = store.root / "squeue.json"
    known = read_json(path)
    asked = store.now()
    if known is None or not 0 <= asked - known["time"] <= SQUEUE_S:
        listing = _output(["squeue", "-h", "-r", "-o", "%j|%i"])
        if listing is None:
            return None
        jobs_of_cells = [line.split("|") for line in listing.splitlines() if line.startswith(JOB_PREFIX)]
        known = {"time": asked, "jobs": jobs_of_cells}
        write_json(path, known)
    if known["time"] < since:
        return None
    jobs: dict[str, list[str]] = {}
    for name, number in known["jobs"]:
        jobs.setdefault(name, []).append(number)
    return jobs


def max_array_size() -> int:
    """Return how many tasks one job array may have (MaxArraySize; 1000 where SLURM does not say)."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _output(["scontrol", "show", "config"]) or "")
    return int(found.group(1)) if found else 1000


def died_of_memory(job: str) -> bool:
    """Tell whether SLURM knows that a job ended for want of memory, or was killed with signal 9 as the kernel does.

    Asks the controller, which forgets a job after some minutes, then accounting, which may lag by some seconds and
    writes the shell's status 137 as 9. Unknown: False.
    """
    shown = _output(["scontrol", "show", "job", "-o", job]) or ""
    ended = " ".join(re.findall(r"(?:JobState|ExitCode)=(\S+)", shown))
    ended = ended or _output(["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,ExitCode"]) or ""
    return "OUT_OF_MEMORY" in ended or re.search(r"\b(137:0|9:0|\d+:9)\b", ended) is not None


def cancel_jobs(numbers: list[str]) -> None:
    """Cancel jobs by id; ids that ended already do no harm."""
    if numbers:
        subprocess.run(["scancel", *numbers], capture_output=True, timeout=COMMAND_S, check=False)


def _output(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
