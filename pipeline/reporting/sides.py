"""What `compare` sets side by side: measured rows of a scale, as they lie in the tree or at a commit."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.reporting.rows import BY_DEFAULT, NOISE_TABLE, Row, Shown, check_row, read_rows, read_shown


@dataclass(frozen=True, kw_only=True)
class Side:
    """Measured rows, which of their figures that scale shows, and its rows with several seeds (none: empty)."""

    name: str
    rows: list[Row]
    shown: Shown = BY_DEFAULT
    noise_rows: tuple[Row, ...] = ()


def read_side(root: Path, name: str, *, scale: str, tables: list[str]) -> Side:
    """Return one side: `name` is a scale under `reports/`, or a commit (`HEAD~3`, `v1`, `HEAD:laptop`).

    `scale` is that of a commit that names none; `tables` restricts the rows, an empty list does not. Raises
    ValueError where the name is neither, or nothing is recorded under it.
    """
    folder = root / "reports" / name
    if (folder / "metrics").is_dir():
        found = {path.stem: read_rows(path) for path in sorted((folder / "metrics").glob("*.json"))}
        shown = read_shown(folder) if (folder / "shown.json").exists() else BY_DEFAULT
        return _side(name, found, shown=shown, tables=tables)
    commit, _, own_scale = name.partition(":")
    inside = f"reports/{own_scale or scale}"
    listed = _git(root, "ls-tree", "--name-only", commit, f"{inside}/metrics/")
    if listed is None:
        scales = sorted(path.parent.name for path in (root / "reports").glob("*/metrics"))
        raise ValueError(f"{name!r} is neither a commit nor a scale that has rows; scales are: {', '.join(scales)}")
    found = {
        Path(line).stem: _rows_at(root, commit, path=line) for line in listed.splitlines() if line.endswith(".json")
    }
    text = _git(root, "show", f"{commit}:{inside}/shown.json")
    side = _side(name, found, shown=Shown(**json.loads(text)) if text else BY_DEFAULT, tables=tables)
    if not side.rows:
        raise ValueError(f"{name!r}: commit {commit} records no rows in {inside}/metrics")
    return side


def _side(name: str, found: dict[str, list[Row]], *, shown: Shown, tables: list[str]) -> Side:
    if found and (lacking := [table for table in tables if table not in found]):
        raise ValueError(f"{name!r} has no rows of {', '.join(lacking)}; it has: {', '.join(found)}")
    wanted = [table for table in found if (table in tables if tables else table != "experiment")]
    rows = [row for table in wanted for row in found[table]]
    return Side(name=name, rows=rows, shown=shown, noise_rows=tuple(found.get(NOISE_TABLE, ())))


def _rows_at(root: Path, commit: str, *, path: str) -> list[Row]:
    rows = json.loads(_git(root, "show", f"{commit}:{path}") or "[]")
    for index, row in enumerate(rows):
        check_row(row, f"{commit}:{path}, row {index}")
    return rows


def _git(root: Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None
