"""Process numbers: whose they are, and whether the process of a record still lives."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.liveness import find_dead
from pipeline.cluster.origin import origin, place, process_alive
from pipeline.cluster.pulse import begin_pulse
from pipeline.store import Store
from tests.pipeline.test_liveness import cell, hold, submitted


def test_process_numbers_of_another_container_say_nothing_here(tmp_path: Path) -> None:
    store, one, two = Store(tmp_path / "cells"), cell("sleep", 0), cell("sleep", 1)
    submitted(store, [[one, two]], pack=None)
    begin_pulse(store.submissions / "s")
    for each, where in ((one, place() | {"namespace": "pid:[1]"}), (two, place())):
        hold(store, each, "local-1", pid=2**22 + 1, **where)
    assert [key for key, _ in find_dead(store).holders] == [two.key]


@pytest.mark.parametrize("step_s", [-7200.0, 0.0, 7200.0])
def test_a_clock_that_was_put_right_kills_nobody(step_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The boot's time and a process's are counted back from the clock, and move with it."""
    record = origin() | {"clock": time.time(), "time": 0.0}
    me, boot = psutil.Process(), psutil.boot_time()
    assert process_alive(me.pid, record)
    began = me.create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + step_s)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: began + step_s)
    assert process_alive(me.pid, record)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: time.time() + step_s + 5)
    assert not process_alive(me.pid, record)
