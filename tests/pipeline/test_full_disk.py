"""A disk that is really full: the cell fails with its reason, nothing is lost or torn, and all goes on with room."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import run
from pipeline.cell import Cell
from pipeline.files import append_line, read_lines, write_json
from pipeline.store import Store
from pipeline.worker import Stop, run_submission
from tests.pipeline.test_launch import sleeper


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_the_time_is_known_on_a_full_disk(small_disk: Path) -> None:
    store = Store(small_disk / "cells")
    before = store.now()
    fill(small_disk / "filler")
    assert 0 <= store.now() - before < 60


def fill(path: Path) -> None:
    """Take all the room there is, to the last byte."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_fails_the_cell_with_its_reason_and_loses_nothing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, ballast = Store(small_disk / "cells"), small_disk / "ballast"
    cells = [sleeper(number) for number in range(3)]
    record = {
        "cells": [cell.to_json() for cell in cells],
        "threads": 1,
        "data_root": str(Path.cwd()),
        "site": {"executor": "local"},
    }
    write_json(store.submissions / "s" / "submission.json", record)
    begun: list[str] = []

    def compute(cell: Cell, *_: Any, work: Path, **__: Any) -> dict[str, Any]:
        begun.append(cell.key)
        if len(begun) == 1:
            (work / "weights.pt").write_bytes(b"w" * 5000)
        if len(begun) == 2:
            (work / "checkpoint.pt").write_text("half")
            fill(ballast)
            (work / "weights.pt").write_bytes(b"w" * 5000)
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    for cell in cells:
        store.claim(cell.key, "s")
    with pytest.raises(OSError, match="No space left"):  # the third cell cannot even be begun
        run_submission(store, "s", limit=None, stop=Stop())
    first, second, third = begun[0], begun[1], ({cell.key for cell in cells} - set(begun)).pop()
    assert [store.state(key) for key in (first, second, third)] == ["done", "failed", "queued"]
    assert "No space left on device" in (store.failure(second) or {})["reason"]
    assert "Traceback" in (store.work(second) / "log.txt").read_text()
    assert (store.done(first) / "weights.pt").read_bytes() == b"w" * 5000
    ballast.unlink()
    store.retry(second)
    store.claim(second, "s")
    assert run_submission(store, "s", limit=None, stop=Stop()) == 2
    assert [store.state(cell.key) for cell in cells] == ["done"] * 3
    result = json.loads((store.done(second) / "result.json").read_text())
    assert result["provenance"]["restarts"] == 1
    assert not {"reserve", "restarts.json", "holder.json"} & {path.name for path in store.done(second).iterdir()}
    events = [line["event"] for line in store.executions() if line["key"] == second]
    assert events == ["start", "failed", "retry", "resume", "done"]


def test_a_crash_is_recorded_though_the_workers_log_takes_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cell, token = Store(tmp_path / "cells"), sleeper(0), "t"
    write_json(store.work(cell.key) / "holder.json", {"token": token})
    with Path("/dev/full").open("w", buffering=1) as full:
        monkeypatch.setattr("sys.stdout", full)
        run._record_crash(store, cell, token=token, error=OSError(28, "No space left on device"))
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert store.state(cell.key) == "failed"
    assert "No space left" in (store.failure(cell.key) or {})["reason"]


def test_a_line_is_written_whole_or_not_at_all(small_disk: Path) -> None:
    path = small_disk / "log.jsonl"
    append_line(path, {"key": "k", "text": "x" * 3000})
    fill(small_disk / "ballast")
    with pytest.raises(OSError, match=r"disk full|No space left"):
        append_line(path, {"key": "k", "text": "x" * 9000})
    assert len(read_lines(path)) == 1
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("torn", [b'{"key": "k", "ev', b"\0" * 40, b"[1]\n", b'{"no": "key"}\n', b"\xff\xfe\n"])
def test_a_torn_line_is_left_out_and_takes_no_other_with_it(
    torn: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "cells")
    store.log_execution("a", "start", facts={})
    (path,) = store.root.glob("executions.*.jsonl")
    with path.open("ab") as file:
        file.write(torn)
    store.log_execution("b", "start", facts={})
    with caplog.at_level(logging.WARNING):
        assert [line["key"] for line in store.executions()] == ["a", "b"]
    assert "line 2 is no record; left out" in caplog.text


def _append(given: tuple[str, int]) -> None:
    append_line(Path(given[0]), {"key": f"{given[1]}", "text": "x" * 9000})


def test_processes_that_append_at_once_tear_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with multiprocessing.get_context("fork").Pool(6) as pool:
        pool.map(_append, [(str(path), number) for number in range(60)])
    assert sorted(int(line["key"]) for line in read_lines(path)) == list(range(60))


def test_hosts_write_logs_of_their_own_that_are_read_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "cells")
    for number, host in enumerate(("n1", "n2", "n1")):
        monkeypatch.setattr("pipeline.store.socket.gethostname", lambda host=host: host)
        store.log_execution(host, "start", facts={"time": float(number)})
    assert [line["key"] for line in store.executions()] == ["n1", "n2", "n1"]
    assert len(list(store.root.glob("executions.*.jsonl"))) == 2
