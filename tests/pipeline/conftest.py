"""A store with cells made by hand beside an empty MLflow database, and a plain look into that database."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.spool import Spool
from pipeline.store import Store
from pipeline.tracking import database


class Lab:
    """A store at `<folder>/cells`, and `<folder>/mlflow.db`."""

    VALUES: ClassVar[dict[str, Any]] = {
        "method": "u2pl",
        "dataset": "voc_blender",
        "partition": "1-4",
        "seed": 0,
        "parameters": {"alpha0": 0.3, "k": [1]},
    }
    TRAINED: ClassVar[dict[str, Any]] = {
        "state": "done",
        "best_epoch": 3,
        "steps": 40,
        "train_s": 9.5,
        "provenance": {"commit": "abc123", "dirty": False, "node": "n1", "job": "7_1", "gpu": None, "restarts": 2}
        | {"started": 1_700_000_000.0, "ended": 1_700_000_050.0, "versions": {"torch": "2.14"}},
    }
    RESULT: ClassVar[dict[str, Any]] = {
        "state": "done",
        "metrics": {"teacher": {"best": {"padding_ignored": {"miou": 61.5, "iou": [50.0, None, 73.0]}}}},
        "provenance": {"ended": 1_700_000_100.5},
    }

    def __init__(self, folder: Path) -> None:
        self.store, self.database = Store(folder / "cells"), folder / "mlflow.db"

    def entry(self, train: str, table: str = "table_7", **changes: Any) -> dict[str, Any]:
        row = {"table": table, "scale": "embedded", "name": f"u2pl blender 1-4 {train} seed 0", "train_key": train}
        return row | {"evaluate_key": f"evaluate-{train}", "warm_start_keys": [], "values": {}} | changes

    def begin(self, key: str, kind: str = "train", upstream: tuple[str, ...] = ()) -> str:
        """Let a worker take a cell; return its token."""
        self.store.claim(key, "submission")
        cell = {"key": key, "kind": kind, "values": self.VALUES, "upstream": list(upstream)}
        token = self.store.hold(cell, {"submission": "submission", "host": "n1", "pid": 1, "job": "7_1"})
        assert token is not None
        return token

    def spool(self, key: str, steps: range) -> None:
        spool = Spool(self.store.work(key) / "spool.jsonl")
        for step in steps:
            spool.append(step, {"loss/supervised": 1 / step, "lr": 0.01})

    def finish(self, key: str, steps: int = 3) -> None:
        """Train and evaluate a cell."""
        token = self.begin(key)
        self.spool(key, range(1, steps + 1))
        (self.store.work(key) / "weights.pt").write_bytes(b"w")
        self.store.publish(key, token, result=self.TRAINED)
        evaluate = f"evaluate-{key}"
        self.store.publish(evaluate, self.begin(evaluate, "evaluate", (key,)), result=self.RESULT)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def runs(self) -> dict[str, dict[str, Any]]:
        """Runs by their tag `cell_key`: name, status, tags, params. Two runs of one key are an error."""
        found: dict[str, dict[str, Any]] = {}
        for run, name, status in self.query("select run_uuid, name, status from runs where lifecycle_stage = 'active'"):
            tags = dict(self.query(f"select key, value from tags where run_uuid = '{run}'"))
            params = dict(self.query(f"select key, value from params where run_uuid = '{run}'"))
            assert tags["cell_key"] not in found
            found[tags["cell_key"]] = {"id": run, "name": name, "status": status, "tags": tags, "params": params}
        return found

    def points(self, key: str, metric: str) -> list[tuple[int, float]]:
        """The values of a metric as (step, value), doubles included."""
        run = self.runs()[key]["id"]
        return self.query(
            f"select step, value from metrics where run_uuid = '{run}' and key = '{metric}' order by step"
        )


def let_go(store: Store, key: str) -> None:
    """Take a cell away from whoever has it."""
    (store.work(key) / "holder.json").unlink(missing_ok=True)
    (store.root / "claims" / f"{key}.json").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    database.initialise(f"sqlite:///{path}")
    return path


@pytest.fixture
def lab(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Lab(tmp_path)
