"""What the controller and its other users may expect of us: few questions, throttles and limits that are kept."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.store import Store, find_store
from tests.slurm.driving import finish, most_at_once, send, sleeper, starts

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]
Make = Callable[..., Path]
WAIT = """
import json, sys
from pathlib import Path
from pipeline import attach
from pipeline.cluster import slurm
from pipeline.cell import from_json
from pipeline.store import Store
store, cells = json.load(sys.stdin)
slurm.SQUEUE_S, attach.LIVENESS_S = 6.0, 0.5
keyed = {cell["key"]: from_json(cell) for cell in cells}
sys.exit(len(attach.wait(Store(Path(store)), keyed, start=lambda: sys.exit("something was missing"), title="test")))
"""
"""A driver that waits for cells somebody submitted, and looks far more often than it may ask."""


def note_calls(names: Sequence[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """Put scripts of the same names before SLURM's commands in the path; return what reads when they were called."""
    (folder / "bin").mkdir()
    for name in names:
        script = f'#!/bin/sh\necho {name} $(date +%s.%N) >> {folder}/calls\nexec /usr/bin/{name} "$@"\n'
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")
    return lambda: sorted(float(line.split()[1]) for line in (folder / "calls").read_text().splitlines())


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "unanswered"])
def test_several_waiting_drivers_together_ask_no_more_often_than_one_may(
    answers: bool, site: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells, store = [sleeper(number, 16.0) for number in range(3)], Store(find_store(site))
    send(site, cells)
    cluster.wait_for(lambda: all(store.state(cell.key) == "running" for cell in cells))
    names = ("squeue", "sacct") if answers else ("squeue", "sacct", "scontrol")  # which each driver asks once
    calls = note_calls(names, tmp_path, monkeypatch)
    if not answers:
        cluster.stop("slurmctld")
    given = json.dumps([str(store.root), [cell.to_json() for cell in cells]])
    drivers = [subprocess.Popen([sys.executable, "-c", WAIT], stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for driver in drivers:
        assert driver.stdin is not None
        driver.stdin.write(given)
        driver.stdin.close()
    ended, asked = [driver.wait(timeout=120) for driver in drivers], calls()
    if not answers:
        cluster.start("slurmctld")
        cluster.wait_for(cluster.idle)
    assert ended == [0, 0, 0]
    assert asked
    assert all(later - earlier > 5.5 for earlier, later in itertools.pairwise(asked))


def test_no_more_workers_run_at_once_than_the_site_says_although_arrays_are_short(
    running_cluster: Start, make_site: Make
) -> None:
    with running_cluster("--no-accounting", "--max-array-size=4"):
        site, cells = make_site(workers=2), [sleeper(number, 2.0) for number in range(9)]
        send(site, cells)
        assert most_at_once(finish(site, cells)) <= 2


def test_a_stage_ends_well_where_a_user_may_have_few_jobs_at_once(running_cluster: Start, make_site: Make) -> None:
    """Four jobs at most wait and run, ten cells are to be submitted, a job each."""
    user = os.environ.get("USER", "root")
    with running_cluster("--set", "AccountingStorageEnforce=limits") as cluster:
        cluster.run("sacctmgr", "-i", "add", "account", "few", "MaxSubmitJobs=4")
        cluster.run("sacctmgr", "-i", "add", "user", user, "account=few")
        cluster.wait_for(lambda: "few" in cluster.run("scontrol", "show", "assoc_mgr", "flags=assoc"))
        site, cells = make_site({"slurm_account": "few"}), [sleeper(number, 0.5) for number in range(10)]
        store = finish(site, cells)
        assert starts(store) == sorted(cell.key for cell in cells)
