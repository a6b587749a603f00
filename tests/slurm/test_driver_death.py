"""A driver that is killed with -9 around sbatch, on a cluster of short arrays: the next one begins every cell once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.store import Store
from tests.pipeline.test_kill_points import DIE, DRIVER
from tests.slurm.driving import SUBMIT, finish, sleeper, starts

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
SLURM = {
    "before sbatch": """
import pipeline.sbatch as sbatch
sbatch._patiently = die
""",
    "after sbatch": """
import pipeline.sbatch as sbatch
patiently = sbatch._patiently
sbatch._patiently = lambda *given: (patiently(*given), die())
""",
    "between arrays": """
import pipeline.sbatch as sbatch
send_one = sbatch.Queue._send_one
sbatch.Queue._send_one = lambda queue, *given: die() if queue.jobs else send_one(queue, *given)
""",
}
"""Where the driver dies: ready to call sbatch, with its answer, with that of the first of several arrays."""

TAKEN = {"claim": 0, "intent": 0, "before sbatch": 0, "after sbatch": 4, "between arrays": 4, "sbatch": 9, "record": 9}
"""How many jobs the cluster has by then: arrays are of four tasks at most."""


def test_killed_anywhere_around_sbatch_a_driver_costs_no_second_computation(
    running_cluster: Callable[..., AbstractContextManager[Cluster]], make_site: Callable[..., Path]
) -> None:
    """All of these stores are on one cluster at the same time: what dies in one is nothing to the others."""
    with running_cluster("--no-accounting", "--max-array-size=4") as cluster:
        site = make_site(workers=12)
        cells = {point: [sleeper(number, 0.3, point) for number in range(9)] for point in TAKEN}
        for point, num_jobs in TAKEN.items():
            store = Store(site / point.replace(" ", "-") / "cells")
            given = json.dumps([str(store.root), str(site), [cell.to_json() for cell in cells[point]]])
            code = DIE + (DRIVER | SLURM)[point] + SUBMIT
            killed = subprocess.run([sys.executable, "-c", code], input=given, text=True, cwd=site)
            assert killed.returncode == -signal.SIGKILL, point
            assert not list(store.submissions.glob("*/jobs.json")) or point == "record"
            submitted = cluster.run("squeue", "-h", "-r", "-t", "all", "-o", "%Z").splitlines()
            assert sum(folder.startswith(str(store.root)) for folder in submitted) == num_jobs, point
        for point in TAKEN:
            store = finish(site, cells[point], root=site / point.replace(" ", "-") / "cells")
            assert starts(store) == sorted(cell.key for cell in cells[point]), point
