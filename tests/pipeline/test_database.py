from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.tracking import database, sending

if TYPE_CHECKING:
    from tests.pipeline.conftest import Lab

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own use of it
)


def test_a_database_that_does_not_open_is_refused_with_the_remedy_and_moved_aside_by_a_rebuild(lab: Lab) -> None:
    lab.finish("a")
    path = lab.database
    path.unlink()
    connection = sqlite3.connect(path)  # as two first users at once leave it behind: some tables, no version
    connection.execute("create table experiments (experiment_id integer)")
    connection.close()
    with pytest.raises(database.UnreachableError, match="track --rebuild"):
        sending.ingest(lab.store.root)
    rebuild(lab)
    assert lab.runs()["a"]["status"] == "FINISHED"
    assert list(path.parent.glob("mlflow.db.broken-*"))


def test_a_damaged_database_that_opens_is_made_again_by_a_rebuild(lab: Lab) -> None:
    lab.finish("a")
    [(page, size)] = lab.query("select rootpage, page_size from sqlite_master, pragma_page_size where name = 'metrics'")
    with lab.database.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(bytes(size))
    rebuild(lab)
    assert len(lab.points("a", "lr")) == 3
    assert list(lab.database.parent.glob("mlflow.db.broken-*"))


def test_a_broken_database_takes_its_journals_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    monkeypatch.setattr(database, "_open_elsewhere", lambda uri, folder: "no such table")
    with contextlib.closing(sqlite3.connect(path)) as other:  # while it has the file open, SQLite keeps the journals
        other.execute("pragma journal_mode = wal")
        other.execute("create table numbers (value)")
        broken = database.set_aside_if_broken(f"sqlite:///{path}")
        assert broken is not None
        names = {each.name for each in tmp_path.glob("mlflow.db*")}
        assert names == {broken.name, f"{broken.name}-wal", f"{broken.name}-shm"}


def test_the_hot_journal_of_a_database_that_is_gone_does_not_reach_the_new_one(lab: Lab) -> None:
    lab.finish("a", steps=500)
    rebuild(lab)
    with contextlib.closing(sqlite3.connect(lab.database)) as connection:
        connection.execute("pragma cache_size = 1")  # pages are written before the end, and so the journal is hot
        connection.execute("update metrics set value = 0")
        journal = lab.database.with_name("mlflow.db-journal").read_bytes()
    lab.database.unlink()
    lab.database.with_name("mlflow.db-journal").write_bytes(journal)
    rebuild(lab)
    assert lab.query("pragma integrity_check") == [("ok",)]
    assert len(lab.points("a", "lr")) == 500
    [aside] = lab.database.parent.glob("mlflow.db.broken-*-journal")
    assert aside.read_bytes() == journal


def rebuild(lab: Lab) -> None:
    """Rebuild in another process: this one has the old file open."""
    code = "import sys, pathlib; from pipeline.tracking.sending import rebuild; rebuild(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(lab.store.root)], check=True, capture_output=True)


def test_a_database_that_somebody_writes_is_not_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    told = "sqlite3.OperationalError: database is locked"
    monkeypatch.setattr(database, "_open_elsewhere", lambda uri, folder: told)
    with pytest.raises(database.UnreachableError, match=told):
        database.set_aside_if_broken(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").exists()


def test_an_open_database_that_is_replaced_is_noticed(lab: Lab) -> None:
    lab.begin("a")
    ingester = sending.Ingester(lab.store.root, [], uri=None)
    ingester.work()
    path = lab.database
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").rename(path)
    with pytest.raises(RuntimeError, match="was replaced while it was open"):
        ingester.work()


@pytest.mark.parametrize("uri", ["mlruns", "file:///x/mlruns", "sqlite:///mlflow.db", "sqlite://"])
def test_a_folder_or_a_relative_path_is_no_tracking_address(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match=r"MLFLOW_TRACKING_URI=.*allowed: sqlite:////absolute"):
        database.tracking_uri(tmp_path / "cells")


def test_the_database_lies_beside_the_store_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert database.tracking_uri(tmp_path / "cells") == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/db")
    assert database.tracking_uri(tmp_path / "cells") == "postgresql://me:secret@host/db"
    assert database.without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"


@pytest.mark.parametrize(("mode", "expected"), [(0o2775, 0o664), (0o755, 0o644)])
def test_a_database_is_open_to_those_to_whom_its_folder_is(tmp_path: Path, mode: int, expected: int) -> None:
    tmp_path.chmod(mode)
    database.initialise(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").stat().st_mode & 0o777 == expected


def test_only_sqlite_is_treated_as_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def get_experiment_by_name(self, name: str) -> Any:
            return None

        def create_experiment(self, name: str, artifacts: str | None) -> str:
            assert artifacts is None  # the server's own
            return "1"

        def get_experiment(self, _id: str) -> Any:
            facts = {"experiment_id": "1", "creation_time": 5, "lifecycle_stage": "active", "tags": {}}
            return type("Experiment", (), facts)

        def set_experiment_tag(self, _id: str, _name: str, _value: str) -> None:
            pass

    monkeypatch.setattr(database, "_client", lambda _uri: Client())
    opened = database.Database("postgresql://me@host/db", "u2pl")
    assert (opened.path, opened.replaced, opened.born) == (None, False, 5)


def test_an_experiment_is_described_once_and_keeps_what_a_user_writes_instead(lab: Lab) -> None:
    def note() -> str:
        sending.ingest(lab.store.root)
        [(said,)] = lab.query("select value from experiment_tags where key = 'mlflow.note.content'")
        return said

    assert "`tags.kind = 'table'`" in note()
    sending.Ingester(lab.store.root, (), uri=None).database.client.set_experiment_tag(
        "1", "mlflow.note.content", "My own"
    )
    assert note() == "My own"


@pytest.mark.slow
def test_eight_first_users_at_once_leave_a_database_that_works(tmp_path: Path) -> None:
    code = "import sys; from pipeline.tracking.database import initialise; initialise(sys.argv[1])"
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = [subprocess.Popen([sys.executable, "-c", code, uri]) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert database.set_aside_if_broken(uri) is None
    assert [path.name for path in (tmp_path / "new").iterdir() if "new-" in path.name] == []
