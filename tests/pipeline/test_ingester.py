"""The ingester's end: when nothing is under way any more, also where those who began it are dead."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import ingester, tracking
from pipeline.files import write_json
from pipeline.store import Store


@pytest.mark.parametrize(("pid", "ends"), [(2**22 + 1, True), (os.getpid(), False)])
def test_an_ingester_ends_where_driver_and_jobs_were_killed(
    pid: int, ends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, looks = Store(tmp_path / "cells"), []
    record = {"host": socket.gethostname(), "pid": 2**22 + 1, "time": store.now(), "clock": time.time(), "cells": []}
    write_json(store.submissions / "s" / "submission.json", record | {"site": {"executor": "local", "pack": None}})
    write_json(store.submissions / "s" / "jobs.json", {"jobs": [str(pid)], "time": store.now()})
    store.claim("k", "s")

    def follow(*_: Any, stop: Callable[[], bool]) -> None:
        looks.extend(stop() for _ in range(3))

    monkeypatch.setattr(tracking, "follow", follow)
    monkeypatch.setattr(ingester, "RELEASE_S", -1.0)
    monkeypatch.setattr(ingester, "IDLE_S", -1.0)
    ingester.follow_until_idle(store, tmp_path)
    assert looks == [ends] * 3
