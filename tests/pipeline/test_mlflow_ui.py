"""MLflow's own pages over real runs of a smoke table, in a real browser: what the README shows."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser import Browser, complaints, needs_chromium
from tests.smoke import copy_project

pytestmark = [pytest.mark.slow, needs_chromium]
ALPHAS = ("0.1", "0.2", "0.3", "0.4")
START_S = 300.0
KEPT = os.environ.get("KEEP_SCREENSHOT")
"""Where the picture for the README is to be put, if it is wanted."""


class Server:
    """`python -m pipeline ui` on a free port, in a copy of the project whose Table 7 was run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "pipeline", "ui", "--port", self.address.rpartition(":")[2]]
        with (folder / "ui.log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, start_new_session=True)
        end = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise AssertionError(f"the UI does not answer at {self.address}")
            time.sleep(0.5)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False

    def query(self, sql: str) -> list[tuple[str, ...]]:
        connection = sqlite3.connect(self.folder / ".dvc" / "cache" / "mlflow.db")
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = copy_project(tmp_path_factory.mktemp("copy") / "project")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CLUSTER": "local"}
    subprocess.run(["dvc", "repro", "-q", "tables@table_7"], cwd=folder, env=environment, check=True, timeout=550)
    started = Server(folder)
    yield started
    started.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def faults(browser: Browser) -> list[object]:
    """What the page complained of, but for what it cannot fetch without a network, and warnings."""
    found = []
    for event in complaints(browser):
        said = event["params"].get("entry", event["params"])
        error = event["method"] == "Runtime.exceptionThrown" or said.get("level", said.get("type")) == "error"
        if error and said.get("source") != "network":
            found.append(said)
    return found


def test_one_link_of_a_tables_run_compares_the_runs_of_each_alpha0(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    [(note,)] = server.query("select value from tags where key = 'mlflow.note.content' and value like '%79.30%'")
    links = dict(re.findall(r"\[([^\]]+)\]\((#/compare-runs[^)]+)\)", note))
    assert set(links) == {"all", "1/8 (1323)", "1/4 (2646)"}
    browser.open(f"{server.address}/{links['1/4 (2646)']}", width=1400)
    browser.wait("document.body.innerText.includes('parameters.alpha0')", timeout_s=200)
    text = browser.run("document.body.innerText")
    named = set(ALPHAS) - {"0.2"}  # the default cell is called after the first table that it stands in
    assert all(f"alpha_0_percent={100 * float(alpha):g} seed 0" in text for alpha in named)
    assert all(re.search(rf"\b{re.escape(alpha)}\b", text) for alpha in ALPHAS)
    browser.wait("document.querySelector('.js-plotly-plot .main-svg') !== null", timeout_s=200)
    assert faults(browser) == []
    browser.screenshot(tmp_path / "mlflow.png")
    with Image.open(tmp_path / "mlflow.png") as seen:
        assert len(seen.convert("RGB").getcolors(1 << 24) or []) > 20
        if KEPT:
            picture = seen.convert("RGB").crop((0, 0, 1040, seen.height))  # without MLflow's assistant
            picture.quantize(64).save(KEPT, optimize=True)


def test_the_address_that_the_ui_prints_lists_the_tables_alone(server: Server, browser: Browser) -> None:
    said = (server.folder / "ui.log").read_text()
    [address] = re.findall(r"the tables are at (\S+)", said)
    assert address.startswith(f"{server.address}/#")
    browser.open(address, width=1400)
    browser.wait("document.body.innerText.includes('table_7@smoke')", timeout_s=200)
    assert not browser.run("document.body.innerText.includes('u2pl voc_blender')")
    assert faults(browser) == []


def test_a_tables_run_shows_the_table_and_a_cells_run_its_predictions(server: Server, browser: Browser) -> None:
    [(parent,)] = server.query("select run_uuid from tags where key = 'cell_key' and value = 'table_7@smoke'")
    browser.open(f"{server.address}/#/experiments/1/runs/{parent}", width=1400)
    browser.wait("document.body.innerText.includes('Compare the runs')", timeout_s=200)
    assert browser.run("document.body.innerText.includes('79.30')")  # the paper's, beside ours
    assert faults(browser) == []
    [(child,), *_] = server.query("select run_uuid from tags where key = 'alpha0' and value = '0.3'")
    browser.open(f"{server.address}/#/experiments/1/runs/{child}/artifacts", width=1400)
    browser.wait("document.body.innerText.includes('image_label_prediction.png')", timeout_s=200)
    assert faults(browser) == []
