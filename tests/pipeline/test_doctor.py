"""What a crash leaves behind is found and mended, and nothing else is touched."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.__main__ import main
from pipeline.cluster import slurm
from pipeline.cluster.origin import user
from pipeline.commands import doctor
from pipeline.commands.doctor import _foreign_checkpoints, examine
from pipeline.files import write_json
from pipeline.locks import NOT_MENDED, keep_lock, lock_is_whole
from pipeline.store import Store
from pipeline.tracking.sending import ingest
from tests.pipeline.conftest import Lab

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


def test_a_dvc_lock_that_may_be_half_written_is_left_to_the_dvc_that_runs(tmp_path: Path, store: Store) -> None:
    (tmp_path / "dvc.lock").write_text(WHOLE[:20])
    (tmp_path / "dvc").write_text("print(); input()")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, tmp_path / "dvc"], cwd=tmp_path, **pipes) as dvc:
        assert dvc.stdout is not None
        dvc.stdout.readline()
        (finding,) = examine(tmp_path, store, mend=True)
        assert (tmp_path / "dvc.lock").read_text() == WHOLE[:20]
        dvc.communicate(b"\n")
    assert finding.endswith("while a `dvc` runs here not mended")
    assert "torn; dropped" in examine(tmp_path, store, mend=True)[0]


def test_a_torn_dvc_lock_is_restored_from_git_though_its_root_lies_above_the_project(
    tmp_path: Path, store: Store
) -> None:
    git, lock = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"], tmp_path / "below" / "dvc.lock"
    lock.parent.mkdir()
    lock.write_text(WHOLE)
    for command in (["init", "-q"], ["add", str(lock)], ["commit", "-q", "-m", "a lock"]):
        subprocess.run([*git, *command], check=True)
    lock.write_text(WHOLE[:20])
    (finding,) = examine(lock.parent, store, mend=True)
    assert finding.endswith("torn; restored from git")
    assert lock.read_text() == WHOLE


def test_without_git_there_is_no_copy_of_its_and_all_else_is_mended(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    (tmp_path / "dvc.lock").write_text(WHOLE[:20])
    assert examine(tmp_path, store, mend=True)[0].endswith("torn; dropped: there is no copy")


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


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("opened_by", ["doctor", "torch"])
def test_a_checkpoint_that_cannot_be_read_is_not_called_torn(
    fault: int, opened_by: str, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.work("own") / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    torch.save({"key": "own"}, path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(fault, os.strerror(fault))

    where = (Path, "open") if opened_by == "doctor" else (torch, "load")
    with monkeypatch.context() as patched:
        patched.setattr(*where, fail)
        (finding,) = _foreign_checkpoints(store, mend=True)
    assert finding == f"{path}: cannot be read ([Errno {fault}] {os.strerror(fault)}); kept, not mended"
    assert _foreign_checkpoints(store, mend=True) == []
    assert path.exists()


def test_a_checkpoint_torn_anywhere_is_dropped(tmp_path: Path, store: Store) -> None:
    torch.save({"key": "own", "weights": torch.zeros(1000)}, tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    for number, length in enumerate(range(0, len(content), len(content) // 10)):
        store.work(str(number)).mkdir(parents=True)
        (store.work(str(number)) / "checkpoint.pt").write_bytes(content[:length])
    findings = _foreign_checkpoints(store, mend=True)
    assert len(findings) == 11
    assert not list(store.root.glob("work/*/checkpoint.pt"))


def test_a_torn_lock_of_further_tables_is_restored_too(tmp_path: Path, store: Store) -> None:
    lock = tmp_path / "reports" / "extra" / "dvc.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(WHOLE)
    keep_lock(tmp_path)
    lock.write_text(WHOLE[:-3])
    (finding,) = examine(tmp_path, store, mend=False)
    assert "to be restored from the last whole copy" in finding
    examine(tmp_path, store, mend=True)
    assert lock.read_text() == WHOLE


def test_what_dead_processes_hold_of_dvcs_locks_is_let_go_of(tmp_path: Path, store: Store) -> None:
    gone, folder = subprocess.Popen(["true"]), tmp_path / ".dvc" / "tmp"
    gone.wait()
    dead, living = ({"pid": pid, "cmd": "dvc repro"} for pid in (gone.pid, os.getpid()))
    held = {"write": {"/a": dead, "/b": living}, "read": {"/c": [dead, living], "/d": [dead]}}
    (folder / "rwlock").write_text(json.dumps(held))
    (folder / "lock").write_text("tmp/0f2c.lock")  # as with core.hardlink_lock
    assert len(examine(tmp_path, store, mend=False)) == 2
    assert json.loads((folder / "rwlock").read_text()) == held
    assert len(examine(tmp_path, store, mend=True)) == 2
    assert json.loads((folder / "rwlock").read_text()) == {"write": {"/b": living}, "read": {"/c": [living]}}
    assert not (folder / "lock").exists()
    (folder / "lock").write_text(f" {gone.pid}\n")  # the kernel's own, free since its process died
    assert examine(tmp_path, store, mend=True) == []
    (folder / "rwlock").write_text('{"write": {"/a"')
    assert len(examine(tmp_path, store, mend=True)) == 1
    assert examine(tmp_path, store, mend=True) == []


def test_a_dry_run_lists_dead_cells_too_and_mends_none(tmp_path: Path, store: Store) -> None:
    store.claim("k", "nobody")
    (finding,) = examine(tmp_path, store, mend=False)
    assert "to be released" in finding
    assert store.state("k") == "queued"


def test_jobs_without_a_cell_are_cancelled_and_no_others(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two jobs of this store one has a claim; a job of another store, and a colleague's, are none of ours."""
    write_json(store.submissions / "busy" / "submission.json", {"site": {"executor": "slurm"}, "host": "n1", "time": 0})
    store.claim("k", "busy")
    lines = [("busy", "1_0", user(), store.root), ("idle", "2_0", user(), store.root)]
    lines += [("idle", "3_0", user(), tmp_path / "other"), ("idle", "4_0", "colleague", store.root)]
    listing = [slurm.Job(f"cells-{n}", job, "RUNNING", "0", who, f"{home}/snapshots/x") for n, job, who, home in lines]
    cancelled: list[str] = []
    monkeypatch.setattr(slurm, "jobs", lambda *_, **__: listing)
    monkeypatch.setattr(slurm, "cancel_jobs", cancelled.extend)
    monkeypatch.setattr("pipeline.commands.doctor.shutil.which", lambda _: "squeue")
    monkeypatch.setattr("pipeline.cluster.liveness.live_workers", lambda *_: None)
    (finding,) = examine(tmp_path, store, mend=False)
    assert finding == "job 2_0 (cells-idle): no cell is its own; to be cancelled"
    assert cancelled == []
    examine(tmp_path, store, mend=True)
    assert cancelled == ["2_0"]


def test_a_job_that_is_submitted_while_squeue_answers_is_no_orphan(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit_meanwhile(*_: object) -> list[slurm.Job]:
        store.claim("k", "new")
        return [slurm.Job("cells-new", "1_0", "RUNNING", "0", user(), f"{store.root}/snapshots/x")]

    monkeypatch.setattr(slurm, "jobs", submit_meanwhile)
    monkeypatch.setattr("pipeline.commands.doctor.shutil.which", lambda _: "squeue")
    assert examine(tmp_path, store, mend=False) == []


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's
def test_a_run_that_mlflow_takes_for_running_is_told_the_truth(lab: Lab, tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    lab.store.claim("k", "s")
    cell = {"key": "k", "kind": "train", "values": lab.VALUES, "upstream": []}
    holder = {"submission": "s", "host": socket.gethostname(), "pid": gone.pid, "job": f"local-{gone.pid}"}
    lab.store.hold(cell, holder)
    lab.spool("k", range(1, 3))
    ingest(lab.store.root)
    assert lab.runs()["k"]["status"] == "RUNNING"
    findings = examine(tmp_path, lab.store, mend=False)
    assert [finding for finding in findings if finding.endswith("says RUNNING and is not; to be told so")]
    assert lab.runs()["k"]["status"] == "RUNNING"
    examine(tmp_path, lab.store, mend=True)
    assert lab.runs()["k"]["status"] == "KILLED"
    assert examine(tmp_path, lab.store, mend=True) == []


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's
def test_where_mlflow_cannot_be_opened_what_was_mended_is_said_all_the_same(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = lab.begin("k")
    ingest(lab.store.root)
    lab.store.drop("k", token)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    released, told, fault = examine(tmp_path, lab.store, mend=True)
    assert released.endswith("is gone; released")
    assert told.endswith("says RUNNING and is not; to be told so")
    assert "127.0.0.1" in fault
    assert fault.endswith("not mended")


def test_a_sound_project_needs_nothing(tmp_path: Path, store: Store) -> None:
    (tmp_path / "dvc.lock").write_text(WHOLE)
    assert examine(tmp_path, store, mend=True) == []


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


def test_a_finding_that_nobody_mended_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    for findings, expected in (([], 0), (["a: torn; dropped"], 0), (["a: torn; dropped", f"b: {NOT_MENDED}"], 1)):
        monkeypatch.setattr(doctor, "examine", lambda *_, found=findings, **__: found)
        assert main(["doctor"]) == expected
        assert capsys.readouterr().out.splitlines()[:-1] == (findings or [])
