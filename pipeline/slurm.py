"""What SLURM is asked: which of our jobs wait or run, and how large an array may be. As seldom as possible."""

from __future__ import annotations

import getpass
import re
import subprocess
import time

from pipeline.store import Store, read_json, write_json

SQUEUE_S = 30.0
"""At most one `squeue` in so many seconds, for all drivers of a store together."""

GRACE_S = 60.0
"""How long a job may be unknown to `squeue` after its submission."""

COMMAND_S = 60.0


def live_jobs(store: Store, since: float = 0.0) -> dict[str, list[str]] | None:
    """Return this user's waiting and running jobs, job name -> ids as `squeue -r` prints them.

    The answer may be SQUEUE_S old but was asked after `since` (seconds since the epoch). None where SLURM gives no
    answer, or none so young: then nothing is known, and nothing may be called dead.
    """
    path = store.root / "squeue.json"
    known = read_json(path)
    if known is None or time.time() - known["time"] > SQUEUE_S:
        asked = time.time()
        command = ["squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%j|%i"]
        listing = _output(command)
        if listing is None:
            return None
        known = {"time": asked, "jobs": [line.split("|") for line in listing.splitlines() if "|" in line]}
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
