"""Literal `dvc repro` on a real SLURM: one command submits everything, and its death costs nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.cell import Cell, chain, read_rows
from pipeline.files import read_json
from tests.slurm.driving import write_site
from tests.test_end_to_end import Copy

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
PARAMETERS = {"cpus_per_task": 4}


@pytest.fixture(scope="module")
def copy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy of the project at toy size on the cluster that all tests share, in which nothing was run."""
    made = Copy(tmp_path_factory.mktemp("copy"))
    made.environment["CLUSTER"] = "test"
    write_site(made.folder, PARAMETERS, workers=3, pack=None)
    assert cluster
    return made


def cells_of(copy: Copy, *tables: str) -> dict[str, Cell]:
    rows = [row for table in tables for row in read_rows(copy.folder / "reports/smoke/cells" / f"{table}.json")]
    return {cell.key: cell for row in rows for cell in chain(row)}


def begun(copy: Copy) -> Counter[str]:
    """How often each cell was begun or resumed."""
    return Counter(line["key"] for line in copy.store.executions() if line["event"] in ("start", "resume"))


def finished_runs(copy: Copy) -> set[str]:
    """The keys of the cells whose runs MLflow calls finished."""
    path = copy.store.root.parent / "mlflow.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "select tags.value from tags join runs using (run_uuid) where key = 'cell_key' and status = 'FINISHED'"
        )
        return {key for (key,) in rows}


def measured(copy: Copy, table: str) -> list[dict[str, Any]]:
    """The rows of a table without what tells of the place and the time at which they were computed."""
    rows = json.loads((copy.folder / "reports/smoke/metrics" / f"{table}.json").read_text())
    elsewhere = ("provenance", "train_s", "evaluate_s", "peak_memory_mib")
    return [{name: value for name, value in row.items() if name not in elsewhere} for row in rows]


def test_one_repro_submits_all_stages_before_its_first_cell_stage_ends(copy: Copy) -> None:
    tables = ("table_a5", "table_a6")
    copy.run("dvc", "repro", *(f"tables@{table}" for table in tables))
    folders = list(copy.store.submissions.iterdir())
    submitted = [cell["key"] for folder in folders for cell in (read_json(folder / "submission.json") or {})["cells"]]
    assert sorted(submitted) == sorted(cells_of(copy, *tables))
    manifests = [copy.folder / "runs/smoke/warm_start" / table / "manifest.json" for table in tables]
    first_stage_ended = min(path.stat().st_mtime for path in manifests)
    assert max((folder / "jobs.json").stat().st_mtime for folder in folders) < first_stage_ended
    assert begun(copy) == Counter(submitted)
    assert all((copy.folder / "reports/smoke/tables" / f"{table}.md").exists() for table in tables)


def test_killed_with_its_stage_the_driver_goes_on_where_the_jobs_are(copy: Copy, cluster: Cluster) -> None:
    """Meanwhile the jobs compute and the ingester, which outlives it, brings MLflow up to them."""
    before, ended = len(list(copy.store.submissions.iterdir())), copy.events()["done"]
    command = ["dvc", "repro", "tables@table_7"]
    driver = subprocess.Popen(
        command, cwd=copy.folder, env=copy.environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    cluster.wait_for(lambda: copy.events()["done"] >= ended + 3, seconds=120)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    killed = time.time()
    cells = cells_of(copy, "table_7")
    cluster.wait_for(lambda: all(copy.store.is_done(key) for key in cells), seconds=240)
    done_later = {line["key"] for line in copy.store.executions() if line["event"] == "done" and line["time"] > killed}
    trainings = {key for key in done_later if cells[key].kind == "train"}
    assert len(trainings) >= 3
    cluster.wait_for(lambda: trainings <= finished_runs(copy), seconds=90)
    copy.run("dvc", "repro", "tables@table_7")
    assert len(list(copy.store.submissions.iterdir())) == before + 1
    assert {begun(copy)[key] for key in cells} == {1}


def test_its_rows_are_those_of_a_laptop_to_the_last_bit(copy: Copy, tmp_path: Path) -> None:
    laptop = Copy(tmp_path / "laptop")
    for each in (copy, laptop):
        each.run("dvc", "repro", "tables@table_7")
    rows = measured(laptop, "table_7")
    assert len(rows) == 8
    assert rows == measured(copy, "table_7")
