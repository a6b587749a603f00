"""An MLflow server on a real PostgreSQL, reached by its address: nothing lost, nothing doubled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
import pytest

from pipeline.tracking import sending

if TYPE_CHECKING:
    from tests.pipeline.conftest import Lab

pytestmark = pytest.mark.slow
PATIENCE_S = 400.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of an empty database of a server of its own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs or importlib.util.find_spec("psycopg2") is None:
        pytest.skip("PostgreSQL or psycopg2 is not installed here")
    folder, port = Path(tempfile.mkdtemp()), free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    if as_user:
        shutil.chown(folder, "postgres")

    def run(program: str, *arguments: str) -> None:
        command = [*as_user, str(programs[-1].with_name(program)), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "tester", "--auth=trust")
    run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {folder}", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "runs")
        yield f"postgresql+psycopg2://tester@127.0.0.1:{port}/runs"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def server(postgres: str, tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server over that database."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", postgres, "--port", str(port)]
    command += ["--default-artifact-root", str(tmp_path / "artifacts"), "--workers", "1"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    try:
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                alive = process.poll() is None and time.monotonic() < until
                assert alive, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait()


def test_a_server_on_postgresql_gets_every_run_once(server: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    lab.finish("a", steps=5)
    token = lab.begin("b")
    lab.spool("b", range(1, 4))
    entries = [lab.entry("a"), lab.entry("b")]
    sending.ingest(lab.store.root, entries)
    lab.spool("b", range(2, 8))  # from a checkpoint at step 1
    sending.ingest(lab.store.root, entries)
    (lab.store.work("b") / "weights.pt").write_bytes(b"w")
    lab.store.publish("b", token, result=lab.TRAINED)
    for _ in range(2):
        sending.ingest(lab.store.root, entries)
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name("u2pl")
    assert experiment is not None
    runs = {
        run.data.tags["cell_key"]: run
        for run in client.search_runs([experiment.experiment_id])
        if "cell_key" in run.data.tags
    }
    assert {key: run.info.status for key, run in runs.items() if key in ("a", "b")} == dict.fromkeys("ab", "FINISHED")
    for key, steps in (("a", 5), ("b", 7)):
        history = client.get_metric_history(runs[key].info.run_id, "loss/supervised")
        assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, steps + 1)]
