"""What may go from a store, and what may not."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cluster.waiting import Waiting
from pipeline.commands.garbage import find_garbage, remove
from pipeline.files import write_json
from pipeline.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with old folders: works that are needed, dropped, claimed, held (a cancelled cell, whose worker has it
    still); a submission that runs, one that ended; snapshots of both.
    """
    store = Store(tmp_path / "cells")
    for key in ("needed", "dropped", "claimed", "held"):
        write_json(store.work(key) / "cell.json", {})
    hold(store, "held")
    store.claim("claimed", "running")
    for name, job in (("running", os.getpid()), ("ended", 2**22 + 1)):
        record = {"site": {"executor": "local"}, "snapshot": f"of_{name}", "time": time.time()}
        record |= {"host": socket.gethostname(), "pid": 2**22 + 1}
        write_json(store.submissions / name / "submission.json", record)
        write_json(store.submissions / name / "jobs.json", {"jobs": [str(job)], "time": time.time()})
        write_json(store.root / "snapshots" / f"of_{name}" / "code.json", {})
    for key in ("wanted", "unwanted"):
        write_json(store.done(key) / "result.json", {})
    return store


def hold(store: Store, key: str) -> None:
    token = store.hold({"key": key, "kind": "train"}, {"submission": "running", "host": "n1", "pid": 1, "job": "7"})
    assert token is not None


def names(garbage: list[Path]) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in garbage]


def test_only_what_nobody_needs_or_runs_is_garbage(store: Store) -> None:
    found = find_garbage(store, {"needed", "wanted"}, days=-1)
    assert names(found) == ["work/dropped", "submissions/ended", "snapshots/of_ended"]
    assert names(find_garbage(store, {"needed", "wanted"}, days=-1, done=True))[-1] == "done/unwanted"


def test_what_a_colleagues_table_waits_for_stays(store: Store) -> None:
    with Waiting(store, "smoke/theirs", keys=["dropped", "unwanted"]):
        found = names(find_garbage(store, {"needed", "wanted"}, days=-1, done=True))
    assert found == ["submissions/ended", "snapshots/of_ended"]


def test_what_was_computed_from_a_folder_that_is_not_mounted_stays(store: Store, tmp_path: Path) -> None:
    """Without its images a table's cells have no keys: which of these it needs is not known."""
    for folder in (store.work("dropped"), store.done("unwanted")):
        write_json(folder / "cell.json", {"values": {"data": {"path": "own/scans"}}})
    left = ["submissions/ended", "snapshots/of_ended"]
    assert names(find_garbage(store, {"needed", "wanted"}, root=tmp_path, days=-1, done=True)) == left
    (tmp_path / "own" / "scans").mkdir(parents=True)
    found = names(find_garbage(store, {"needed", "wanted"}, root=tmp_path, days=-1, done=True))
    assert found == ["work/dropped", *left, "done/unwanted"]


def test_what_was_touched_lately_stays(store: Store) -> None:
    assert find_garbage(store, set(), days=1, done=True) == []


def test_removing_tells_the_bytes_that_become_free_and_shared_files_free_none(store: Store, tmp_path: Path) -> None:
    folder = store.done("unwanted")
    (folder / "weights.pt").write_bytes(b"x" * 1000)
    (folder / "spool.jsonl").write_bytes(b"y" * 500)
    os.link(folder / "weights.pt", tmp_path / "in_the_dvc_cache")
    (folder / "result.json").unlink()
    assert remove([folder], days=0) == 500
    assert not folder.exists()
    assert (tmp_path / "in_the_dvc_cache").stat().st_size == 1000


def test_what_was_touched_since_it_was_looked_at_is_not_removed(store: Store) -> None:
    """As a snapshot of the code that a submission is about to use."""
    found = [path for path in find_garbage(store, {"needed", "wanted"}, days=-1) if path.parent.name == "snapshots"]
    long_ago = time.time() - 9 * 86_400
    for path in (found[0], *found[0].iterdir()):
        os.utime(path, (long_ago, long_ago))
    os.utime(found[0])
    remove(found[:1], days=7)
    assert found[0].exists()


@pytest.mark.parametrize("take_up", [hold, lambda store, key: store.claim(key, "running")], ids=["held", "claimed"])
def test_what_was_taken_up_since_it_was_looked_at_is_not_removed(
    store: Store, take_up: Callable[[Store, str], object]
) -> None:
    """Of a claimed cell the checkpoint lies there, however long nobody touched it."""
    found = find_garbage(store, {"needed", "wanted"}, days=-1)
    assert store.work("dropped") in found
    take_up(store, "dropped")
    remove(found, days=0)
    assert (store.work("dropped") / "cell.json").exists()
    assert not (store.submissions / "ended").exists()
