"""Ctrl-C on one machine: this driver's workers save and leave, all of them and nobody else's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import attach
from pipeline.cell import chain
from pipeline.cluster import liveness
from pipeline.cluster.origin import user
from pipeline.files import read_json, write_json
from pipeline.guard import Inputs
from pipeline.store import Store
from tests.pipeline import test_launch, test_steering
from tests.pipeline.test_launch import SUBMIT, finished, send, sleeper, until
from tests.pipeline.test_steering import Lab

local_store = test_launch.local_store
lab = test_steering.lab

SLOW = """
import sys, time
from pathlib import Path
import pipeline.launch as launch
send, sys.stdin = launch.Queue.send, open("given")
def slow(*given):
    send(*given)
    Path("sent").touch()
    while not Path("go").exists():
        time.sleep(0.05)
launch.Queue.send = slow
"""
DRIVE = """
import json, signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
import pipeline.attach as attach
from pipeline.launcher import Launcher
from pipeline.cell import from_json
from pipeline.store import Store
store, root, cells = json.loads(Path("given").read_text())
cells = {cell["key"]: from_json(cell) for cell in cells}
launcher = Launcher(Path(root), "smoke", stage="train@table_7", keys=cells)
launcher.command = [sys.executable, "-c", sys.argv[1]]
try:
    attach.wait(Store(Path(store)), cells, start=launcher, title="test")
except KeyboardInterrupt:
    attach.interrupt(Store(Path(store)), cells, root=Path(root))
    sys.exit(130)
"""
"""A driver as a stage is one, and a submission that takes until `go` to write down which jobs it has."""


def submitted(store: Store, project: Path, jobs: list[str], **other: Any) -> None:
    """Write down a submission `s` of this driver, or of one that differs so, with these jobs."""
    now, ours = time.time(), {"host": socket.gethostname(), "root": str(project), "user": user()}
    record = {"site": {"executor": "local"}, "time": now, "clock": now} | ours | other
    write_json(store.submissions / "s" / "submission.json", record)
    write_json(store.submissions / "s" / "jobs.json", {"jobs": jobs, "time": now})


def test_ctrl_c_stops_the_workers_and_the_next_run_goes_on(local_store: Store, project: Path) -> None:
    cells = {cell.key: cell for cell in (sleeper(number, 0.8) for number in range(12))}
    (submission,) = send(local_store, list(cells.values()), project)
    until(lambda: any(local_store.state(key) == "running" for key in cells))
    attach.interrupt(local_store, cells, root=project)
    until(lambda: not liveness.submission_alive(local_store, submission))
    assert not all(local_store.is_done(key) for key in cells)
    assert (
        attach.wait(local_store, cells, start=lambda: send(local_store, list(cells.values()), project), title="t") == {}
    )
    until(lambda: len(finished(local_store)) >= len(cells))
    assert finished(local_store) == sorted(cells)


def test_ctrl_c_during_a_submission_leaves_no_worker_behind(local_store: Store, project: Path) -> None:
    cells = {cell.key: cell for cell in (sleeper(number, 0.8) for number in range(12))}
    given = [str(local_store.root), str(project), [cell.to_json() for cell in cells.values()]]
    (project / "given").write_text(json.dumps(given))
    driver = subprocess.Popen([sys.executable, "-c", DRIVE, SLOW + SUBMIT], start_new_session=True)
    until((project / "sent").exists)
    driver.send_signal(signal.SIGINT)
    time.sleep(1.0)  # what kills a submission has killed it by now
    (project / "go").touch()
    assert driver.wait(60) == 130
    (folder,) = local_store.submissions.iterdir()
    assert (read_json(folder / "jobs.json") or {})["jobs"]
    until(lambda: not liveness.submission_alive(local_store, folder.name))
    assert not all(local_store.is_done(key) for key in cells)


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"root": "a colleague's clone"}, {"user": "colleague"}])
def test_ctrl_c_stops_nobody_elses_workers(other: dict[str, str], local_store: Store, project: Path) -> None:
    """Of another machine, clone or user a driver may wait for cells too; a job's number may be any process here."""
    cell, bystander = sleeper(1), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    submitted(local_store, project, [str(bystander.pid)], **other)
    local_store.claim(cell.key, "s")
    attach.interrupt(local_store, {cell.key: cell}, root=project)
    bystander.communicate(b"\n")
    assert bystander.returncode == 0


def test_ctrl_c_asks_all_workers_though_one_has_ended_or_may_not_be_asked(
    local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, asked = sleeper(1), []
    submitted(local_store, project, ["7", "8", "9"])
    local_store.claim(cell.key, "s")

    def kill(job: int, _: int) -> None:
        asked.append(job)
        if job < 9:
            raise ProcessLookupError if job == 7 else PermissionError

    monkeypatch.setattr(attach, "process_alive", lambda *_, **__: True)
    monkeypatch.setattr(os, "kill", kill)
    attach.interrupt(local_store, {cell.key: cell}, root=project)
    assert asked == [7, 8, 9]


@pytest.mark.parametrize(
    ("executor", "words"),
    [
        ("slurm", "SLURM's jobs, which go on; `python -m pipeline cancel experiment` stops them"),
        ("local", "the next `dvc repro` goes on from the checkpoints"),
    ],
)
def test_ctrl_c_says_whether_jobs_go_on_and_what_stops_them(
    executor: str, words: str, lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    cells = chain(lab.rows("experiment")[0])
    submitted(lab.store, lab.root, [], site={"executor": executor})
    lab.store.claim(cells[-2].key, "s")
    monkeypatch.setattr(attach, "read_inputs", lambda *_: Inputs(Path(), b"", cells, data=""))
    monkeypatch.setattr(attach, "wait", stop)
    assert attach.run_stage("train", "smoke", table="experiment") == 130
    assert words in capsys.readouterr().err
