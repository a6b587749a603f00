"""`why`, `logs`, `cancel`, `retry` and `gc` as they are typed, on a store with cells made by hand."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import attach
from pipeline.__main__ import main
from pipeline.cell import Cell, chain
from pipeline.cluster import stopping
from pipeline.cluster.waiting import STALE_S, Waiting, live_needs
from pipeline.commands import steering
from pipeline.files import write_json
from pipeline.params import resolve_table
from pipeline.provenance import source_state
from pipeline.store import Store, find_store
from pipeline.worker import Stop, run_submission
from tests.params import params_text, project_params

PROJECT = Path(__file__).parents[2]
PARAMS = project_params()


class Lab:
    """A project of two scales with tables 4 and 7, which share cells, and its store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "params.yaml").write_text(params_text("smoke"))
        (root / "dvc.yaml").write_text("stages: {}\n")
        (root / ".dvc").mkdir()
        for scale in ("smoke", "embedded"):
            for table in ("table_4", "table_7", "experiment"):
                write_json(root / "reports" / scale / "cells" / f"{table}.json", self.rows(table, scale))
        self.store = Store(find_store(root))

    def rows(self, table: str, scale: str = "smoke") -> list[dict[str, Any]]:
        return resolve_table(PARAMS | {"scale": scale}, table)

    def keys(self, table: str, scale: str = "smoke") -> set[str]:
        return {cell.key for row in self.rows(table, scale) for cell in chain(row)}

    def submit(self, table: str, scale: str = "smoke") -> list[Cell]:
        """Claim a table's cells, as one submission."""
        cells = {cell.key: cell for row in self.rows(table, scale) for cell in chain(row)}
        record = {"tables": {f"{scale}/{table}": list(cells)}, "site": {"executor": "local", "pack": None}}
        record |= {"cells": [cell.to_json() for cell in cells.values()], "threads": 1, "data_root": str(self.root)}
        write_json(self.store.submissions / table / "submission.json", record)
        for key in cells:
            self.store.claim(key, table)
        return list(cells.values())

    def states(self, keys: set[str]) -> set[str]:
        return {self.store.state(key) for key in keys}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)


def finish(store: Store, cell: Cell, **provenance: Any) -> None:
    store.claim(cell.key, "s")
    token = store.hold(cell.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"})
    (store.work(cell.key) / "log.txt").write_text("step 1\nstep 2\n")
    store.publish(cell.key, str(token), result={"state": "done", "provenance": provenance})


def test_why_names_the_values_the_executions_and_the_patch(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["init", "-q"], ["add", "dvc.yaml", "params.yaml"], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *command], cwd=lab.root, check=True)
    (lab.root / "reports").mkdir(exist_ok=True)
    (lab.root / "reports" / "table.json").write_text("{}")  # what stages write is no source
    assert source_state(lab.store, lab.root)["patch"] is None
    assert not source_state(lab.store, lab.root)["dirty"]
    habits = {"color.ui": "always", "diff.external": "false", "status.showUntrackedFiles": "no"}
    for name, value in habits.items():
        subprocess.run(["git", "config", name, value], cwd=lab.root, check=True)
    (lab.root / "new.py").touch()
    assert source_state(lab.store, lab.root)["dirty"]
    (lab.root / "new.py").unlink()
    (lab.root / "dvc.yaml").write_text("stages: {} # edited\n")
    state = source_state(lab.store, lab.root)
    assert state["dirty"]
    *_, train, _ = chain(lab.rows("experiment")[0])
    finish(lab.store, train, **state)
    assert main(["why", train.key[:10]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"] == train.values
    assert [line["event"] for line in told["executions"]] == ["start", "done"]
    assert "+stages: {} # edited" in told["patch"]["lines"]


def test_logs_prints_the_log_of_a_cell_and_says_where_there_is_none(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, train, evaluate = chain(lab.rows("experiment")[0])
    finish(lab.store, train)
    assert main(["logs", "-f", train.key]) == 0
    assert main(["logs", evaluate.key]) == 0  # as rows of reports/<scale>/metrics have it under `key`
    said = capsys.readouterr()
    assert said.out == 2 * "step 1\nstep 2\n"
    assert f"has no log; that of its training {train.key[:12]}" in said.err
    unsent = chain(lab.rows("table_4")[0])[-2].key  # nobody would ever write what -f could wait for
    assert [main(["logs", *words, unsent]) for words in ([], ["-f"])] == [1, 1]
    assert capsys.readouterr().err.count("is not submitted and has no log\n") == 2


def test_logs_follows_a_cell_to_its_end_and_prints_each_line_once(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "time", SimpleNamespace(sleep=lambda _: time.sleep(0.1)))
    *_, train, _ = chain(lab.rows("experiment")[0])
    lab.store.claim(train.key, "s")
    token = str(lab.store.hold(train.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}))

    def work() -> None:
        with (lab.store.work(train.key) / "log.txt").open("a", buffering=1) as log:
            for step in range(30):
                print(f"step {step}: \u03b1 = 0.2", file=log)
                time.sleep(0.02)
        lab.store.publish(train.key, token, result={"state": "done"})

    worker = threading.Thread(target=work)
    worker.start()
    assert main(["logs", "-f", train.key]) == 0
    assert lab.store.is_done(train.key)
    worker.join()
    assert capsys.readouterr().out == "".join(f"step {step}: \u03b1 = 0.2\n" for step in range(30))


def test_logs_prints_no_line_twice_when_the_cell_is_published_between_two_looks(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "time", SimpleNamespace(sleep=lambda _: None))
    *_, train, _ = chain(lab.rows("experiment")[0])
    lab.store.claim(train.key, "s")
    token = str(lab.store.hold(train.to_json(), {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}))
    (lab.store.work(train.key) / "log.txt").write_text("step 1\n")
    looks, read = 0, Path.read_text

    def publish_before(path: Path, **how: str) -> str:
        nonlocal looks
        if path == lab.store.work(train.key) / "log.txt":
            looks += 1
            if looks == 2:
                lab.store.publish(train.key, token, result={"state": "done"})
        return read(path, **how)

    monkeypatch.setattr(Path, "read_text", publish_before)
    assert main(["logs", "-f", train.key]) == 0
    assert looks == 2
    assert capsys.readouterr().out == "step 1\n"


def test_cancelling_a_table_stops_it_alone_and_at_this_scale_alone(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    done = lab.submit("table_7")[0]
    finish(lab.store, done)
    lab.submit("table_7", "embedded")
    assert main(["cancel", "table_7"]) == 0
    assert lab.states(lab.keys("table_7") - {done.key}) == {"cancelled"}
    assert lab.store.is_done(done.key)
    assert lab.states(lab.keys("table_7", "embedded")) == {"queued"}
    assert f"{len(lab.keys('table_7')) - 1} cells cancelled" in capsys.readouterr().out
    assert main(["retry", "table_7"]) == 0
    assert lab.states(lab.keys("table_7") - {done.key}) == {"missing"}


def test_what_a_command_writes_a_colleague_may_write_too(lab: Lab) -> None:
    lab.store.root.mkdir(parents=True)
    lab.store.root.chmod(0o2775)
    before = os.umask(0o022)
    try:
        assert main(["cancel", "table_7"]) == 0
    finally:
        os.umask(before)
    written = [lab.store.root / "cancelled", *(lab.store.root / "cancelled").iterdir()]
    assert len(written) == 1 + len(lab.keys("table_7"))
    written += lab.store.root.glob("executions.*")
    assert [path for path in written if not path.stat().st_mode & stat.S_IWGRP] == []


@pytest.mark.parametrize("living", ["claimed", "waited for"])
def test_what_another_live_table_needs_is_spared(lab: Lab, living: str, capsys: pytest.CaptureFixture[str]) -> None:
    shared = lab.keys("table_7") & lab.keys("table_4")
    assert shared
    lab.submit("table_7")
    if living == "claimed":
        lab.submit("table_4")
        main(["cancel", "table_7"])
    else:
        with Waiting(lab.store, "smoke/table_4", keys=lab.keys("table_4")):
            main(["cancel", "table_7"])
    assert lab.states(shared) == {"queued"}
    assert lab.states(lab.keys("table_7") - shared) == {"cancelled"}
    assert f"{len(shared)} spared" in capsys.readouterr().out


def test_a_driver_that_was_suspended_for_long_marks_itself_anew(lab: Lab) -> None:
    with Waiting(lab.store, "smoke/table_4", keys=["k"]) as mark:
        mark.path.unlink()  # as `doctor` does with what was not touched for long
        assert live_needs(lab.store) == []
        mark.beat()
        assert live_needs(lab.store) == [("smoke/table_4", {"k"})]
    assert list((lab.store.root / "waiting").iterdir()) == []


def test_a_cell_that_two_live_tables_need_is_not_cancelled(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab.submit("table_7")
    lab.submit("table_4")
    shared = sorted(lab.keys("table_7") & lab.keys("table_4"))[0]
    assert main(["cancel", shared]) == 1
    assert "smoke/table_4, smoke/table_7 need it" in capsys.readouterr().err
    assert lab.store.state(shared) == "queued"


def test_the_mark_of_a_dead_driver_counts_no_more(lab: Lab) -> None:
    with Waiting(lab.store, "smoke/table_4", keys=["k"]) as mark:
        assert live_needs(lab.store) == [("smoke/table_4", {"k"})]
        long_ago = time.time() - STALE_S - 10
        os.utime(mark.path, (long_ago, long_ago))
        assert live_needs(lab.store) == []
        mark.beat()
        assert live_needs(lab.store) == [("smoke/table_4", {"k"})]
    assert live_needs(lab.store) == []


def test_a_waiting_driver_ends_with_the_reason_and_submits_no_cancelled_cell(lab: Lab) -> None:
    cells = lab.submit("table_7")
    main(["cancel", "table_7"])
    started: list[int] = []
    ends = attach.wait(lab.store, {cell.key: cell for cell in cells}, start=lambda: started.append(1), title="test")
    assert started == []
    assert all(end["reason"].startswith("cancelled by ") for end in ends.values())
    assert len(ends) == len(cells)


def test_the_worker_of_a_cancelled_cell_saves_it_and_goes_on_with_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is killed; what comes after the cancelled cell is cancelled too."""
    monkeypatch.setattr(stopping, "CANCEL_S", 0.0)
    cells = lab.submit("experiment")
    first = cells[0]

    def compute(cell: Cell, *_: Any, work: Path, stop: Callable[[], bool], **__: Any) -> dict[str, Any]:
        if cell.kind == "train":
            main(["cancel", cell.key])
        if stop():
            (work / "checkpoint.pt").write_text("saved")
            raise stopping.StoppedError
        return {"state": "done"}

    monkeypatch.setattr("pipeline.run.compute", compute)
    assert run_submission(lab.store, "experiment", limit=None, stop=Stop()) == 1
    assert [lab.store.state(cell.key) for cell in cells] == ["done", "cancelled", "cancelled"]
    assert (lab.store.work(cells[1].key) / "checkpoint.pt").exists()
    assert lab.store.holder(cells[1].key) is None
    assert lab.store.is_done(first.key)


def test_retry_of_a_cell_forgets_what_failed_because_of_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    cells = lab.submit("experiment")
    other = lab.submit("table_7")[0]
    lab.store.fail(other.key, None, reason={"reason": "its own"})
    lab.store.fail(cells[0].key, None, reason={"reason": "no luck"})
    run_submission(lab.store, "experiment", limit=None, stop=Stop())
    assert {lab.store.state(cell.key) for cell in cells} == {"failed"}
    assert main(["retry", cells[1].key[:12]]) == 0
    assert f"{len(cells)} failures and cancellings forgotten" in capsys.readouterr().out
    assert {lab.store.state(cell.key) for cell in cells} == {"missing"}
    assert lab.store.state(other.key) == "failed"


def test_gc_says_what_would_go_and_force_removes_it(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    stray, kept = lab.store.work("stray"), lab.store.work(next(iter(lab.keys("table_7"))))
    for folder in (stray, kept):
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(bytes(2**20))
    assert main(["gc", "--days", "0"]) == 0
    assert "work/stray\n1 folders would go (--force removes them), 1.0 MiB" in capsys.readouterr().out
    assert stray.exists()
    assert main(["gc", "--days", "0", "--force"]) == 0
    assert not stray.exists()
    assert kept.exists()
