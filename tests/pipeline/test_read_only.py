"""A store that may only be read is looked at as any other."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from pipeline.cluster import slurm
from pipeline.commands import doctor
from pipeline.commands.doctor import examine
from pipeline.commands.garbage import find_garbage
from pipeline.commands.live import running
from pipeline.files import write_json
from pipeline.store import Store
from tests.pipeline.test_live import hold
from tests.pipeline.test_shared_store import as_user


def test_who_may_only_read_a_store_sees_what_runs_what_would_go_and_what_a_crash_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(slurm, "_told", [])
    monkeypatch.setattr(slurm, "_output", lambda command: asked.append(command[0]) or "")
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "squeue")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        store = Store(Path(folder) / "cells")
        record = {"site": {"executor": "slurm"}, "job_name": "cells-s", "time": time.time() - 1000}
        write_json(store.submissions / "s" / "submission.json", record | {"host": "n1", "pid": 1})
        key = hold(store, age_s=1000).name
        store.claim(key, "s")

        def look() -> None:
            with pytest.raises(PermissionError):
                (store.root / "mine").touch()
            assert abs(store.now() - time.time()) < 60
            assert [line["job"] for line in running(store)] == ["7_2"]
            assert find_garbage(store, {key}, days=-1) == [store.submissions / "s"]
            assert f"cell {key[:12]}: its worker, job 7_2 on n1, is gone" in examine(store.root, store, mend=False)[0]
            assert set(asked) <= {"squeue", "scontrol"}  # and none that changes anything

        Path(folder).chmod(0o755)
        store.root.chmod(0o555)
        if os.geteuid() == 0:  # who may write everywhere
            as_user(54322, 54321, look)
        else:
            look()


def test_a_store_that_is_not_there_and_cannot_be_made_has_the_time_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert abs(Store(tmp_path / "cells").now() - time.time()) < 60
