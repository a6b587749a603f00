"""The ingester's end: when nothing is under way any more, also where those who began it are dead; and the last pass."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.files import try_lock, write_json
from pipeline.store import Store
from pipeline.tracking import ingester, sending


@pytest.mark.parametrize(("pid", "ends"), [(2**22 + 1, True), (os.getpid(), False)])
def test_an_ingester_ends_where_driver_and_jobs_were_killed(
    pid: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = Store(tmp_path / "cells"), []
    record = {"host": socket.gethostname(), "pid": 2**22 + 1, "time": store.now(), "clock": time.time(), "cells": []}
    write_json(store.submissions / "s" / "submission.json", record | {"site": {"executor": "local", "pack": None}})
    write_json(store.submissions / "s" / "jobs.json", {"jobs": [str(pid)], "time": store.now()})
    store.claim("k", "s")

    def ingest(*_: Any, stop: Callable[[], bool]) -> None:
        looks.extend(stop() for _ in range(3))

    monkeypatch.setattr(sending, "ingest_until", ingest)
    monkeypatch.setattr(ingester, "RELEASE_S", -1.0)
    monkeypatch.setattr(ingester, "IDLE_S", -1.0)
    ingester.follow_until_idle(store, tmp_path)
    assert looks == [ends] * 3


def test_an_ingester_that_is_asked_to_finish_does_so_once_nothing_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only after the time that it waits for more."""
    store, looks = Store(tmp_path / "cells"), []
    store.claim("k", "s")

    def ingest(*_: Any, stop: Callable[[], bool]) -> None:
        looks.append(stop())
        (store.root / "tracking" / "finish").touch()
        looks.append(stop())
        store.unclaim("k", "s")
        looks.append(stop())
        (store.root / "tracking" / "finish").unlink()
        looks.append(stop())

    monkeypatch.setattr(sending, "ingest_until", ingest)
    monkeypatch.setattr(ingester, "IDLE_S", 1000.0)
    ingester.follow_until_idle(store, tmp_path)
    assert looks == [False, False, True, False]


@pytest.mark.parametrize(
    ("status", "wrong", "said"),
    [
        (0, "a warning of MLflow's\n", ""),
        (1, "a warning\ntrack: no server at 10.0.0.7\n", "MLflow is behind the store: track: no server at 10.0.0.7\n"),
        (-9, "", "MLflow is behind the store: no word\n"),
    ],
)
def test_the_last_stage_asks_the_ingester_to_finish_does_one_pass_after_its_end_and_says_where_that_failed(
    status: int,
    wrong: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, events = Store(tmp_path / "cells"), list[str]()
    mark = store.root / "tracking" / "finish"
    mark.parent.mkdir(parents=True)
    lock = try_lock(mark.with_name("ingester.lock"))
    assert lock is not None

    def follow() -> None:
        until = time.monotonic() + 20
        while not mark.exists() and time.monotonic() < until:
            time.sleep(0.01)
        events.append("asked" if mark.exists() else "not asked")
        time.sleep(0.3)
        events.append("ended")
        lock.close()

    def run(command: list[str], *, cwd: Path, **_: Any) -> subprocess.CompletedProcess[str]:
        events.append(f"{' '.join(command[1:])} in {cwd}, {'still' if mark.exists() else 'no more'} asked")
        return subprocess.CompletedProcess(command, status, "", wrong)

    monkeypatch.setattr(subprocess, "run", run)
    other = threading.Thread(target=follow)
    other.start()
    ingester.wait_for_ingester(store, tmp_path)
    other.join()
    assert events == ["asked", "ended", f"-m pipeline track in {tmp_path}, no more asked"]
    assert capsys.readouterr().err == said
