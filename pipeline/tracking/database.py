"""The MLflow database: where it is, how it comes into being, and the few calls that the ingester makes.

MLFLOW_TRACKING_URI names it (a server, PostgreSQL, SQLite); otherwise it is `mlflow.db` beside the store, outside every
workspace. Only the ingester and the UI open it. Two processes that open a fresh SQLite database at once break it for
good, so it is made whole under a file lock, in a process of its own, and renamed into place.
mlflow (2 s, 160 MB) is imported inside the functions that need it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline.files import lock
from pipeline.tracking.runs import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS, MAX_PARAMS = 800, 100
"""How many of each go into one batch: MLflow takes 1000 in all, 100 params and 100 tags among them."""

ALLOWED = "sqlite:////absolute/path/mlflow.db, postgresql://user@host/name, http://host:5000"
NOTE = (
    "Each run is a training with its evaluations, or a warm start; the search `tags.kind = 'table'` finds the tables, "
    "whose notes hold the table itself and links that compare its rows. `tags.table.table_7 = 'true'` finds every run "
    "of Table 7, `params.method = 'u2pl' and params.partition = '1-4'` one method at one partition."
)
"""The description of the experiment on MLflow's page."""

OPEN = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1]).search_experiments(max_results=1)"


def tracking_uri(store: Path) -> str:
    """Return MLFLOW_TRACKING_URI, or SQLite beside the store. Raises ValueError on what no workspace outlives."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve().parent / 'mlflow.db'}"
    check(uri)
    return uri


def check(uri: str) -> None:
    """Refuse a file store, which MLflow no longer supports, and a relative path, another file in each folder."""
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file") or (scheme.startswith("sqlite") and not uri.partition("://")[2].startswith("//")):
        raise ValueError(f"MLFLOW_TRACKING_URI={uri}: a folder or a relative path; allowed: {ALLOWED}")


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite database, or None for every other kind."""
    return Path(uri.partition("://")[2].partition("?")[0][1:]) if urlsplit(uri).scheme.startswith("sqlite") else None


def without_password(uri: str) -> str:
    """Return an address that may be printed."""
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", uri)


def initialise(uri: str) -> None:
    """Make the SQLite database if there is none; any number of processes may call this at once.

    Other databases are left to `mlflow server` and to the first ingestion. Raises RuntimeError with MLflow's words.
    """
    check(uri)
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        for leftover in path.parent.glob(f".{path.name}.new-*"):
            leftover.unlink()
        new = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:8]}")
        fault = _open_elsewhere(f"sqlite:///{new}", path.parent)
        if fault:
            raise RuntimeError(f"{path}: MLflow could not make the database: {fault}")
        _move_beside(path)  # a journal of the one before, which SQLite would play back into the new one
        new.chmod(0o664 if path.parent.stat().st_mode & stat.S_IWGRP else 0o644)  # SQLite does not ask the umask
        new.rename(path)


def set_aside_if_broken(uri: str) -> Path | None:
    """Move away an SQLite database that is damaged or that MLflow cannot open, with its journals.

    Return where it lies now, or None where all is well. Raises UnreachableError where another process has it locked.
    """
    path = sqlite_path(uri)
    if path is None or not path.exists() or not (fault := _damage(path) or _open_elsewhere(uri, path.parent)):
        return None
    if "is locked" in fault:  # it is whole, and somebody writes
        raise UnreachableError(f"{path}: {fault}")
    with locked(path.with_name(f".{path.name}.lock")):  # nobody makes another in between, and journals of it
        return _move_beside(path)


def _move_beside(path: Path) -> Path:
    """Rename an SQLite database and its journals, or what there is of them, so that they still belong together."""
    broken = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    for suffix in ("", "-journal", "-wal", "-shm"):  # the database first: it must never be read without its journal
        with suppress(FileNotFoundError):
            path.with_name(f"{path.name}{suffix}").rename(f"{broken}{suffix}")
    return broken


def _damage(path: Path) -> str:
    """Return what SQLite finds wrong with a database, or nothing: MLflow opens one whose tables cannot be read."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if found == "ok" else found


def _open_elsewhere(uri: str, folder: Path) -> str:
    """Open a database in a process that ends; return the last line of what went wrong, or nothing.

    The folder becomes that process's own, since MLflow writes it into the database as the default place of artifacts.
    """
    done = subprocess.run([sys.executable, "-c", OPEN, uri], cwd=folder, capture_output=True, text=True, check=False)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else ""


@contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Hold an exclusive file lock; the kernel frees it when its process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file, lock(file):
        yield file


ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # a server that is down would hold each command up for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What MLflow is told where the user has not told it."""


class RunRefusedError(RuntimeError):
    """MLflow will not take this, however often it is sent: the run was deleted, or a value is not allowed."""


class UnreachableError(RuntimeError):
    """The database cannot be opened or does not answer; what was to be sent can be sent later."""


@contextmanager
def _errors_named(uri: str) -> Iterator[None]:
    """Turn the errors of MLflow and of what lies below it into the two above."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # ImportError: no driver for PostgreSQL installed
        lines = [line for line in str(error).strip().splitlines() if not line.startswith("(raised as a result")]
        words = (lines or [type(error).__name__])[0]
        code = getattr(error, "error_code", "")
        if code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"):
            raise RunRefusedError(words) from error
        remedy = "; if it stays so, `python -m pipeline track --rebuild` makes it again from the store"
        raise UnreachableError(f"{without_password(uri)}: {words}{remedy if sqlite_path(uri) else ''}") from error


class Database:
    """An experiment of an MLflow database, opened. `born` tells it from another one under the same address.

    Raises RunRefusedError for what MLflow will never take, UnreachableError for what may work later.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)  # before the first import, which starts the telemetry
        initialise(uri)
        self.uri, self.path = uri, sqlite_path(uri)
        self.inode = self.path.stat().st_ino if self.path else None
        with _errors_named(self.uri):
            self.client = _client(uri)
            found = self.client.get_experiment_by_name(experiment)
            if found is None:
                artifacts = (self.path.parent / "mlflow-artifacts").as_uri() if self.path else None
                found = self.client.get_experiment(self.client.create_experiment(experiment, artifacts))
        if found.lifecycle_stage != "active":
            undo = f"`mlflow experiments restore -x {found.experiment_id}` brings it back"
            raise ValueError(f"the MLflow experiment {experiment!r} was deleted; {undo}, or set MLFLOW_EXPERIMENT_NAME")
        self.experiment, self.born = found.experiment_id, found.creation_time
        if "mlflow.note.content" not in found.tags:
            with _errors_named(self.uri):
                self.client.set_experiment_tag(self.experiment, "mlflow.note.content", NOTE)

    @property
    def replaced(self) -> bool:
        """Whether another file took the place of the SQLite database since it was opened."""
        return self.path is not None and (not self.path.exists() or self.path.stat().st_ino != self.inode)

    @property
    def answers(self) -> bool:
        """Whether the database can be asked for its experiment."""
        try:
            with _errors_named(self.uri):
                return self.client.get_experiment(self.experiment) is not None
        except (RunRefusedError, UnreachableError):
            return False

    def find(self, key: str, store: str) -> tuple[str, dict[str, int]] | None:
        """Return the id of a cell's run and the last step of each of its metrics, or None where there is no run."""
        with _errors_named(self.uri):
            for run in self.client.search_runs([self.experiment], f"tags.cell_key = '{key}'"):
                if run.data.tags.get("store") == store:
                    run_id, names = run.info.run_id, run.data.metrics
                    histories = {name: self.client.get_metric_history(run_id, name) for name in names}
                    return run_id, {name: max(value.step for value in found) for name, found in histories.items()}
        return None

    def create(self, name: str, tags: Mapping[str, str], *, start_ms: int | None) -> str:
        """Make a run; return its id."""
        with _errors_named(self.uri):
            run = self.client.create_run(self.experiment, start_time=start_ms, tags=dict(tags), run_name=name)
        return run.info.run_id

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Send metrics, params and tags of one run, in as few batches as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        points = [Metric(*point) for point in metrics]
        listed = [Param(name, value) for name, value in (params or {}).items()]
        marks = [RunTag(name, value) for name, value in (tags or {}).items()]
        num_batches = max(-(-len(points) // MAX_METRICS), -(-len(listed) // MAX_PARAMS), -(-len(marks) // MAX_PARAMS))
        for batch in range(num_batches):
            many, few = (slice(size * batch, size * (batch + 1)) for size in (MAX_METRICS, MAX_PARAMS))
            with _errors_named(self.uri):
                self.client.log_batch(run_id, points[many], listed[few], marks[few])

    def attach(self, run_id: str, path: Path, *, name: str) -> None:
        """Store a file among the artifacts of a run under `name`, in place of what was there."""
        with tempfile.TemporaryDirectory() as folder, _errors_named(self.uri):
            copy = Path(folder) / name
            shutil.copyfile(path, copy)
            self.client.log_artifact(run_id, str(copy))

    def set_status(self, run_id: str, status: str, *, end_ms: int | None = None) -> None:
        """Set SCHEDULED or RUNNING, or with a time of ending FINISHED, FAILED or KILLED."""
        with _errors_named(self.uri):
            if end_ms is None:
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status, end_ms)

    def delete(self, run_id: str) -> None:
        """Move a run to MLflow's bin, where nothing finds it."""
        with _errors_named(self.uri):
            self.client.delete_run(run_id)

    def rename(self, run_id: str, name: str) -> None:
        """Give a run another name."""
        with _errors_named(self.uri):
            self.client.update_run(run_id, name=name)


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    for talkative in ("mlflow", "alembic"):
        logging.getLogger(talkative).setLevel(logging.CRITICAL)  # every error is raised as well
    return MlflowClient(uri)
