"""The tables as the stage `cells` listed them: their rows, where their cells stand, and which cell a name means."""

from __future__ import annotations

import contextlib
import json
import os
import re
import string
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.adopt import adopt
from pipeline.cell import ROW_ERRORS, Cell, cells_of, chain, folder_is_here, from_json, read_rows
from pipeline.files import read_json
from pipeline.params import all_tables, load_params, suggest
from pipeline.progress import WORDS
from pipeline.records import GIVEN_UP, UNDER_WAY, State
from pipeline.store import Store

STATES: tuple[State, ...] = ("done", "running", "queued", "missing", "failed", "cancelled")


Listings = dict[tuple[str, str], list[dict[str, Any]]]
"""The resolved rows of tables, by (scale, table)."""


def tables_of(root: Path) -> Listings:
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
    except ROW_ERRORS as error:
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
    """Return, for MLflow, one entry for each row: its table, its name, the keys and the values of its cells."""
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
            values = {cell.key: cell.values for cell in (*warm, train)}
            found.append({"table": table, "scale": scale, "name": " ".join(name.split()), "values": values} | keys)
    return found


def find_cell(root: Path, store: Store, *, prefix: str) -> Cell:
    """Return the one cell whose key begins with `prefix`: of the current tables, else of the store, as older code has.

    A table of one training (`experiment`) stands for it. Raises ValueError where there is none, or several.
    """
    rows = tables_of(root).get((current_scale(root), prefix), [])
    if rows:
        return _one_of(prefix, {train.key: train for *_, train, _ in map(chain, rows)})
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


def _one_of(table: str, trained: dict[str, Cell]) -> Cell:
    """Return the only training of a table. Raises ValueError with the keys of all where it has several."""
    if len(trained) > 1:
        keys = "\n".join(f"  {cell.key[:12]} {cell.name}" for cell in trained.values())
        raise ValueError(f"{table} has {len(trained)} trained cells; name one by its key:\n{keys}")
    return next(iter(trained.values()))


def find_target(root: Path, store: Store, *, name: str) -> Cell:
    """Return the cell that is meant where a table might be meant, too. Raises ValueError with names that are near."""
    try:
        return find_cell(root, store, prefix=name)
    except ValueError:
        tables = all_tables(params := load_params(root / "params.yaml"))
        if name in tables:
            told = f"nothing of {name} is queued or running: it has no cells at scale {params['scale']} yet"
        elif name and all(letter in string.hexdigits for letter in name):
            raise
        else:
            told = f"no table or cell is named {name!r}; tables of scale {params['scale']}: {suggest(name, tables)}"
        raise ValueError(told) from None


def find_trained(root: Path, store: Store, *, name: str) -> Path:
    """Return the folder of a trained cell, which is taken over first where git and the DVC cache alone hold it.

    `name` is such a folder, a table of the current scale that has one row (`experiment`), or how the cell's key begins.
    Raises ValueError where that is no cell, or none that has a network.
    """
    if Path(name).is_dir():
        return Path(name)
    cell = find_cell(root, store, prefix=name)
    if cell.kind == "train" and not store.is_done(cell.key):
        take_over(root, store)
    if cell.kind != "train" or not store.is_done(cell.key):
        state = store.state(cell.key)
        hint = _where_a_network_is(root, store, cell=cell)
        raise ValueError(f"{cell.name} is {WORDS.get(state, state)}; a train cell that is done has a network; {hint}")
    return store.done(cell.key)


def _where_a_network_is(root: Path, store: Store, *, cell: Cell) -> str:
    """Say how a cell without a network comes to one, and which network like it is there already."""
    if cell.kind != "train":
        return f"that of {cell.upstream[0][:12]}, perhaps" if cell.upstream else "a warm start is a part of one"
    state = store.state(cell.key)
    if state in UNDER_WAY:
        hint = f"`python -m pipeline logs -f {cell.key[:12]}` follows it"
    elif state in GIVEN_UP:
        hint = f"`python -m pipeline retry {cell.key[:12]}`, then `dvc repro`, tries again"
    else:
        hint = f"{_command_for(root, cell)} trains it, or `dvc pull` fetches it from a remote that has it"
    alike = [path for path in (store.root / "done").glob("*/cell.json") if _is_alike(cell, read_json(path))]
    if alike:
        last = max(alike, key=lambda path: path.stat().st_mtime).parent.name
        hint += f"; the last one of its method, data and seed under other values or code is {last[:12]}"
    return hint


def _command_for(root: Path, cell: Cell) -> str:
    """Return the command that trains a cell of the current tables, and the fewest others with it."""
    tables = [named for named in tables_of(root).items() if any(chain(row)[-2].key == cell.key for row in named[1])]
    for (scale, table), _ in sorted(tables, key=lambda named: len(named[1])):
        if stage := stage_of(root, table, kind="train"):
            run = "repro" if scale == current_scale(root) else f"exp run -S scale={scale}"
            return f"`dvc {run} {stage}`"
    return "`dvc repro`"


def _is_alike(cell: Cell, record: dict[str, Any] | None) -> bool:
    names = ("method", "dataset", "partition", "seed")
    return (
        record is not None
        and record["kind"] == "train"
        and all(record["values"].get(name) == cell.values[name] for name in names)
    )


def stage_of(root: Path, table: str, *, kind: str) -> str | None:
    """Return DVC's name of the stage of a kind that is a table's; None where no dvc.yaml has the table."""
    for path in (root / "dvc.yaml", *sorted(root.glob("reports/*/dvc.yaml"))):
        if path.exists() and re.search(rf"\b{re.escape(table)}\b", path.read_text(encoding="utf-8")):
            place = path.relative_to(root)
            return f"{kind}@{table}" if place == Path("dvc.yaml") else f"{place}:{kind}@{table}"
    return None


def take_over(root: Path, store: Store) -> None:
    """Take over what git and the DVC cache hold; who may only read the store sees what that has."""
    nearest = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return
    with contextlib.suppress(OSError):  # a full disk, say
        taken = sum(adopt(store, root, scale=scale) for scale in {scale for scale, _ in tables_of(root)})
        if taken:
            print(f"{taken} results taken over from what git and the DVC cache hold", file=sys.stderr)


def recorded(root: Path, key: str) -> dict[str, Any] | None:
    """Return what `reports/` holds of the row that a cell measured or trained: its file, and where it comes from."""
    for path in sorted(root.glob("reports/*/metrics/*.json")):
        with contextlib.suppress(ValueError, AttributeError, TypeError):  # torn, or with the marks of a conflict
            for row in json.loads(path.read_text(encoding="utf-8")):
                if key in (row.get("key"), row.get("train_key")):
                    return {"file": str(path.relative_to(root)), "state": row["state"], "provenance": row["provenance"]}
    return None


def scale_of(root: Path, folder: Path) -> str:
    """Return the scale of a trained cell's folder: of a table that has it, else the current one."""
    key = (read_json(folder / "cell.json") or {}).get("key")
    scales = [scale for (scale, _), rows in tables_of(root).items() for row in rows if chain(row)[-2].key == key]
    return scales[0] if scales else current_scale(root)


def current_scale(root: Path) -> str:
    """Return the scale that `params.yaml` chooses."""
    return load_params(root / "params.yaml")["scale"]


def counts(store: Store, rows: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many distinct cells of a table are in each state."""
    found = Counter(store.state(key) for key in {cell.key for row in rows for cell in cells_of(row)})
    return {state: found[state] for state in STATES}
