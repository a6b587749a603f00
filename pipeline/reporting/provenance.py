"""Where numbers come from and what they cost, for people: one run's facts, and the sums over many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.reporting.rows import ASKED, MISSING, OLDER, STALE, Row

MOMENTS = ("started", "ended")
"""Facts of a provenance that are times, in seconds since the epoch."""

CODE_FACTS = ("cell", "training", "commit", "MLflow search")
"""Facts that are set as code."""


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Count what was asked, what came out and what it cost; cells that have one key today are one computation."""
    measured = [row for row in rows if row["state"] != MISSING]
    reasons = [str(row["reason"]) for row in rows if row["state"] == MISSING]
    older_first = sorted(measured, key=lambda row: not row.get(OLDER))
    trainings = {row.get(ASKED, row["key"]): row for row in older_first}  # the newest measurement of each cell
    peaks = [row["peak_memory_mib"] for row in trainings.values() if row.get("peak_memory_mib")]
    commits = Counter(commit_of(row["provenance"]) for row in measured)
    return {
        "num_cells": len(rows),
        "num_measured": len(measured),
        "num_older": sum(bool(row.get(OLDER)) for row in measured),
        "num_stale": sum(reason.startswith(STALE) for reason in reasons),
        "num_diverged": sum(row["state"] == "diverged" for row in trainings.values()),
        "num_trainings": len(trainings),
        "train_s": sum(row["train_s"] for row in trainings.values()),
        "evaluate_s": sum(row.get("evaluate_s") or 0 for row in trainings.values()),
        "peak_memory_mib": max(peaks, default=None),
        "commits": commits.most_common(),
        "nodes": sorted({str(row["provenance"].get("node", "?")) for row in measured}),
        "ended": moment(max((row["provenance"].get("ended", 0) for row in measured), default=0)),
    }


def run_facts(row: Row) -> dict[str, Any]:
    """Return where one run comes from and all its figures, as text."""
    figures = []
    for network, epochs in row["metrics"].items():
        for epoch, paddings in epochs.items():
            for padding, each in paddings.items():
                figures.append((f"{network}, {epoch} epoch, {padding.replace('_', ' ')}", f"{each['miou']:.2f}"))
    facts = {"cell": row["key"], "training": row["train_key"], "MLflow search": mlflow_search(row["train_key"])}
    facts["state"] = row["state"]
    if row.get(OLDER):
        facts["code"] = f"older than today's, under which this cell's key is {row[ASKED][:12]}…"
    for name in ("best_epoch", "steps"):
        if row.get(name) is not None:
            facts[name.replace("_", " ")] = str(row[name])
    facts |= _costs(row)
    if row["state"] == "diverged":
        facts["diverged at step"] = str(row["diverged"]["step"])
    for name, fact in row["provenance"].items():
        if fact not in (None, "", {}):
            facts[name.replace("_", " ")] = moment(fact) if name in MOMENTS else value(fact)
    return {"seed": row["seed"], "facts": facts, "figures": figures}


def mlflow_search(train_key: str) -> str:
    """Return what finds a training's run in MLflow: its UI's search box and `search_runs` take it as it stands."""
    return f"tags.cell_key = '{train_key}'"


def _costs(row: Row) -> dict[str, str]:
    costs = {"training time": duration(row["train_s"])}
    if row.get("evaluate_s") is not None:
        costs["evaluation time"] = duration(row["evaluate_s"])
    if row.get("peak_memory_mib"):
        costs["peak memory"] = f"{row['peak_memory_mib']:.0f} MiB"
    if row.get("cost_units"):
        costs["cost of a step"] = f"{row['cost_units']:.2f} units"
    return costs


def duration(seconds: float) -> str:
    """Write a time for people: `43 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for limit, unit, in_seconds in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / in_seconds:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def moment(seconds: float) -> str:
    """Write a time (seconds since the epoch) as `2026-01-05 10:00:30 UTC`; nothing where it is 0."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC" if seconds else ""


def value(found: Any) -> str:
    """Write a setting or a fact: text as it stands, a mapping as a list, anything else as JSON."""
    if isinstance(found, dict):
        return ", ".join(f"{key} {each}" for key, each in found.items())
    return found if isinstance(found, str) else json.dumps(found)


def commit_of(provenance: dict[str, Any]) -> str:
    """Say which commit a result comes from, and in what the files differed from it."""
    commit = str(provenance.get("commit") or "unknown")[:10]
    if provenance.get("patch"):
        return f"{commit} with uncommitted changes"
    return f"{commit} with new files" if provenance.get("dirty") else commit
