"""What a command is told to look at or steer: a table, a cell, of this code or older, from anywhere in the project."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from pipeline.__main__ import main
from pipeline.cell import Cell
from pipeline.commands import outlook
from pipeline.commands.past import Past
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


@pytest.mark.parametrize("command", ["cancel", "retry"])
@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("table_77", "no table or cell is named 'table_77'; tables of scale smoke: table_1, .*; did you mean table_7?"),
        ("zzz", "no table or cell is named 'zzz'; tables of scale smoke: table_1, .*, experiment$"),
        ("0000000", "'0000000': 0 cells have a key that begins like this"),
        ("table_5", "nothing of table_5 is queued or running: it has no cells at scale smoke yet"),
    ],
)
def test_what_is_to_be_steered_must_be_there(
    lab: Lab, command: str, target: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in lab.submit("table_4")[:2]:
        lab.store.cancel(cell.key, {"reason": "-"})
    assert main([command, target]) == 1
    assert re.search(told, capsys.readouterr().err.strip())
    assert main([command, "table_4"]) == 0


def test_where_nothing_is_left_to_be_steered_it_is_said(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in (cells := lab.submit("table_7")):
        finish(lab.store, cell)
    assert main(["cancel", "table_7"]) == 0
    assert capsys.readouterr().out == "nothing of table_7 is queued or running\n"
    assert main(["retry", cells[0].key[:12]]) == 0
    assert capsys.readouterr().out == f"{cells[0].name} has not failed and is not cancelled\n"
    for cell in [cell for cell in lab.submit("table_4") if not lab.store.is_done(cell.key)][:2]:
        lab.store.cancel(cell.key, {"reason": "-"})
    assert main(["retry", ""]) == 1
    assert "'' begins 2 keys of failed or cancelled cells" in capsys.readouterr().err


def planned(lab: Lab, monkeypatch: pytest.MonkeyPatch, targets: list[str], *, fault: str = "") -> list[str]:
    """What DVC is asked to plan for these targets, which it does or says a fault."""
    asked: list[str] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        asked.extend(command[command.index("--targets") + 1 :])
        return SimpleNamespace(returncode=bool(fault), stdout="{}", stderr=f"Traceback\n{fault}\n")

    monkeypatch.setattr(outlook, "load_site", lambda _: {})
    monkeypatch.setattr(outlook.subprocess, "run", run)
    outlook.stages_ahead(lab.root, lab.store, targets=targets, past=Past(lab.store, lab.root))
    return asked


def test_a_plan_takes_tables_that_were_just_added_wherever_their_stages_are(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.root / "dvc.yaml").write_text("items: {table_7: {}, table_1: {}}\n")
    inner = lab.root / "reports" / "extra" / "dvc.yaml"
    inner.parent.mkdir()
    inner.write_text("items: [table_x1]\n")
    stages = ["tables@table_1", "reports/extra/dvc.yaml:tables@table_x1", "evaluate@table_7"]
    assert planned(lab, monkeypatch, ["table_1", "table_x1", "evaluate@table_7"]) == stages
    with pytest.raises(ValueError, match=r"^table_2 is in params.yaml, but in no dvc.yaml: add it"):
        planned(lab, monkeypatch, ["table_2"])
    with pytest.raises(ValueError, match=r"^table_x6 is no table of scale smoke, which params.yaml chooses$"):
        planned(lab, monkeypatch, ["table_x6"])


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("dvc.scm.SCMError: /a is not a git repository", "this folder is no git repository; run `git init`"),
        (
            "dvc.stage.exceptions.StageNotFound: Stage 'a' not found inside 'dvc.yaml' file",
            "Stage 'a' not found inside 'dvc.yaml' file; a target is a table or a stage of `dvc.yaml`",
        ),
        ("some words: and more", "some words: and more"),
    ],
)
def test_what_dvc_refuses_is_told_in_words(lab: Lab, fault: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=rf"^DVC cannot plan a: {re.escape(told)}$"):
        planned(lab, monkeypatch, ["a"], fault=fault)


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
