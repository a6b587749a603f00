"""What stands where: the tables' cells by state, the plan of a `dvc repro`, and where a result comes from."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.cell import Cell, chain, read_rows
from pipeline.store import Store, read_json

NONE_HAS_RUN = "none has run"
"""Where the time of a stage's cells is not known from past ones."""

STATES = ("done", "running", "queued", "missing", "failed")


def tables_of(root: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the resolved rows of every table whose cells were written, by (scale, table).

    Tables on folders of one's own are left out where those are not: their cells have no key without them.
    """
    paths = sorted((root / "reports").glob("*/cells/*.json"))
    tables = {(path.parent.parent.name, path.stem): read_rows(path) for path in paths}
    return {name: rows for name, rows in tables.items() if all(_is_here(root, row["data"].get("path")) for row in rows)}


def _is_here(root: Path, folder: str | None) -> bool:
    return folder is None or (root / folder).exists()


def entries(root: Path) -> list[dict[str, Any]]:
    """Return, for MLflow, one entry for each row: its table, its name, and the keys of its cells."""
    found = []
    for (scale, table), rows in tables_of(root).items():
        for row in rows:
            *warm, train, evaluate = chain(row)
            label = " ".join(f"{header}={value}" for header, value in row["row"].items() if header != "method")
            name = f"{row['method']} {row['dataset']} {row['partition']} {label} seed {row['seed']}"
            keys = {
                "train_key": train.key,
                "evaluate_key": evaluate.key,
                "warm_start_keys": [cell.key for cell in warm],
            }
            found.append({"table": table, "scale": scale, "name": " ".join(name.split())} | keys)
    return found


def find_cell(root: Path, store: Store, prefix: str) -> Cell:
    """Return the one cell whose key begins with `prefix`. Raises ValueError where there is none, or several."""
    cells = {cell.key: cell for rows in tables_of(root).values() for row in rows for cell in chain(row)}
    matches = [key for key in cells if key.startswith(prefix)]
    if len(matches) != 1:
        found = ", ".join(key[:12] for key in matches) or "none"
        raise ValueError(f"cell {prefix!r}: {len(matches)} cells of the current tables begin so ({found})")
    return cells[matches[0]]


def find_trained(root: Path, store: Store, name: str) -> Path:
    """Return the folder of a trained cell.

    `name` is such a folder, a table of the current scale that has one row (`experiment`), or how the cell's key begins.
    Raises ValueError where that is no cell, or none that has a network.
    """
    if Path(name).is_dir():
        return Path(name)
    tables = {table: rows for (scale, table), rows in tables_of(root).items() if scale == _scale(root)}
    if name in tables:
        trained = {chain(row)[-2].key: chain(row)[-2] for row in tables[name]}
        if len(trained) > 1:
            keys = "\n".join(f"  {cell.key[:12]} {cell.name}" for cell in trained.values())
            raise ValueError(f"{name} has {len(trained)} trained cells; name one by its key:\n{keys}")
        [cell] = trained.values()
    else:
        cell = find_cell(root, store, name)
    if cell.kind != "train" or not store.is_done(cell.key):
        raise ValueError(f"{cell.name} is {store.state(cell.key)}; a train cell that is done has a network")
    return store.done(cell.key)


def scale_of(root: Path, folder: Path) -> str:
    """Return the scale of a trained cell's folder: of a table that has it, else the current one."""
    key = (read_json(folder / "cell.json") or {}).get("key")
    scales = [scale for (scale, _), rows in tables_of(root).items() for row in rows if chain(row)[-2].key == key]
    return scales[0] if scales else _scale(root)


def _scale(root: Path) -> str:
    from pipeline.params import load_params

    return load_params(root / "params.yaml")["scale"]


def counts(store: Store, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many distinct cells of a table are in each state."""
    found = Counter(store.state(key) for key in {cell.key for row in rows for cell in chain(row)})
    return {state: found[state] for state in STATES}


def plan(root: Path, store: Store, targets: list[str]) -> list[dict[str, Any]]:
    """Return, for every stale stage of a `dvc repro` of these targets, why it is stale and where its cells stand."""
    command = [sys.executable, "-c", _PLAN, str(root), *targets]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ValueError(f"DVC cannot plan {targets}: {result.stderr.strip()[-1000:]}")
    tables = {table: rows for (_, table), rows in tables_of(root).items()}
    counted: set[str] = set()
    lines: list[dict[str, Any]] = []
    for stage, reasons in json.loads(result.stdout).items():
        kind, _, table = stage.partition("@")
        line: dict[str, Any] = {"stage": stage, "why": reasons[:3]}
        if kind in ("warm_start", "train", "evaluate") and table in tables:
            cells = {cell.key for row in tables[table] for cell in chain(row) if cell.kind == kind}
            states = Counter(store.state(key) for key in cells)
            line |= {state: states[state] for state in STATES if states[state]}
            line["shared"] = len(cells & counted)
            past_s = typical_s(store, kind)
            line["source"] = NONE_HAS_RUN if past_s is None else "median of past cells"
            line["worker_s"] = round(states["missing"] * (past_s or 0) * (1 - len(cells & counted) / len(cells or [0])))
            counted |= cells
        lines.append(line)
    return lines


_PLAN = (
    "import json, sys; from pathlib import Path; from pipeline.plan import stale_stages;"
    "json.dump(stale_stages(Path(sys.argv[1]), ['dvc', 'repro', *sys.argv[2:]]), sys.stdout)"
)


def typical_s(store: Store, kind: str) -> float | None:
    """Return the median of what cells of a kind took in this store, in seconds; None where none has run yet."""
    started: dict[str, float] = {}
    taken = []
    for line in store.executions():
        if line["event"] == "start" and line.get("kind") == kind:
            started[line["key"]] = line["time"]
        elif line["event"] == "done" and line["key"] in started:
            taken.append(line["time"] - started[line["key"]])
    return statistics.median(taken) if taken else None
