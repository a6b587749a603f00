"""The stages that make data and lists depend on the files that do so, on all of them and on no other."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.data.sources import ARCHIVES
from stages import download, partitions

PROJECT = Path(__file__).parents[2]
FILES = [PROJECT / "dvc.yaml", *sorted(PROJECT.glob("reports/*/dvc.yaml"))]


def imported(path: Path, *, lazily: bool) -> list[Path]:
    """The files of the package that one imports at its top, or wherever in it."""
    tree, names = ast.parse(path.read_text()), list[str]()
    for node in ast.walk(tree) if lazily else tree.body:
        if isinstance(node, ast.ImportFrom):
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = [PROJECT / f"{name.replace('.', '/')}.py" for name in names if name.startswith("pipeline.")]
    return [file for file in files if file.is_file()]


def needed(begin: Iterable[str], *, lazily: bool) -> list[str]:
    """The files of pipeline/data that these files run; the guard only looks whether something was edited."""
    found, pending = {PROJECT / "pipeline" / "guard.py"}, [PROJECT / name for name in begin]
    while pending:
        path = pending.pop()
        if path not in found:
            found.add(path)
            pending += imported(path, lazily=lazily)
    return sorted(path.relative_to(PROJECT).as_posix() for path in found if path.parent.name == "data")


DOWNLOAD = needed(["stages/download.py", *(f"pipeline/data/{name}.py" for name in ARCHIVES)], lazily=True)
PARTITIONS = needed(["stages/partitions.py"], lazily=False)  # what it imports draws sources too, if asked to


def test_the_stages_watch_the_code_that_they_run() -> None:
    assert sorted(map(str, download.CODE)) == DOWNLOAD
    assert sorted(map(str, partitions.CODE)) == PARTITIONS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_data_is_made_again_after_an_edit_of_what_makes_it_and_of_nothing_else(path: Path) -> None:
    stages = YAML(typ="safe").load(path.read_text())["stages"]
    for name, expected in (("download", DOWNLOAD), ("partitions", PARTITIONS)):
        block = stages.get(name, {})
        listed = block.get("do", block).get("deps", expected)
        assert [dep for dep in listed if dep.startswith("pipeline/")] == expected
