"""What MLflow's runs are to show, read from the store: states, names, params, curves, results. Does not import MLflow.

A run is a `train` cell with its evaluations, or a `warm_start` cell. Its status follows from the store alone: done ->
FINISHED, failed -> FAILED (also where its evaluation failed), held by a worker -> RUNNING, claimed -> SCHEDULED,
otherwise KILLED: interrupted, and to go on from its checkpoint some day.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cell import content
from pipeline.files import read_json
from pipeline.spool import Record, read

Entry = Mapping[str, Any]
"""A row of a table: `table`, `scale`, `name` (for people), `train_key`, `evaluate_key`, `warm_start_keys`, and
`values`: by their keys, what the train and warm_start cells read.
"""

NO_TAGS = (
    *("versions", "started", "ended", "token", "time", "name", "pid"),
    *("boot", "boot_id", "namespace", "clock"),
)
"""Facts about a result that do not become tags of its run."""


class Point(NamedTuple):
    """One value of a metric, in the order of the arguments of MLflow's `Metric`."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass
class Parcel:
    """What is to be sent of one run, and what is known of the run once it is sent."""

    key: str
    run: dict[str, Any]
    points: list[Point] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Cells:
    """The cells in the store at `root`, and the rows of tables that they belong to."""

    def __init__(self, root: Path, entries: Iterable[Entry]) -> None:
        self.root = root
        self.kinds: dict[str, tuple[str, list[str]]] = {}
        self.entries: dict[str, list[Entry]] = {}
        self.values: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            train, evaluate, warm = entry["train_key"], entry["evaluate_key"], entry["warm_start_keys"]
            self.kinds |= {train: ("train", list(warm)), evaluate: ("evaluate", [train])}
            self.kinds |= {key: ("warm_start", []) for key in warm}
            self.rows[f"{entry['table']}@{entry['scale']}"].add(train)
            self.values |= entry["values"]
            for key in (train, *warm):
                self.entries.setdefault(key, []).append(entry)

    def survey(self, live: Iterable[str]) -> dict[str, tuple[str, list[str]]]:
        """Return each run's status and the finished cells whose results it shows. `live` runs may be KILLED by now."""
        done, failed, work, claims = (_names(self.root / name) for name in ("done", "failed", "work", "claims"))
        runs = dict.fromkeys(live, "KILLED")  # unless the store knows better
        results: dict[str, list[str]] = defaultdict(list)
        failed_evaluations = []
        for key in done | failed | work | claims:
            kind, upstream = self.kind(key)
            if kind in ("train", "warm_start"):
                waiting = "SCHEDULED" if key in claims else "KILLED"
                held = key in work and (self.root / "work" / key / "holder.json").exists()
                runs[key] = "FINISHED" if key in done else "FAILED" if key in failed else "RUNNING" if held else waiting
            elif kind == "evaluate" and key in done:
                results[upstream[0]].append(key)
            elif kind == "evaluate" and key in failed:
                failed_evaluations.append(upstream[0])
        runs = dict.fromkeys(results, "FINISHED") | runs
        runs |= {key: "FAILED" for key in failed_evaluations if runs.get(key) == "FINISHED"}
        return {key: (status, [key] * (key in done) + sorted(results[key])) for key, status in runs.items()}

    def kind(self, key: str) -> tuple[str, list[str]]:
        """Return a cell's kind and the keys before it; no kind for one that is in no table and was not begun."""
        if key not in self.kinds:
            cell = self._cell(key)
            if cell is None:
                return "", []
            self.kinds[key] = (cell["kind"], cell["upstream"])
        return self.kinds[key]

    def tables(self, key: str) -> list[str]:
        """Return the tables of a cell, e.g. `table_7@embedded`, the first one first."""
        return list(dict.fromkeys(f"{entry['table']}@{entry['scale']}" for entry in self.entries.get(key, [])))

    def describe(self, key: str) -> tuple[str, dict[str, str]]:
        """Return a run's name and its params (empty for a cell of no table that was not begun).

        The store may hold an evaluation without its training, as taken over from the rows in `reports/`; the params are
        the table's then. The name is the row's, e.g. `u2pl blender 1-4 alpha0=0.3 seed 0`; a cell of no table is named
        by what it is.
        """
        cell = self._cell(key) or {"values": self.values.get(key, {})}
        values, entries = cell["values"], self.entries.get(key, [])
        words = [str(values[name]) for name in ("method", "dataset", "partition") if name in values]
        name = entries[0]["name"] if entries else " ".join(words) or key[:8]
        if self.kind(key)[0] == "warm_start":
            name = f"warm start {values.get('initialisation', 0)} of {name}"
        return name, dict(_flat(_decisive(values), ""))

    def records(self, key: str, start: int = 0) -> Iterator[Record]:
        """Yield the lines of a cell's spool from byte `start` on."""
        for folder in ("done", "work", "done"):  # it may be published between two looks
            try:
                yield from read(self.root / folder / key / "spool.jsonl", start=start)
                return
            except FileNotFoundError:
                continue

    def result(self, key: str) -> tuple[list[Point], dict[str, str], int]:
        """Return the figures of a finished cell, its tags, and the time it ended (ms)."""
        folder = self.root / "done" / key
        result = read_json(folder / "result.json") or {}
        ended_ms = int(1000 * (result.get("provenance", {}).get("ended") or folder.stat().st_mtime))
        tags = provenance_tags(result.get("provenance", {}))
        if (folder / "weights.pt").exists():
            tags["checkpoint"] = str(folder / "weights.pt")
        if result.get("state") == "diverged":
            tags |= {"diverged": "true", "diverged.step": str(result["diverged"]["step"])}
        return list(_points(result, ended_ms)), tags, ended_ms

    def circumstances(self, key: str, status: str) -> tuple[dict[str, str], int]:
        """Return the tags that go with a new status of a run, and the time since when it has it (ms)."""
        now_ms, work = time.time_ns() // 1_000_000, self.root / "work" / key
        if status == "FINISHED" and (self.root / "done" / key).exists():
            return {}, self.result(key)[2]
        if status == "RUNNING":
            holder = read_json(work / "holder.json") or {}
            return provenance_tags(holder) | {"checkpoint": str(work / "checkpoint.pt")}, now_ms
        if status == "FAILED":
            evaluations = [
                name for name, (kind, upstream) in self.kinds.items() if kind == "evaluate" and key in upstream
            ]
            failures = [read_json(self.root / "failed" / f"{name}.json") for name in (key, *evaluations)]
            failure = next((found for found in failures if found), {})
            return provenance_tags(failure), int(1000 * failure.get("time", now_ms / 1000))
        return {}, max((record.time_ms for record in self.records(key)), default=now_ms)

    def ended_again(self, key: str, run: Mapping[str, Any]) -> bool:
        """Tell whether a cell was taken up again and ended as before since its run was sent: failed or cancelled."""
        if run["status"] == "FAILED":
            return (self.root / "failed" / f"{key}.json").exists() and (
                self.circumstances(key, "FAILED")[1] != run["end_ms"]
            )
        spool = self.root / "work" / key / "spool.jsonl"
        return run["status"] == "KILLED" and spool.exists() and spool.stat().st_size > run["offset"]

    def _cell(self, key: str) -> dict[str, Any] | None:
        return read_json(self.root / "done" / key / "cell.json") or read_json(self.root / "work" / key / "cell.json")


def provenance_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return where a result comes from as tags; the commit also under the name that MLflow's pages show."""
    tags = {name: str(fact) for name, fact in facts.items() if fact is not None and name not in NO_TAGS}
    tags |= {f"version.{name}": str(version) for name, version in facts.get("versions", {}).items()}
    if "host" in tags:
        tags["node"] = tags.pop("host")
    if "commit" in tags:
        tags["git_commit"] = tags["mlflow.source.git.commit"] = tags.pop("commit")
    return tags


def _points(result: Mapping[str, Any], time_ms: int) -> Iterator[Point]:
    """Yield a result's figures: mIoU (percent) as `final/...`, the best networks' IoU as a curve over classes."""
    for network, kept in result.get("metrics", {}).items():
        for which, paddings in kept.items():
            for padding, measured in paddings.items():
                name = f"{network}_{which}_{padding}"
                yield Point(f"final/{name}_miou", float(measured["miou"]), time_ms, 0)
                if which == "best":
                    classes = [(number, iou) for number, iou in enumerate(measured["iou"]) if iou is not None]
                    yield from (Point(f"iou/{name}", float(iou), time_ms, number) for number, iou in classes)
    for name in ("best_epoch", "steps", "train_s"):
        if result.get(name) is not None:
            yield Point(f"final/{name}", float(result[name]), time_ms, 0)


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield nested values under names joined by dots; lists and numbers as JSON."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _decisive(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out what may differ under one key, and what MLflow would refuse a second time: where files lie."""
    model = dict(values.get("model", {}))
    if not str(model.get("weights")).isidentifier():  # a path
        del model["weights"]
    return values | {"data": content(values.get("data", {})), "model": model}


def _names(folder: Path) -> set[str]:
    """Return the keys that a folder of the store holds."""
    try:
        with os.scandir(folder) as found:
            return {entry.name.removesuffix(".json") for entry in found if not entry.name.startswith(".")}
    except FileNotFoundError:
        return set()
