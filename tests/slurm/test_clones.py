"""Two clones that share one cache on a real SLURM: they share the work, and one takes MLflow over from the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from pipeline.spool import curves
from pipeline.store import Store
from tests.pipeline.conftest import Lab
from tests.slurm.driving import write_site
from tests.slurm.test_repro import begun, cells_of
from tests.test_end_to_end import Copy

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
ELSEWHERE = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")
"""Runs a command on a machine of another name, as far as it can tell."""


@pytest.fixture(scope="module")
def clones(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> list[Copy]:
    """Two copies of the project at toy size, in which nothing was run, with one `cache.dir`."""
    assert cluster
    folder = tmp_path_factory.mktemp("clones")
    made = [Copy(folder / name) for name in ("first", "second")]
    for clone in made:
        clone.environment["CLUSTER"] = "test"
        write_site(clone.folder, {"cpus_per_task": 4}, workers=3, pack=None)
        clone.run("dvc", "cache", "dir", "--local", str(folder / "cache"))
    assert made[0].store.root == made[1].store.root == folder / "cache" / "cells"
    return made


def repro(clone: Copy, table: str) -> subprocess.Popen[bytes]:
    command, log = ["dvc", "repro", f"tables@{table}"], (clone.folder.parent / f"{clone.folder.name}.log").open("wb")
    with log:
        return subprocess.Popen(
            command, cwd=clone.folder, env=clone.environment, stdout=log, stderr=log, start_new_session=True
        )


def test_two_drivers_at_once_begin_every_cell_once_and_make_equal_tables(clones: list[Copy]) -> None:
    drivers = [repro(clone, "table_a6") for clone in clones]
    assert [driver.wait(timeout=500) for driver in drivers] == [0, 0]
    assert begun(clones[0]) == Counter(list(cells_of(clones[0], "table_a6")))
    for name in ("metrics/table_a6.json", "tables/table_a6.md", "tables/table_a6.csv"):
        left, right = [(clone.folder / "reports" / "smoke" / name).read_bytes() for clone in clones]
        assert left == right


def ingesters(clones: list[Copy]) -> list[psutil.Process]:
    """The ingesters that one of the clones started."""
    found, folders = [], [clone.folder for clone in clones]
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-2:] == ["track", "--follow"] and Path(process.cwd()) in folders:
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_complete(store: Store, keys: dict[str, str], table: str) -> None:
    """MLflow has one run for each training and warm start and one for the table, and each point of a spool once."""
    lab = Lab(store.root.parent)
    runs = {key: run for key, run in lab.runs().items() if f"table.{table}" in run["tags"] or key == f"{table}@smoke"}
    trained = {key for key, kind in keys.items() if kind in ("warm_start", "train")}
    assert set(runs) == {*trained, f"{table}@smoke"}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert lab.query("select 1 from metrics group by run_uuid, key, step having count(*) > 1") == []
    for key in trained:
        counted = "select key, count(*) from metrics where run_uuid = '{}' group by key".format(runs[key]["id"])
        found, wanted = dict(lab.query(counted)), curves(store.done(key) / "spool.jsonl")
        assert {name: found[name] for name in wanted} == {name: len(points) for name, points in wanted.items()}


@pytest.mark.skipif(
    subprocess.run([*ELSEWHERE, "true"], capture_output=True).returncode != 0,
    reason="`unshare --uts` is not permitted here: it gives a process a host name of its own",
)
def test_with_driver_and_ingester_killed_another_machine_brings_mlflow_up_to_the_jobs(
    clones: list[Copy], cluster: Cluster
) -> None:
    first, second = clones
    second.run("dvc", "repro", "cells")
    ended = first.events()["done"]
    driver = repro(first, "table_7")
    cluster.wait_for(lambda: first.events()["done"] >= ended + 3 and bool(ingesters(clones)), seconds=240)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    for process in ingesters(clones):
        process.kill()
    keys = {key: cell.kind for key, cell in cells_of(second, "table_7").items()}
    second.run(*ELSEWHERE, sys.executable, "-m", "pipeline", "track", "--follow")
    assert all(second.store.is_done(key) for key in keys)
    assert {begun(second)[key] for key in keys} == {1}
    assert_complete(second.store, keys, "table_7")
    second.run(*ELSEWHERE, sys.executable, "-m", "pipeline", "track")
    assert_complete(second.store, keys, "table_7")
