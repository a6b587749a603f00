"""What `compare` sets side by side: measured rows of a scale, as they lie in the tree or at a commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from pipeline.reporting.rows import Row, check_row, read_rows


def read_side(root: Path, name: str, *, scale: str, tables: list[str]) -> list[Row]:
    """Return the rows of one side: `name` is a scale under `reports/`, or a commit (`HEAD~3`, `v1`, `HEAD:laptop`).

    `scale` is that of a commit that names none; `tables` restricts the rows, an empty list does not. Raises
    ValueError where the name is neither, or nothing is recorded under it.
    """
    if (root / "reports" / name / "metrics").is_dir():
        paths = sorted((root / "reports" / name / "metrics").glob("*.json"))
        return [row for path in paths if _wanted(path.stem, tables) for row in read_rows(path)]
    commit, _, own_scale = name.partition(":")
    folder = f"reports/{own_scale or scale}/metrics"
    listed = _git(root, "ls-tree", "--name-only", commit, f"{folder}/")
    if listed is None:
        scales = sorted(path.parent.name for path in (root / "reports").glob("*/metrics"))
        raise ValueError(f"{name!r} is neither a commit nor a scale that has rows; scales are: {', '.join(scales)}")
    rows = []
    for line in listed.splitlines():
        if line.endswith(".json") and _wanted(Path(line).stem, tables):
            rows += _rows_at(root, commit, line)
    if not rows:
        raise ValueError(f"{name!r}: commit {commit} records no rows in {folder}")
    return rows


def _wanted(table: str, tables: list[str]) -> bool:
    return table in tables if tables else table != "experiment"


def _rows_at(root: Path, commit: str, path: str) -> list[Row]:
    rows = json.loads(_git(root, "show", f"{commit}:{path}") or "[]")
    for index, row in enumerate(rows):
        check_row(row, f"{commit}:{path}, row {index}")
    return rows


def _git(root: Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None
