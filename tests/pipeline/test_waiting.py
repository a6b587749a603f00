"""Who needs which cells, where several tables of one name live at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.cell import chain
from pipeline.cluster.waiting import Waiting, live_needs
from pipeline.commands.garbage import find_garbage
from pipeline.files import write_json
from pipeline.params import resolve_table
from tests.pipeline import test_steering
from tests.pipeline.test_steering import PARAMS, Lab

lab = test_steering.lab


def keys_at(alpha0: float) -> set[str]:
    """The cells of an experiment: others train it, all share its warm start."""
    return {
        cell.key
        for row in resolve_table(PARAMS | {"scale": "smoke", "alpha0": alpha0}, "experiment")
        for cell in chain(row)
    }


def test_cancelling_an_experiment_spares_what_another_one_waits_for(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = lab.keys("experiment") & keys_at(0.35)
    assert shared
    with Waiting(lab.store, "smoke/experiment", keys=keys_at(0.35)):
        assert main(["cancel", "experiment"]) == 0
    assert lab.states(shared) == {"missing"}
    assert lab.states(lab.keys("experiment") - shared) == {"cancelled"}
    assert f"{len(shared)} spared" in capsys.readouterr().out


def test_a_cancelled_experiment_takes_no_other_along(lab: Lab) -> None:
    with (
        Waiting(lab.store, "smoke/experiment", keys=["a", "b"]),
        Waiting(lab.store, "smoke/experiment", keys=["b", "c"]),
    ):
        lab.store.cancel("a", {"reason": "x"})
        assert live_needs(lab.store) == [("smoke/experiment", {"b", "c"})]


def test_tables_that_spare_each_others_cells_are_cancelled_together(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    for table in ("table_4", "table_7"):
        lab.submit(table)
    shared = lab.keys("table_4") & lab.keys("table_7")
    for key in (lab.keys("table_4") | lab.keys("table_7")) - shared:
        write_json(lab.store.done(key) / "result.json", {})
    for table in ("table_4", "table_7"):
        assert main(["cancel", table]) == 0
    assert capsys.readouterr().out.count(f"0 cells cancelled until `retry`, {len(shared)} spared") == 2
    assert main(["cancel", sorted(shared)[0]]) == 1
    assert "cancel these tables together" in capsys.readouterr().err
    assert main(["cancel", "table_4", "table_7"]) == 0
    assert lab.states(shared) == {"cancelled"}


def test_a_cancelled_cell_that_ends_all_the_same_is_done_and_no_more(lab: Lab) -> None:
    cells = lab.submit("experiment")
    token = lab.store.hold(cells[-1].to_json(), {"submission": "experiment", "host": "n1", "pid": 1, "job": "7_0"})
    assert token
    lab.store.cancel(cells[-1].key, {"reason": "x"})
    lab.store.publish(
        cells[-1].key, token, result={"state": "done"}
    )  # evaluations do not look whether they are to stop
    assert lab.store.cancelled(cells[-1].key) is None
    assert [name for name, _ in live_needs(lab.store)] == ["smoke/experiment"]


def test_gc_removes_nothing_where_a_listing_cannot_be_read(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    listing = lab.root / "reports" / "embedded" / "cells" / "table_7.json"
    done = [lab.store.done(key) for key in lab.keys("table_7", "embedded")]
    for folder in done:
        write_json(folder / "result.json", {})
        for path in (folder / "result.json", folder):
            os.utime(path, (1e9, 1e9))
    text = listing.read_text()
    listing.write_text(f"<<<<<<< HEAD\n{text}")
    assert main(["gc", "--done", "--force"]) == 1
    assert "cannot tell which cells are needed" in capsys.readouterr().err
    listing.write_text(text)
    assert main(["gc", "--done", "--force"]) == 0
    assert all(folder.exists() for folder in done)


def test_what_a_table_waits_for_is_no_garbage_although_a_cell_of_it_is_cancelled(lab: Lab) -> None:
    done = lab.store.done("a")
    write_json(done / "result.json", {})
    for path in (done / "result.json", done):
        os.utime(path, (1e9, 1e9))
    with Waiting(lab.store, "smoke/table_7", keys=["a", "b"]):
        lab.store.cancel("b", {"reason": "x"})
        assert find_garbage(lab.store, set(), done=True) == []
    assert find_garbage(lab.store, set(), done=True) == [done]


def test_a_command_typed_below_the_project_reads_the_projects_paths_and_keeps_what_was_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, Path, str]] = []
    below = lab.root / "reports" / "smoke"
    write_json(below / "copy" / "cell.json", {})
    monkeypatch.chdir(below)
    monkeypatch.setattr(
        "pipeline.__main__._predict", lambda root, _, options: seen.append((Path.cwd(), options.out, options.cell))
    )
    main(["predict", "copy", "images", "--out", "out"])
    monkeypatch.chdir(below)
    main(["predict", "3f2a", "images", "--out", "out"])
    assert seen == [(lab.root, below / "out", str(below / "copy")), (lab.root, below / "out", "3f2a")]
