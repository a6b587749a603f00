"""MLflow from the store: runs, curves and states of all cells, written by one ingester and by nobody else.

Workers append to spools (`pipeline/spool.py`); `ingest` brings a database up to the store, as often as one likes, from
any process that sees the store, while jobs run or long after. Each table is a run, and its child runs are its `train`
cells, each with its evaluations, and its `warm_start` cells. A cell of several tables is a child of the first and has
the tag `table.<name>` of each. The experiment is MLFLOW_EXPERIMENT_NAME, or `u2pl`.

Exactly once in effect: for each database the store keeps, per run, how far its spool was read and the last step sent of
each metric (`tracking/<database>/<key>.json`), written after the sending. An ingester killed in between leaves lines
that the next one sends again, with the same times, which MLflow takes as one; a run is looked up by its tags before it
is made. One ingester at a time works, by a file lock held for one pass. The store alone is the truth: with the
database gone, `rebuild` makes it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline.files import read_json, write_json
from pipeline.spool import fresh
from pipeline.tracking import database
from pipeline.tracking.database import Database, RunRefusedError, UnreachableError, locked
from pipeline.tracking.runs import Cells, Entry, Parcel, Point

LOG = logging.getLogger(__name__)
ENDED = ("FINISHED", "FAILED", "KILLED")
BATCH = 800
"""So many values of metrics are sent at once; then the ingester notes how far it came."""
MAX_FAULTS = 3
"""So many runs that MLflow does not take for reasons it may get over are passed by in one pass."""
MAX_PAUSE_S = 60.0
"""The longest pause between two passes."""


def ingest(store: Path, entries: Iterable[Entry] = (), *, uri: str | None = None) -> dict[str, int]:
    """Bring the database up to the store; return how many cells' runs it has of each status.

    `entries` says which tables a cell belongs to and how it is called; a cell of none is a run without a parent.
    """
    return Ingester(store, entries, uri=uri).work()


def ingest_until(
    store: Path,
    entries: Iterable[Entry] = (),
    *,
    stop: Callable[[], bool],
    uri: str | None = None,
    interval_s: float = 5.0,
) -> None:
    """Ingest every few seconds until `stop()`, and once more then.

    A slow pass is followed by a longer pause, so that this takes a twentieth of one core, not more. A database out of
    reach is tried again. Raises RuntimeError where its file was replaced meanwhile.
    """
    ingester, stopped = Ingester(store, entries, uri=uri), False
    while not stopped:
        stopped, began_s = stop(), time.process_time()
        try:
            ingester.work()
        except (UnreachableError, OSError) as error:
            LOG.warning("MLflow is behind, training goes on: %s", error)
        until = time.monotonic() + max(interval_s, min(MAX_PAUSE_S, 19 * (time.process_time() - began_s)))
        while not stopped and not stop() and time.monotonic() < until:
            time.sleep(0.1)


def rebuild(store: Path, entries: Iterable[Entry] = (), *, uri: str | None = None) -> dict[str, int]:
    """Make the database again from the store: all runs, curves, states. One that cannot be opened is moved aside."""
    ingester = Ingester(store, entries, uri=uri)
    with locked(ingester.folder / "lock") as lock:
        database.set_aside_if_broken(ingester.uri)
        _forget(ingester.folder)
        lock.truncate(0)  # another ingester, if one is alive, reads its state anew
    return ingester.work()


class Ingester:
    """What one process knows of a database, and how it brings it up to the store."""

    def __init__(self, store: Path, entries: Iterable[Entry], *, uri: str | None) -> None:
        self.store, self.uri = store.resolve(), uri or database.tracking_uri(store)
        self.cells = Cells(self.store, entries)
        self.experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "u2pl")
        digest = hashlib.sha256(f"{self.uri}\0{self.experiment}".encode()).hexdigest()
        self.folder, self.token = self.store / "tracking" / digest[:16], uuid.uuid4().hex
        self.opened: Database | None = None
        self.faults: list[UnreachableError] = []
        self.runs: dict[str, dict[str, Any]] = {}

    @property
    def database(self) -> Database:
        """The database, opened when it is first needed."""
        self.opened = self.opened or Database(self.uri, self.experiment)
        return self.opened

    def work(self) -> dict[str, int]:
        """Do one pass over the store; return how many cells' runs there are of each status. Raises UnreachableError
        where the database took nothing, or nothing of some runs.
        """
        self.faults = []
        with locked(self.folder / "lock") as lock:
            self._recall(lock)
            cells = {key: run for key, run in self.runs.items() if run["kind"] != "table"}
            survey = self.cells.survey(key for key, run in cells.items() if run["status"] not in ENDED)
            for key, (status, results) in sorted(survey.items()):
                self._bring_up(key, status, results=results)
            for table, status in self._tables().items():
                with self.kept_apart(table):
                    parcel = Parcel(table, dict(self.runs[table]))
                    self._add_status(parcel, status)
                    self._deliver(parcel)
        if self.faults:
            raise self.faults[0]
        return dict(Counter(run["status"] for run in self.runs.values() if run["kind"] != "table"))

    def _recall(self, lock: IO[str]) -> None:
        """Read what was sent so far, where another ingester may have worked since this one's last pass."""
        if self.database.replaced:
            raise RuntimeError(f"{self.uri} was replaced while it was open; start the ingester again")
        lock.seek(0)
        if lock.read() == self.token:
            return
        known = {"experiment": self.database.experiment, "born": self.database.born}
        if read_json(self.folder / "database.json") != known:
            _forget(self.folder)  # another database under the same address: nothing was sent to this one
            write_json(self.folder / "database.json", known)
        paths = [path for path in self.folder.glob("[!.]*.json") if path.name != "database.json"]
        self.runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}
        lock.truncate(0)
        lock.write(self.token)

    def _bring_up(self, key: str, status: str, *, results: list[str]) -> None:
        """Bring the run of one cell up to the store, if anything is new."""
        run, tables = self.runs.get(key), self.cells.tables(key)
        again = run is not None and self.cells.ended_again(key, run)
        if run and run["status"] == status and status in ENDED and not again:
            sent = set(results) <= set(run["results"]) and set(tables) <= set(run["tables"])
            if sent and (run["described"] or not tables):
                return
        with self.kept_apart(key):
            parcel = self._described(key, tables)
            if self._began_anew(parcel):
                self.database.delete(parcel.run["run_id"])
                self._drop(key)
                parcel = self._described(key, tables)
            self._add_curves(parcel)
            for result in results:
                self._add_result(parcel, result)
            self._add_status(parcel, status, again=again)
            self._deliver(parcel)

    @contextmanager
    def kept_apart(self, key: str) -> Iterator[None]:
        """Let the fault of one run not hold up the others.

        One that MLflow refuses, deleted by hand perhaps, is forgotten: the next pass with news of it makes it again.
        One of which it took nothing, although it answers, is left to the next pass.
        """
        try:
            yield
        except UnreachableError as error:
            self.faults.append(error)
            if len(self.faults) > MAX_FAULTS or not self.database.answers:
                raise
            LOG.warning("MLflow took nothing of the run of %s: %s", key, error)
        except RunRefusedError as error:
            LOG.warning("MLflow refused the run of %s: %s", key, error)
            self._drop(key)

    def _described(self, key: str, tables: list[str]) -> Parcel:
        """Begin a parcel for the run of a cell with its params and tables, where they were not sent."""
        run, name, params = self.runs.get(key), "", dict[str, str]()
        if run is None or not run["described"] or set(tables) - set(run["tables"]):
            name, params = self.cells.describe(key)
        run = run or self._make(key, self.cells.kind(key)[0] or "train", name=name, first=key)
        new = [table for table in tables if table not in run["tables"]]
        tags = {f"table.{table.partition('@')[0]}": "true" for table in new}
        if new and not run["tables"]:
            parent = self.runs.get(new[0]) or self._make(new[0], "table", name=new[0], first=key)
            tags |= _table_tags(new[0]) | {"mlflow.parentRunId": parent["run_id"], "mlflow.runName": name}
        known = run | {"tables": [*run["tables"], *new], "described": run["described"] or bool(params)}
        return Parcel(key, known, params=params, tags=tags)

    def _make(self, key: str, kind: str, *, name: str, first: str) -> dict[str, Any]:
        """Look a run up that this store does not know, or make it, as begun with the first line of cell `first`."""
        found = self.database.find(key, str(self.store))
        if found is None:
            tags = {"cell_key": key, "kind": kind, "store": str(self.store)}
            tags |= _table_tags(key) if kind == "table" else {}
            start_ms = next((record.time_ms for record in self.cells.records(first)), None)
            found = self.database.create(name, tags, start_ms=start_ms), {}
        run = {"kind": kind, "run_id": found[0], "status": "", "end_ms": 0, "offset": 0, "last": found[1]}
        self._save(key, run | {"described": False, "results": [], "tables": []})
        return self.runs[key]

    def _began_anew(self, parcel: Parcel) -> bool:
        """Tell whether the spool is another one than was sent: data changed, and nothing went on from what it gave.

        A power cut shortens a spool too; that one begins as before.
        """
        offset = parcel.run["offset"]
        first = next(self.cells.records(parcel.key, offset), None) if offset else None
        return first is not None and first.end <= offset and first.time_ms != parcel.run.get("first_ms", first.time_ms)

    def _add_curves(self, parcel: Parcel) -> None:
        """Add what the spool holds beyond what was sent; of a long one, deliver meanwhile."""
        last = dict(parcel.run["last"])
        for record in self.cells.records(parcel.key, parcel.run["offset"]):
            new = fresh(record, last).items()
            parcel.points += [Point(name, value, record.time_ms, record.step) for name, value in new]
            parcel.run.setdefault("first_ms", record.time_ms)
            parcel.run |= {"offset": record.end, "last": dict(last)}
            if len(parcel.points) >= BATCH:
                self._deliver(parcel)

    def _add_result(self, parcel: Parcel, result: str) -> None:
        """Add the figures and the provenance of a finished training or evaluation, once."""
        if result in parcel.run["results"]:
            return
        points, tags, _ = self.cells.result(result)
        if result != parcel.key:
            tags = {"evaluate_key": result}
            if set(parcel.run["results"]) - {parcel.key}:  # the same networks, evaluated in another way as well
                points = [point._replace(name=f"{result[:8]}/{point.name}") for point in points]
        parcel.points += points
        parcel.tags |= tags
        parcel.run |= {"results": [*parcel.run["results"], result]}

    def _add_status(self, parcel: Parcel, status: str, *, again: bool = False) -> None:
        """Add the status of a run where it changed or was reached again, and the facts that come with it."""
        if parcel.run["status"] == status and not again:
            return
        if parcel.run["kind"] == "table":
            end_ms = max(child["end_ms"] for child in self.runs.values() if parcel.key in child["tables"])
        else:
            tags, end_ms = self.cells.circumstances(parcel.key, status)
            was = {"reason": "", "log": ""} if parcel.run["status"] == "FAILED" else {}  # it holds no more
            parcel.tags |= was | tags
        parcel.run |= {"status": status, "end_ms": end_ms}

    def _deliver(self, parcel: Parcel) -> None:
        """Send a parcel, and note what is known of its run now. Killed in between, it is sent once more."""
        run, status = parcel.run, parcel.run["status"]
        if run == self.runs[parcel.key]:
            return
        self.database.log(run["run_id"], metrics=parcel.points, params=parcel.params, tags=parcel.tags)
        sent = self.runs[parcel.key]
        if (status, run["end_ms"]) != (sent["status"], sent["end_ms"]):
            self.database.set_status(run["run_id"], status, end_ms=run["end_ms"] if status in ENDED else None)
        self._save(parcel.key, dict(run))
        parcel.points, parcel.params, parcel.tags = [], {}, {}

    def _tables(self) -> dict[str, str]:
        """Return the status of each table's run: of its cells' runs, and of the rows that have none.

        What it has of older code does not count, unless it has no rows any more.
        """
        children: dict[str, dict[str, str]] = defaultdict(dict)
        for key, run in self.runs.items():
            today = self.cells.tables(key)
            for table in set(run["tables"]) & set(self.runs):
                counts = table in today or not self.cells.rows[table]
                children[table] |= {key: run["status"]} if counts else {}
        found = {}
        for table, statuses in children.items():
            live, missing = {"RUNNING", "SCHEDULED"} & set(statuses.values()), self.cells.rows[table] - set(statuses)
            ended = [status for status in ("FAILED", "KILLED") if status in statuses.values()]
            found[table] = "RUNNING" if live else ended[0] if ended else "KILLED" if missing else "FINISHED"
        return found

    def _drop(self, key: str) -> None:
        """Forget a run: the next pass with news of its cell makes it again."""
        self.runs.pop(key, None)
        (self.folder / f"{key}.json").unlink(missing_ok=True)

    def _save(self, key: str, run: dict[str, Any]) -> None:
        write_json(self.folder / f"{key}.json", run)
        self.runs[key] = run


def _table_tags(table: str) -> dict[str, str]:
    name, _, scale = table.partition("@")
    return {"table": name, "scale": scale}


def _forget(folder: Path) -> None:
    """Forget what was sent to a database."""
    for path in folder.glob("*.json"):
        path.unlink()
