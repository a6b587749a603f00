"""What a cluster and its other users may expect of us: throttles, limits, few questions, no database on nodes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.files import read_json
from pipeline.store import Store, find_store
from tests.slurm.driving import (
    finish,
    most_at_once,
    send,
    sleeper,
    slow_down,
    starts,
    u2pl_cells,
)

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]
Make = Callable[..., Path]


def jobs_of(store: Store) -> list[str]:
    """The ids of all jobs that were submitted."""
    return [job for path in store.submissions.glob("*/jobs.json") for job in (read_json(path) or {})["jobs"]]


def test_a_controller_that_restarts_while_cells_run_loses_and_repeats_nothing(site: Path, cluster: Cluster) -> None:
    """Stopped once while jobs wait and run, for longer than a driver takes to call an unknown job dead."""
    cells, store = [sleeper(number, 5.0) for number in range(10)], Store(find_store(site))
    send(site, cells)
    cluster.wait_for(lambda: any(store.state(cell.key) == "running" for cell in cells))

    def restart() -> None:
        cluster.stop("slurmctld")
        time.sleep(7)
        cluster.start("slurmctld")

    restarting = threading.Thread(target=restart)
    restarting.start()
    finish(site, cells)
    restarting.join()
    assert starts(store) == sorted(cell.key for cell in cells)
    assert len(jobs_of(store)) == len(cells)
    cluster.wait_for(cluster.idle)


def test_no_more_workers_run_at_once_than_the_site_says(make_site: Make, cluster: Cluster) -> None:
    assert cluster
    site, cells = make_site(workers=2), [sleeper(number, 2.0) for number in range(6)]
    send(site, cells)
    assert most_at_once(finish(site, cells)) <= 2


def test_a_job_of_a_pack_runs_as_many_cells(make_site: Make, cluster: Cluster) -> None:
    assert cluster
    site, cells = make_site(pack=3), [sleeper(number, 0.5) for number in range(8)]
    send(site, cells)
    store = finish(site, cells)
    assert len(jobs_of(store)) == 3
    ran = Counter(line["job"] for line in store.executions() if line["event"] == "start")
    assert ran.total() == 8
    assert max(ran.values()) <= 3


def test_workers_run_where_mlflow_cannot_be_imported_and_open_no_database(
    site: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot from which jobs run gets modules that refuse to load, and the address leads nowhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    slow_down(site, 0.05)
    code = "from pipeline.launch import *; print(take_snapshot(open_store(Path.cwd())))"
    taken = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=site)
    snapshot = Path(taken.stdout.strip())
    for module in ("mlflow", "sqlalchemy", "sqlite3"):
        (snapshot / f"{module}.py").write_text(f"raise ImportError('a worker imported {module}')\n")
    cells, store = u2pl_cells(epochs=4), Store(find_store(site))
    send(site, cells)
    cluster.wait_for(lambda: store.state(cells[1].key) == "running", seconds=120)
    worker = Path("/proc") / str((store.holder(cells[1].key) or {})["pid"])
    assert str(snapshot) in (worker / "environ").read_text()
    assert not any(".db" in str(link.readlink()) for link in (worker / "fd").iterdir() if link.is_symlink())
    finish(site, cells)
    assert not list(store.root.parent.glob("*.db"))
