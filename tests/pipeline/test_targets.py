"""What a command is told to look at or steer: a table, a cell, of this code or older, from anywhere in the project."""

from __future__ import annotations

import pytest

from pipeline.__main__ import main
from pipeline.cell import Cell
from tests.pipeline.test_steering import Lab, finish, lab

__all__ = ["lab"]


def test_tables_that_share_cells_do_not_keep_them_from_being_cancelled_for_ever(lab: Lab) -> None:
    shared = lab.keys("table_7") & lab.keys("table_4")
    for table in ("table_4", "table_7"):
        lab.submit(table)
    main(["cancel", "table_4"])
    assert lab.states(shared) == {"queued"}
    main(["cancel", "table_7"])
    assert lab.states(shared) == {"cancelled"}


@pytest.mark.parametrize("first", [0, 1, 2])
def test_cancelling_a_cell_cancels_what_comes_after_it_where_nobody_works_on_either(
    lab: Lab, first: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is there a worker to see that the cell before is cancelled."""
    cells = lab.submit("experiment")
    assert [cell.kind for cell in cells] == ["warm_start", "train", "evaluate"]
    assert main(["cancel", cells[first].key]) == 0
    states = [lab.store.state(cell.key) for cell in cells]
    assert states == ["queued"] * first + ["cancelled"] * (3 - first)


def test_a_cell_of_older_code_is_found_in_the_store(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    cell = Cell("train", lab.rows("table_4")[0] | {"was": "other"}, (), "0123abcd" * 8)
    finish(lab.store, cell)
    assert main(["logs", "0123abcd"]) == 0
    assert capsys.readouterr().out == "step 1\nstep 2\n"


@pytest.mark.parametrize("target", ["table_99", "zzz", ""])
def test_what_is_to_be_tried_again_must_be_there(lab: Lab, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in lab.submit("table_4")[:2]:
        lab.store.cancel(cell.key, {"reason": "-"})
    assert main(["retry", target]) == 1
    assert f"{target!r} is no table of scale smoke, and begins" in capsys.readouterr().err
    assert main(["retry", "table_4"]) == 0


def test_a_torn_file_of_one_table_hides_that_table_alone(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.root / "reports" / "embedded" / "cells" / "table_4.json").write_text("<<<<<<< HEAD\n")
    assert main(["status", "--json"]) == 0
    said = capsys.readouterr()
    assert "table_7" in said.out
    assert "table_4.json" in said.err


def test_commands_find_the_project_from_a_folder_with_stages_of_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = lab.root / "reports" / "extra"
    inner.mkdir()
    (inner / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(inner)
    assert main(["status", "--json"]) == 0
    assert "table_7" in capsys.readouterr().out
    assert [path.name for path in inner.iterdir()] == ["dvc.yaml"]
