"""What a cell stage puts into its output: links to weights and curves, or the measured rows of its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.adopt import manifest_entry
from pipeline.cell import Cell, chain, read_rows
from pipeline.files import write_json
from pipeline.store import Store


def link_weights(store: Store, cells: dict[str, Cell], *, folder: Path) -> None:
    """Hard-link the cells' weights and curves into the stage's output folder, beside a manifest of results."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "manifest.json", {key: manifest_entry(store, key, folder=folder) for key in sorted(cells)})


def write_reliability(store: Store, cells: dict[str, Cell], *, path: Path) -> None:
    """Write how far the networks of a table can be believed: of each cell what it is and what it counted."""
    records = []
    for key, cell in cells.items():
        result = json.loads((store.done(key) / "result.json").read_text(encoding="utf-8"))
        sets = {
            name: {fact: value for fact, value in each.items() if not fact.startswith("class_entropy")}  # bulky
            for name, each in result["sets"].items()
        }
        what = {name: cell.values[name] for name in ("dataset", "partition", "method", "seed", "data")}
        records.append({"key": key, "train_key": cell.upstream[0]} | what | result | {"sets": sets})
    write_json(path, records)


def write_metrics(store: Store, root: Path, *, scale: str, table: str) -> None:
    """Write the measured rows of a table."""
    rows = [measured_row(store, row) for row in read_rows(root / "reports" / scale / "cells" / f"{table}.json")]
    write_json(root / "reports" / scale / "metrics" / f"{table}.json", rows)


def measured_row(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved row with its results, whose cells are done, and where they come from."""
    *_, train, evaluate = chain(row)
    trained = json.loads((store.done(train.key) / "result.json").read_text(encoding="utf-8"))
    evaluated = json.loads((store.done(evaluate.key) / "result.json").read_text(encoding="utf-8"))
    origin = trained["provenance"] | {"dvc_stage": f"train@{row['table']}"}
    own = {"key": evaluate.key, "train_key": train.key, "state": trained["state"], "provenance": origin}
    return row | trained | evaluated | own
