"""How long cells took, here or where what git holds was measured: what is known of the time of those to come."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cell import ROW_ERRORS, Cell, chain, content, digest
from pipeline.files import read_json
from pipeline.store import Store

DECISIVE = ("method", "dataset", "data", "model", "training", "evaluation")
"""The values that decide how long a cell takes; seeds and a method's own numbers matter little."""


class Past:
    """The durations of all cells that ran without interruption in this store; in seconds, as they are everywhere here.

    Where none like a cell did, those of trainings and evaluations that `reports/` records, from whatever machine.
    """

    def __init__(self, store: Store, root: Path) -> None:
        self._here: dict[str, list[float]] = defaultdict(list)
        self._recorded: dict[str, list[float]] = defaultdict(list)
        started: dict[str, float] = {}
        for line in store.executions():
            began = started.pop(line["key"], None)
            if line["event"] == "start":
                started[line["key"]] = line["time"]
            elif line["event"] == "done" and began is not None:
                cell = read_json(store.done(line["key"]) / "cell.json")
                if cell is not None:
                    self._here[likeness(cell["kind"], cell["values"])].append(line["time"] - began)
        for path in root.glob("reports/*/metrics/*.json"):
            with contextlib.suppress(*ROW_ERRORS):  # torn, or of a method or a folder that is not here
                for row in json.loads(path.read_text(encoding="utf-8")):
                    self._record(row)

    def _record(self, row: dict[str, Any]) -> None:
        for cell, name in zip(chain(row)[-2:], ("train_s", "evaluate_s"), strict=True):
            if row.get(name):
                self._recorded[likeness(cell.kind, cell.values)].append(row[name])

    def typical_s(self, cell: Cell) -> float | None:
        """Return the median of what cells like this one took; None where nothing is known."""
        like = likeness(cell.kind, cell.values)
        taken_s = self._here.get(like) or self._recorded.get(like)
        return statistics.median(taken_s) if taken_s else None


def likeness(kind: str, values: Mapping[str, Any]) -> str:
    """Return what cells have in common that take equally long: kind, method, data, network, schedule.

    Where an epoch is a pass over the images, the partition too, which says how many they are.
    """
    decisive, training = {name: values.get(name) for name in DECISIVE}, values.get("training")
    decisive["data"] = content(values.get("data", {}))
    if training and not training.get("steps_per_epoch"):
        decisive["partition"] = values.get("partition")
    return digest([kind, decisive])
