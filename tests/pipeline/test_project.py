"""A command typed below the project's folder: what it names stays what it is there."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from pipeline.commands.project import enter_project
from pipeline.files import write_json


@pytest.mark.parametrize("has_cell", [False, True])
def test_the_name_of_a_table_is_no_folder_unless_a_trained_cell_lies_there(
    has_cell: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reports/<scale>/plots/experiment` is the folder of a table's curves; `experiment` means its cell there too."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    here = tmp_path / "reports" / "smoke" / "plots"
    (here / "experiment").mkdir(parents=True)
    if has_cell:
        write_json(here / "experiment" / "cell.json", {})
    monkeypatch.chdir(here)
    options = Namespace(cell="experiment", out=Path("out"))
    assert enter_project(options) == Path.cwd() == tmp_path
    assert options.cell == (str(here / "experiment") if has_cell else "experiment")
    assert options.out == here / "out"
