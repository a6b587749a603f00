"""How long cells took in this store: what is known of the time of those to come."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline.cell import Cell, content, digest
from pipeline.files import read_json
from pipeline.store import Store

DECISIVE = ("method", "dataset", "data", "model", "training", "evaluation")
"""The values that decide how long a cell takes; seeds and a method's own numbers matter little."""


class Past:
    """The durations of all cells that ran without interruption."""

    def __init__(self, store: Store) -> None:
        self.taken_s: dict[str, list[float]] = defaultdict(list)
        started: dict[str, float] = {}
        for line in store.executions():
            began = started.pop(line["key"], None)
            if line["event"] == "start":
                started[line["key"]] = line["time"]
            elif line["event"] == "done" and began is not None:
                cell = read_json(store.done(line["key"]) / "cell.json")
                if cell is not None:
                    self.taken_s[likeness(cell["kind"], cell["values"])].append(line["time"] - began)

    def typical_s(self, cell: Cell) -> float | None:
        """Return the median of what cells like this one took, in seconds; None where none has run."""
        taken_s = self.taken_s.get(likeness(cell.kind, cell.values))
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
