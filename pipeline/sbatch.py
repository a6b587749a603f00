"""Submits the workers of one submission through submitit: to SLURM as job arrays, or as processes of this machine.

An array is no larger than the cluster allows, and no more workers run at once than the site's `workers`. sbatch is
tried again where its controller is busy. What it refuses is told apart: for now (LaterError), or for good
(JobsRefusedError).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cell import COUNTED, KINDS
from pipeline.cluster.site import divide, num_gpus
from pipeline.cluster.slurm import client_fault, max_array_size
from pipeline.records import Site, Submission
from pipeline.worker import Worker

FOREVER_MIN = 60 * 24 * 365
"""The time limit of a worker of this machine, which has none: submitit asks for one."""

ATTEMPTS = 8
"""How often sbatch is tried while its controller is busy, with pauses of 1, 2, 4 … s between: two minutes in all."""

PASSING_FAULTS = (
    *("Socket timed out", "Unable to contact", "temporarily", "try again", "Connection refused", "Transport"),
    *("Zero Bytes were transmitted or received", "Communication connection failure", "Message receive failure"),
    *("Message send failure", "I/O error writing script/environment to file", "Protocol authentication error"),
    "Slurm backup controller in standby mode",
)
"""What sbatch says when its controller is busy or down for a while."""

JOB_VARIABLES = ("SLURM_", "SLURMD_", "SRUN_")
"""Prefixes of the variables that SLURM sets in a job; sbatch, run in a job, would hand them on to the new one."""

CLUSTER_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK_")
"""Prefixes of those among them by which SLURM's commands find their cluster: they stay."""

TEAM_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
NOT_PASSED_ON = ("SBATCH_JOB_NAME", *TEAM_VARIABLES)
"""Variables hidden from sbatch: it would take the job's name from the first, by which we find our jobs again, and the
ranks of the new job would meet where those of the present one do.
"""

LASTING_FAULTS = ("configuration", "No such file", "cannot stat")
"""What SLURM's tools say where they find no configuration, which no waiting mends."""


class LaterError(RuntimeError):
    """The cluster takes no more jobs for now: a limit on submitted jobs, or a controller that is down."""


class LimitError(LaterError):
    """So many jobs are above a limit on submitted jobs; fewer may not be."""


class JobsRefusedError(RuntimeError):
    """Such jobs are never taken: no such partition, more memory than a node has, a misspelt keyword."""


def is_limit(refusal: str) -> bool:
    """Tell whether sbatch refused for the number of jobs there are, which passes as they end.

    Its last line is one for all limits ("job submit limit, user's size and/or time limits"); what SLURM calls the
    limit stands before it, where the site lets it be seen.
    """
    named = re.findall(r"\b(?:QOS|Assoc)\w+", refusal)
    if named:
        return any("Submit" in name for name in named)
    return "job submit limit" in refusal or "MaxSubmitJobs" in refusal or "MaxJobCount" in refusal


def num_workers(site: Site, kinds: list[str]) -> int:
    """Return how many workers cells of these kinds need: here as cores or as the site says, on SLURM as trainings."""
    if site["executor"] != "slurm":
        return min(site["workers"] or num_cores(), len(kinds))
    counted = sum(kind in COUNTED for kind in kinds) or len(kinds)
    return -(-counted // site["pack"]) if site["pack"] else min(site["workers"] or counted, counted)


def shares(site: Site, sizes: list[int]) -> list[int | None]:
    """Return how many workers each class of so many trainings may have at once: of the site's, and at least one.

    None: any number.
    """
    limit = site["workers"] or (None if site["executor"] == "slurm" else num_cores())
    if limit is None or len(sizes) == 1:
        return [site["workers"]] * len(sizes)
    return [*divide(limit, sizes, least=[1] * len(sizes))]


def num_cores() -> int:
    """Return how many cores this process may use: of a shared node a job has some, as `taskset` gives some."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Queue:
    """Sends the workers of one submission; `jobs` are the ids of those that were taken, also after an error."""

    def __init__(self, store_root: Path, record: Submission) -> None:
        self.store_root, self.record, self.site = store_root, record, record["site"]
        self.jobs: list[str] = []
        self.lanes: list[list[str]] = []

    def send(self, num_jobs: int) -> None:
        """Submit so many workers.

        Raises LaterError where the cluster takes no more for now, JobsRefusedError where it, or submitit, never takes
        such jobs.
        """
        snapshot = self.store_root / "snapshots" / self.record["snapshot"]
        os.environ["PYTHONPATH"] = _python_path(snapshot)  # jobs inherit it
        os.environ |= {name: str(self.site["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with contextlib.chdir(snapshot):  # and this: `python -m` looks here first
            if self.site["executor"] == "slurm":
                with _outside_of_jobs():
                    self._send_arrays(num_jobs)
            else:
                self._send_one(num_jobs, {})

    def _send_arrays(self, num_jobs: int) -> None:
        """Submit arrays whose throttles add up to the site's `workers`.

        Arrays share the throttle side by side, in lanes; where there are more of them than that, those of a lane wait
        for each other. What a limit on jobs refuses is halved until it is taken, or a single job is not.
        """
        largest = max_array_size()
        if largest is None:
            fault = client_fault()
            if any(word in fault for word in LASTING_FAULTS):
                raise JobsRefusedError(f"SLURM cannot be asked from here: {fault}")
            raise LaterError(f"SLURM's controller does not say how large an array may be: {fault}")
        size, throttle, sent = min(num_jobs, largest), self.site["workers"] or num_jobs, 0
        num_lanes = min(throttle, -(-num_jobs // size))
        self.lanes = [[] for _ in range(num_lanes)]
        number = 0
        while sent < num_jobs:
            count, lane = min(size, num_jobs - sent), number % num_lanes
            share = throttle // num_lanes + (lane < throttle % num_lanes)
            wait_for = [] if num_lanes == 1 and sent + count <= throttle else self.lanes[lane]
            try:
                array = self._send_one(count, _array(share, wait_for))
            except LimitError:
                if count == 1:
                    raise
                size = -(-count // 2)
                continue
            self.lanes[lane].append(array)
            sent, number = sent + count, number + 1

    def _send_one(self, count: int, parameters: dict[str, Any]) -> str:
        """Submit one array, or the workers of this machine; return the array's id."""
        import submitit

        site, record = self.site, self.record
        folder = self.store_root / "submissions" / record["submission"] / "jobs"
        executor = submitit.AutoExecutor(
            folder=folder,
            cluster=site["executor"],
            slurm_max_num_timeout=10**9,  # whether a cell is tried again is ours to decide
        )
        given: dict[str, Any] = {"timeout_min": FOREVER_MIN} | record["parameters"]
        if site["executor"] == "slurm":
            given |= {"name": record["job_name"]} | parameters
            given["slurm_setup"] = [*site["setup"], *given.get("slurm_setup", [])]
            cpus = given.get("slurm_cpus_per_task", given.get("cpus_per_task"))
            told = ["--export=ALL"]  # what the job has: a site's SBATCH_EXPORT=NONE would reach srun too
            if cpus is not None:  # from SLURM 22.05 on srun asks for one where it is not told itself
                told.append(f"--cpus-per-task={cpus}")
            given["slurm_srun_args"] = [*told, *given.get("slurm_srun_args", [])]
        try:
            executor.update_parameters(**given)
        except (NameError, AssertionError) as error:  # submitit's, of a keyword it does not know or that is no number
            raise JobsRefusedError(f"slurm/{os.environ.get('CLUSTER', 'local')}.yaml: {error}") from error
        ids = [job.job_id for job in _patiently(executor, self._workers(count))]
        self.jobs += ids
        return ids[0].split("_")[0]

    def _workers(self, count: int) -> list[Worker]:
        """Return so many workers, each with its own GPUs of this machine, or with those that SLURM will give it."""
        record, computes = self.record, any(cell["kind"] in KINDS for cell in self.record["cells"])
        asked = len(record["gpus"]) if self.site["executor"] == "local" else num_gpus(record["parameters"])
        worker = Worker(str(self.store_root), record["submission"], self.site["pack"], needs_gpu=computes and asked > 0)
        return [replace(worker, gpus=gpus) for gpus in record["gpus"][:count]] or [worker] * count


def _python_path(snapshot: Path) -> str:
    """Return where jobs import from: the snapshot, then the driver's folders, as those of a cluster's modules."""
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(snapshot), *(path for path in before if Path(path).is_absolute())])


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide what new jobs would inherit from a driver that itself runs in one, as under `srun --pty` or in Jupyter."""
    inherited = [
        name for name in os.environ if name.startswith(JOB_VARIABLES) and not name.startswith(CLUSTER_VARIABLES)
    ]
    hidden = {name: os.environ.pop(name) for name in (*inherited, *NOT_PASSED_ON) if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden


def _array(throttle: int, wait_for: list[str]) -> dict[str, Any]:
    """Return submitit's keywords for an array of a lane that goes on when the earlier ones have ended."""
    after = {"slurm_dependency": "afterany:" + ":".join(wait_for)} if wait_for else {}
    return {"slurm_array_parallelism": throttle} | after


def _patiently(executor: Any, workers: list[Worker]) -> list[Any]:
    """Submit one array, again and again while SLURM's controller is busy or restarting."""
    from submitit.core.utils import FailedJobError

    for attempt in range(ATTEMPTS):
        try:
            with executor.batch():
                jobs = [executor.submit(worker) for worker in workers]
            return jobs
        except FailedJobError as error:
            text = str(error)
            if is_limit(text):
                raise LimitError(f"the cluster takes no more jobs for now: {text.strip()}") from error
            if not any(word in text for word in PASSING_FAULTS):
                raise JobsRefusedError(f"sbatch refused the jobs: {text}") from error
            if attempt == ATTEMPTS - 1:
                raise LaterError(f"SLURM's controller does not answer: {text.strip()}") from error
            time.sleep(2.0**attempt)
    raise AssertionError
