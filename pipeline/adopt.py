"""Take over results that git and the DVC cache hold: after `dvc pull` in a fresh clone the store is still empty.

A key is the hash of all that decides a result, so whatever is recorded under that key is that result. Weights and
training results lie in the DVC cache, named by `dvc.lock`; evaluations are the rows under `reports/<scale>/metrics`,
and reliability's records stand beside them, under `reports/<scale>/reliability`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.cell import ROW_ERRORS, Cell, cells_of, chain, read_rows
from pipeline.files import link_or_copy, read_json
from pipeline.store import Store

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LOCKS = ("dvc.lock", "reports/*/dvc.lock")
CELL_STAGES = ("warm_start", "train")
HASHES = frozenset(("md5", "etag", "checksum", "cloud", "files"))
"""The keys under which DVC may record what a dependency or an output holds."""


def adopt(store: Store, root: Path, *, scale: str) -> int:
    """Publish in the store every recorded result that it lacks; return how many.

    A file or row that cannot be read, or has no key by the present code, is left out and named on stderr.
    """
    adopted = 0
    for listing in _cached_outputs(store.root.parent, root, scale=scale):
        adopted += _adopt_trained(store, listing)
    reports, found = root / "reports" / scale, []
    for path in sorted((reports / "metrics").glob("*.json")):
        found += _evaluated(store, path, source=str(path.relative_to(root)))
    for path in sorted((reports / "reliability").glob("*.json")):
        found += _reliability(store, path, source=str(path.relative_to(root)))
    for cell, result in found:
        adopted += store.adopt(cell.to_json(), result, files={})
    return adopted


def _cached_outputs(cache: Path, root: Path, *, scale: str) -> list[dict[str, Path]]:
    """Return what the cell stages put out as DVC recorded it: for each stage its files' names and cache paths.

    Not the workspace: DVC removes a stage's outputs there before it runs the stage again.
    """
    found = []
    for lock in (path for pattern in LOCKS for path in sorted(root.glob(pattern))):
        stages = _read_lock(lock)
        for name, stage in stages.items():
            if name.split("@")[0] in CELL_STAGES and f"/{scale}/" in stage["outs"][0]["path"]:
                listing = _cached(cache, stage["outs"][0]["md5"])
                if listing.exists():
                    files = json.loads(listing.read_text(encoding="utf-8"))
                    found.append({file["relpath"]: _cached(cache, file["md5"]) for file in files})
    return found


def _read_lock(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        stages = (yaml.load(path.read_text(encoding="utf-8"), LOADER) or {}).get("stages") or {}
    except (yaml.YAMLError, AttributeError):
        return {}  # torn: DVC says so itself, and `doctor` mends it
    return {name: stage for name, stage in stages.items() if stage_is_whole(name, stage)}


def stage_is_whole(name: str, stage: Any) -> bool:
    """Tell whether a stage's record in dvc.lock has what DVC writes of each: a file may be cut at the end of a line."""
    if not isinstance(stage, dict) or "cmd" not in stage:
        return False
    entries = [entry for side in ("deps", "outs") if side in stage for entry in stage[side] or [None]]
    if name.split("@", maxsplit=1)[0] in CELL_STAGES and "outs" not in stage:
        return False
    return all(isinstance(entry, dict) and not HASHES.isdisjoint(entry) for entry in entries)


def _cached(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _adopt_trained(store: Store, files: dict[str, Path]) -> int:
    manifest = read_json(files["manifest.json"]) if "manifest.json" in files else None
    adopted = 0
    for key, record in (manifest or {}).items():
        parts = {name: files[file] for name, file in record["files"].items()}
        if store.state(key) == "missing" and all(path.exists() for path in parts.values()):
            adopted += store.adopt(record["cell"], record["result"], files=parts)
    return adopted


def _evaluated(store: Store, path: Path, *, source: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Return the evaluations of a table that the store lacks, each with its result."""
    found = []
    for number, row in enumerate(_recorded(path, source), start=1):
        try:
            if store.state(row["key"]) == "missing" and (cell := chain(row)[-1]).key == row["key"]:
                found.append((cell, _result(row, ("state", "metrics", "evaluate_s"), source=source)))
        except ROW_ERRORS as error:
            _leave_out(f"{source}: row {number}", error)
    return found


def _reliability(store: Store, path: Path, *, source: str) -> list[tuple[Cell, dict[str, Any]]]:
    """Return a table's records that the store lacks. They lack what only their store holds: the entropies by class."""
    listing = path.parents[1] / "cells" / path.name
    try:
        records = [record for record in _recorded(path, source) if store.state(record["key"]) == "missing"]
        if not records or not listing.exists():
            return []
        cells = {cell.key: cell for row in read_rows(listing) for cell in cells_of(row) if cell.kind == "reliability"}
        return [
            (cells[record["key"]], _result(record, ("state", "sets", "reliability_s"), source=source))
            for record in records
            if record["key"] in cells
        ]
    except ROW_ERRORS as error:
        _leave_out(source, error)
        return []


def _recorded(path: Path, source: str) -> list[Any]:
    """Return the rows of a file that git holds; none where it is no list of them, as with the marks of a conflict."""
    try:
        rows: Any = read_json(path) or []
        if not isinstance(rows, list):
            raise ValueError("no list of rows")
    except ValueError as error:
        _leave_out(source, error)
        return []
    return rows


def _leave_out(what: str, error: Exception) -> None:
    print(f"{what}: left out, no recorded result is taken from it ({type(error).__name__}: {error})", file=sys.stderr)


def _result(record: dict[str, Any], names: tuple[str, ...], *, source: str) -> dict[str, Any]:
    """Return what a recorded line holds of a cell's result, and that it comes from there."""
    provenance = {"adopted_from": source, "ended": record["provenance"]["ended"]}
    return {name: record[name] for name in names} | {"provenance": provenance}


def manifest_entry(store: Store, key: str, *, folder: Path) -> dict[str, Any]:
    """Hard-link a cell's files into a stage's output folder and return what `adopt` needs to find them again.

    Raises FileNotFoundError where the cell is no longer in the store.
    """
    done, files = store.done(key), {}
    for name in ("weights.pt", "spool.jsonl"):
        if (done / name).exists():
            files[name] = f"{key[:16]}{Path(name).suffix}"
            (folder / files[name]).unlink(missing_ok=True)
            link_or_copy(done / name, folder / files[name])
    cell, result = (json.loads((done / f"{name}.json").read_text(encoding="utf-8")) for name in ("cell", "result"))
    return {"files": files, "cell": cell, "result": result}
