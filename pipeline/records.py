"""What lies in the store: its folders, who writes each and when, and the keys of the JSON records in them.

    claims/<key>.json        `Claim`: which submission owns the cell. Made by a launch before it submits; removed when
                             the cell has ended, was retried, or its submission is gone
    work/<key>/              a cell under way, written by the worker that holds it, and kept when it lets go:
        holder.json          `Holder`: that worker, made exclusively; absent while none has the cell
        cell.json            the cell's kind, values and upstream
        checkpoint.pt, spool.jsonl, log.txt, restarts.json, reserve
        last-words.json      written by another rank of a cell on several GPUs, as it fails
        let-go               written by a worker that found the data changed, before it lets go of the cell
    done/<key>/              a result, never changed: the work folder, renamed by its worker as it publishes, or what
                             `adopt` took from git and the DVC cache
    failed/<key>.json        `Ending`: by the worker that crashed, or by a driver, the ingester or a launch that gives
                             up on the cell
    cancelled/<key>.json     `Ending`: by `python -m pipeline cancel`; it goes with `retry`, as a failure does
    submissions/<id>/        cells that a launch submitted together:
        submission.json      `Submission`: by the launch, before it claims and submits
        jobs.json            `Jobs`: by the launch, when it has submitted
        jobs/                submitit's: what its jobs run, and their output
        pulse                touched by the workers of one machine while they live
        interrupted          by a driver, where Ctrl-C ended those workers
    snapshots/<digest>/      the code that jobs run, copied by a launch
    patches/<digest>.diff    how the sources of a submission differ from their commit, by a launch
    waiting/<id>.json        `Mark`: by a driver, for as long as it waits
    executions.<host>.jsonl  one line for each start, resume, loss and end of a cell, by whoever saw to it on that host
    tracking/                the ingester's lock and log; below it, for each MLflow database, what was sent of each run
    squeue.*.json, sacct.json, slurm.silent
                             what SLURM answered last and when, by the driver that asked, for all others

A file beside these whose name begins with a dot is being written; `.lock` files are held by open processes. What is
claimed, held, waiting or submitted by a process that died is cleared by drivers and the ingester
(`cluster/liveness.py`), what a kill left half written by `doctor`, and what nobody needs any more by `gc`.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

State = Literal["done", "failed", "cancelled", "running", "queued", "missing"]
GIVEN_UP: tuple[State, ...] = ("failed", "cancelled")
"""Ended without a result; `retry` brings them back."""

ENDED: tuple[State, ...] = ("done", *GIVEN_UP)
UNDER_WAY: tuple[State, ...] = ("queued", "running")


class Origin(TypedDict):
    """Where a record was written: what tells apart processes that have one number. The oldest records have a host."""

    host: str
    namespace: str
    boot: float
    boot_id: str


class Written(Origin):
    """An origin, and when that was: by the clock of the store's file system, and by the host's own."""

    time: float
    clock: float


class Site(TypedDict):
    """A site's file, `slurm/<CLUSTER>.yaml`."""

    executor: str
    workers: int | None
    threads: int
    pack: int | None
    parameters: dict[str, Any]
    kinds: dict[str, dict[str, Any]]
    datasets: dict[str, dict[str, Any]]
    setup: list[str]


class Claim(TypedDict):
    """Which submission owns a cell, and since when."""

    submission: str
    time: float


class WorkerFacts(Origin):
    """What a worker says of itself. `job` is as `squeue -r` prints it, or `local-<pid>` on one machine."""

    submission: str
    pid: int
    job: str
    user: str
    cluster: str | None


class Holder(WorkerFacts, Written):
    """The worker that has a cell: `token` is its right to publish, `restarts` how often the cell was resumed."""

    token: str
    restarts: int


class Sources(TypedDict):
    """The code that a submission was made from; `patch` names how it differs from the commit."""

    commit: str | None
    dirty: bool
    patch: str | None


class LaunchFacts(Sources, Origin):
    """What all submissions of one launch have in common."""

    user: str
    pid: int
    root: str
    snapshot: str
    dvc_stage: str | None
    dvc_experiment: str | None
    data_root: str
    data: dict[str, str]
    tables: dict[str, list[str]]
    cluster: str | None


class Submission(LaunchFacts, Written):
    """Cells that were submitted together. `site["workers"]` is their share of the site's.

    `parameters` are submitit's, `gpus` those of each worker of one machine, `tables` the keys that each table needs.
    """

    submission: str
    job_name: str
    site: Site
    parameters: dict[str, Any]
    gpus: list[str]
    threads: int
    cells: list[dict[str, Any]]


class Jobs(TypedDict):
    """The ids of a submission's jobs as submitit has them, and when the last was submitted."""

    jobs: list[str]
    time: float


class Ending(TypedDict):
    """Why a cell ended without a result; `before` is the cell before it because of which it did."""

    reason: str
    time: float
    name: NotRequired[str]
    log: NotRequired[str]
    before: NotRequired[str]


class Mark(TypedDict):
    """A driver waits for a table, e.g. `embedded/table_7`, whose rows need the cells `keys`."""

    table: str
    keys: list[str]
