"""What stands where: the tables' cells by state, the plan of a `dvc repro`, and which cell a name means."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.adopt import adopt
from pipeline.cell import KINDS, NO_CELLS, Cell, cells_of, chain, folder_is_here, from_json, read_rows
from pipeline.files import read_json
from pipeline.past import Past
from pipeline.site import load_site, num_gpus, resources
from pipeline.store import Store

MEDIAN = "median of past cells like them"
NONE_HAS_RUN = "none like them has run"
"""Where the time of some of a stage's cells is not known from past ones."""

STATES = ("done", "running", "queued", "missing", "failed", "cancelled")


def tables_of(root: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the resolved rows of every table whose cells were written, by (scale, table).

    Tables on folders of one's own are left out where those are not: their cells have no key without them. So are, and
    said once on stderr, listings that cannot be read and rows of which the method or a field is missing.
    """
    tables, faults = listings(root)
    for fault in faults:
        _tell(fault)
    return tables


def listings(root: Path) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], list[str]]:
    """Return the rows as `tables_of` does, and what had to be left out and why."""
    found = (root / "reports").glob("*/cells/*.json")
    # `experiment` last of its scale: a cell that it shares is known by its row in another table.
    paths = sorted(found, key=lambda path: (path.parent.parent.name, path.stem == "experiment", path.stem))
    tables, faults = {}, []
    for path in paths:
        try:
            rows = read_rows(path)
        except ValueError as error:
            faults.append(str(error))
            continue
        if all(folder_is_here(row, root) for row in rows):
            wrong = {number: fault for number, row in enumerate(rows) if (fault := _fault(row))}
            faults += [f"{path}: row {number + 1} {fault}; {REMEDY}" for number, fault in wrong.items()]
            kept = [row for number, row in enumerate(rows) if number not in wrong]
            if kept or not rows:
                tables[path.parent.parent.name, path.stem] = kept
    return tables, faults


REMEDY = "`dvc repro -f cells` at its scale writes it again"


def _fault(row: dict[str, Any]) -> str | None:
    """Return why a row has no cells by the present code, or None."""
    try:
        _make_cells(json.dumps(row))
    except NO_CELLS as error:
        return f"({type(error).__name__}: {error})"
    return None


@cache
def _make_cells(row: str) -> None:
    """Make the cells of a row in JSON, once: `status --watch` would spend an eighth of a core on the same keys."""
    cells_of(json.loads(row))


@cache
def _tell(fault: str) -> None:
    """Say once what is left out, however often it is looked at."""
    print(f"left out: {fault}", file=sys.stderr)


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


def find_cell(root: Path, store: Store, *, prefix: str) -> Cell:
    """Return the one cell whose key begins with `prefix`: of the current tables, else of the store, as older code has.

    A table of one row (`experiment`) stands for its training. Raises ValueError where there is none, or several.
    """
    rows = tables_of(root).get((current_scale(root), prefix), [])
    if len(rows) == 1:
        return chain(rows[0])[-2]
    cells = {cell.key: cell for rows in tables_of(root).values() for row in rows for cell in cells_of(row)}
    matches = [key for key in cells if key.startswith(prefix)]
    if not matches and prefix.isalnum():
        paths = (path for state in ("work", "done") for path in (store.root / state).glob(f"{prefix}*/cell.json"))
        cells = {cell.key: cell for cell in map(from_json, filter(None, map(read_json, paths)))}
        matches = list(cells)
    if len(matches) != 1:
        found = ", ".join(key[:12] for key in matches) or "none"
        where = "keys stand in reports/<scale>/metrics, `key` and `train_key` of each row"
        raise ValueError(f"cell {prefix!r}: {len(matches)} cells have a key that begins like this ({found}); {where}")
    return cells[matches[0]]


def find_trained(root: Path, store: Store, *, name: str) -> Path:
    """Return the folder of a trained cell, which is taken over first where git and the DVC cache alone hold it.

    `name` is such a folder, a table of the current scale that has one row (`experiment`), or how the cell's key begins.
    Raises ValueError where that is no cell, or none that has a network.
    """
    if Path(name).is_dir():
        return Path(name)
    tables = {table: rows for (scale, table), rows in tables_of(root).items() if scale == current_scale(root)}
    if name in tables:
        trained = {chain(row)[-2].key: chain(row)[-2] for row in tables[name]}
        if len(trained) > 1:
            keys = "\n".join(f"  {cell.key[:12]} {cell.name}" for cell in trained.values())
            raise ValueError(f"{name} has {len(trained)} trained cells; name one by its key:\n{keys}")
        [cell] = trained.values()
    else:
        cell = find_cell(root, store, prefix=name)
    if cell.kind == "train" and not store.is_done(cell.key):
        for scale in {scale for scale, _ in tables_of(root)}:
            adopt(store, root, scale=scale)
    if cell.kind != "train" or not store.is_done(cell.key):
        hint = f"; that of {cell.upstream[0][:12]}, perhaps" if cell.kind in ("evaluate", "reliability") else ""
        raise ValueError(f"{cell.name} is {store.state(cell.key)}; a train cell that is done has a network{hint}")
    return store.done(cell.key)


def scale_of(root: Path, folder: Path) -> str:
    """Return the scale of a trained cell's folder: of a table that has it, else the current one."""
    key = (read_json(folder / "cell.json") or {}).get("key")
    scales = [scale for (scale, _), rows in tables_of(root).items() for row in rows if chain(row)[-2].key == key]
    return scales[0] if scales else current_scale(root)


def current_scale(root: Path) -> str:
    """Return the scale that `params.yaml` chooses."""
    from pipeline.params import load_params

    return load_params(root / "params.yaml")["scale"]


def counts(store: Store, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many distinct cells of a table are in each state."""
    found = Counter(store.state(key) for key in {cell.key for row in rows for cell in cells_of(row)})
    return {state: found[state] for state in STATES}


def plan(root: Path, store: Store, *, targets: list[str]) -> list[dict[str, Any]]:
    """Return, for every stale stage of a `dvc repro` of these targets, why it is stale and where its cells stand.

    What its missing cells take that no stage before it has too: `worker_s` of one worker and `gpu_hours` at this site,
    by past cells like them; `unknown` of them have no like.
    """
    tables, scale, site, past = tables_of(root), current_scale(root), load_site(root), Past(store)
    stages = [f"tables@{target}" if (scale, target) in tables else target for target in targets]
    command = [sys.executable, "-m", "pipeline.plan", str(root), "--targets", *stages]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        fault = (result.stderr.strip().splitlines() or ["no word"])[-1]
        raise ValueError(f"DVC cannot plan {' '.join(stages)}: {fault}; a target is a table or a stage of `dvc.yaml`")
    counted: set[str] = set()
    lines: list[dict[str, Any]] = []
    for stage, reasons in json.loads(result.stdout).items():
        kind, _, table = stage.split(":")[-1].partition("@")
        line: dict[str, Any] = {"stage": stage, "why": reasons[:3]}
        if kind in KINDS and (scale, table) in tables:
            chains = [cells_of(row) for row in tables[scale, table]]
            cells = {cell.key: cell for cells in chains for cell in cells if cell.kind == kind}
            states = {key: store.state(key) for key in cells}
            numbers = Counter(states.values())
            line |= {state: numbers[state] for state in STATES if numbers[state]}
            line["shared"] = len(cells.keys() & counted)
            new = [cell for key, cell in cells.items() if states[key] == "missing" and key not in counted]
            line |= _ahead(past, site, cells=new)
            counted |= cells.keys()
        lines.append(line)
    return lines


def _ahead(past: Past, site: dict[str, Any], *, cells: list[Cell]) -> dict[str, Any]:
    """Return what these cells will take, and by what that is known."""
    known = [(cell, seconds) for cell in cells if (seconds := past.typical_s(cell)) is not None]
    gpu_s = sum(seconds * num_gpus(resources(site, cell)) for cell, seconds in known)
    facts = {"worker_s": round(sum(seconds for _, seconds in known)), "unknown": len(cells) - len(known)}
    source = NONE_HAS_RUN if facts["unknown"] else MEDIAN
    return facts | {"gpu_hours": gpu_s / 3600, "source": source}
