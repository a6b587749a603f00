"""What a crash leaves behind is found and mended, and nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.doctor import examine, keep_lock, lock_is_whole
from pipeline.store import Store

WHOLE = "schema: '2.0'\nstages:\n  first:\n    cmd: cp a b\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return Store(tmp_path / "cells")


@pytest.mark.parametrize("torn", ["", WHOLE[:20], "schema: [", "stages:\n"])
def test_a_torn_dvc_lock_is_restored_from_the_last_whole_one(torn: str, tmp_path: Path, store: Store) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(WHOLE)
    keep_lock(tmp_path)
    lock.write_text(torn)
    assert not lock_is_whole(lock)
    keep_lock(tmp_path)  # must not keep a torn one
    (finding,) = examine(tmp_path, store, mend=True)
    assert "torn; restored" in finding
    assert lock.read_text() == WHOLE
    assert examine(tmp_path, store, mend=True) == []


def test_a_dry_run_says_it_and_leaves_it(tmp_path: Path, store: Store) -> None:
    (tmp_path / "dvc.lock").write_text("")
    assert len(examine(tmp_path, store, mend=False)) == 1
    assert (tmp_path / "dvc.lock").read_text() == ""


def test_the_claim_of_a_dead_submission_is_released(tmp_path: Path, store: Store) -> None:
    store.claim("k", "nobody")
    (finding,) = examine(tmp_path, store, mend=True)
    assert "is gone; released" in finding
    assert store.state("k") == "missing"


def test_foreign_and_torn_checkpoints_are_dropped_and_own_ones_kept(tmp_path: Path, store: Store) -> None:
    for key, content in (("own", "own"), ("foreign", "other")):
        store.work(key).mkdir(parents=True)
        torch.save({"key": content}, store.work(key) / "checkpoint.pt")
    store.work("torn").mkdir()
    (store.work("torn") / "checkpoint.pt").write_bytes(b"PK")
    findings = examine(tmp_path, store, mend=True)
    assert len(findings) == 2
    assert [key for key in ("own", "foreign", "torn") if (store.work(key) / "checkpoint.pt").exists()] == ["own"]


def test_a_sound_project_needs_nothing(tmp_path: Path, store: Store) -> None:
    (tmp_path / "dvc.lock").write_text(WHOLE)
    assert examine(tmp_path, store, mend=True) == []


@pytest.mark.parametrize("command", ["plan", "status", "logs", "why", "cancel", "retry", "doctor", "track", "ui"])
def test_every_command_explains_itself(command: str) -> None:
    from pipeline.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0


def test_outside_a_project_a_command_says_so(tmp_path: Path) -> None:
    project = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "status"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(project), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "run inside the project" in result.stderr
