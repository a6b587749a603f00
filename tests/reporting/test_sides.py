"""The sides of a comparison: a scale, a commit, a scale at a commit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.rows import Shown
from pipeline.reporting.sides import read_side

Row = dict[str, Any]


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path, make_row: Callable[..., Row]) -> Path:
    """A repository whose first commit has 60.0, whose second and working tree have 61.0 and 62.0."""
    git(tmp_path, "init", "-q")
    for miou in (60.0, 61.0, 62.0):
        for table in ("table_2", "table_7", "experiment"):
            rows = [make_row(table, {"method": "MT"}, "1/8 (1323)", miou=miou)]
            path = tmp_path / "reports" / "embedded" / "metrics" / f"{table}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows))
        if miou < 62:
            git(tmp_path, "add", "-A")
            git(tmp_path, "commit", "-q", "-m", str(miou))
    return tmp_path


def mious(rows: list[Row]) -> set[float]:
    return {row["metrics"]["teacher"]["best"]["padding_ignored"]["miou"] for row in rows}


def test_a_scale_is_what_lies_in_the_tree_and_a_commit_what_it_recorded(root: Path) -> None:
    for name, miou in (("embedded", 62.0), ("HEAD", 61.0), ("HEAD~1", 60.0), ("HEAD~1:embedded", 60.0)):
        rows = read_side(root, name, scale="embedded", tables=[]).rows
        assert mious(rows) == {miou}
        assert {row["table"] for row in rows} == {"table_2", "table_7"}


def test_tables_can_be_chosen(root: Path) -> None:
    for name in ("embedded", "HEAD"):
        side = read_side(root, name, scale="embedded", tables=["table_7"])
        assert {row["table"] for row in side.rows} == {"table_7"}


@pytest.mark.parametrize("name", ["embedded", "HEAD"])
def test_a_table_that_is_not_there_is_named(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' has no rows of table_99; it has: .*table_2, table_7"):
        read_side(root, name, scale="embedded", tables=["table_99", "table_2"])


def test_a_side_brings_what_its_scale_shows_and_its_seeds(root: Path, make_row: Callable[..., Row]) -> None:
    assert read_side(root, "HEAD", scale="embedded", tables=[]).shown == Shown()
    folder = root / "reports" / "embedded"
    (folder / "shown.json").write_text(json.dumps({"epoch": "last"}))
    seeds = [make_row("table_x3", {"method": "MT"}, "1/8 (1323)", miou=60 + seed, seed=seed) for seed in range(2)]
    (folder / "metrics" / "table_x3.json").write_text(json.dumps(seeds))
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "seeds")
    for name in ("embedded", "HEAD"):
        side = read_side(root, name, scale="embedded", tables=["table_7"])
        assert (side.shown, list(side.noise_rows)) == (Shown(epoch="last"), seeds)
    assert read_side(root, "HEAD~1", scale="embedded", tables=[]).noise_rows == ()


def test_what_is_neither_and_what_recorded_nothing_are_refused(root: Path) -> None:
    with pytest.raises(
        ValueError, match="'nowhere' is neither a commit nor a scale that has rows; scales are: embedded"
    ):
        read_side(root, "nowhere", scale="embedded", tables=[])
    with pytest.raises(ValueError, match="commit HEAD records no rows in reports/laptop/metrics"):
        read_side(root, "HEAD:laptop", scale="embedded", tables=[])
