"""The board: what a running cell's files say of its progress."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, chain
from pipeline.cluster import waiting
from pipeline.cluster.waiting import Waiting, live_needs
from pipeline.commands.doctor import _leftovers
from pipeline.commands.garbage import find_garbage
from pipeline.commands.live import running, show_status
from pipeline.commands.partial import key_today, rows_so_far, tables_so_far, why_missing
from pipeline.commands.steering import _log_text
from pipeline.files import read_json, write_json
from pipeline.params import resolve_table
from pipeline.spool import Spool
from pipeline.store import Store
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
PARAMS = project_params()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cells")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = resolve_table(PARAMS, "table_7")
    write_json(tmp_path / "reports" / "smoke" / "cells" / "table_7.json", rows)
    write_json(tmp_path / "reports" / "smoke" / "shown.json", PARAMS["shown"])
    (tmp_path / "reports" / "published").symlink_to(PROJECT / "reports" / "published")
    return tmp_path


def hold(store: Store, cell: Cell | None = None, *, age_s: float) -> Path:
    """The work folder of a cell, else a train cell, that a worker took `age_s` seconds ago."""
    (row,) = resolve_table(PARAMS, "experiment")
    cell = cell or chain(row)[-2]
    work = store.work(cell.key)
    work.mkdir(parents=True, exist_ok=True)
    write_json(work / "cell.json", cell.to_json())
    holder = {"host": "n1", "job": "7_2", "time": time.time() - age_s, "submission": "s", "pid": 1, "token": "t"}
    write_json(work / "holder.json", holder)
    return work


def test_a_cell_that_logged_nothing_yet_has_no_step_and_no_time_left(store: Store) -> None:
    hold(store, age_s=5)
    (line,) = running(store)
    assert (line["node"], line["job"], line["restarts"]) == ("n1", "7_2", 0)
    assert line["s"] in (5, 6)
    assert not {"step", "left_s", "epoch"} & set(line)


def test_the_time_left_follows_the_pace_since_the_job_took_the_cell(store: Store) -> None:
    work = hold(store, age_s=100)
    now_ms = time.time_ns() // 1_000_000
    lines = [(5, now_ms - 900_000), (10, now_ms - 60_000), (30, now_ms - 20_000)]  # the first is an earlier life's
    text = [json.dumps({"step": step, "time_ms": at, "metrics": {"loss/a": 1.0}}) for step, at in lines]
    (work / "spool.jsonl").write_text("".join(f"{line}\n" for line in text))
    (work / "log.txt").write_text("step 10 of 40: loss/a 1\nstep 30 of 40: loss/a 1\n")
    (line,) = running(store)
    assert (line["step"], line["steps"], line["left_s"]) == (30, 40, 20)
    assert line["epoch"] == 2  # of the two that smoke has


def test_the_epoch_of_a_warm_start_is_one_of_its_own(store: Store) -> None:
    (row,) = resolve_table(PARAMS | {"scale": "paper", "dataset": "cityscapes"}, "experiment")
    warm_start = chain(row)[0]
    assert warm_start.kind == "warm_start"  # of 20 epochs; the whole run has 200
    work = hold(store, warm_start, age_s=1)
    (work / "log.txt").write_text("step 380 of 7440: loss/a 1\n")
    for step, epoch in ((380, 2), (7440, 20)):
        Spool(work / "spool.jsonl").append(step, {"loss/a": 1.0})
        (line,) = running(store)
        assert (line["step"], line["steps"], line["epoch"]) == (step, 7440, epoch)


def test_the_last_scores_and_the_restarts_are_shown(
    store: Store, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = hold(store, age_s=1)
    spool = Spool(work / "spool.jsonl")
    spool.append(2, {"val/student_miou": 40.123})
    spool.append(4, {"val/student_miou": 50.456})
    write_json(work / "holder.json", (store.holder(work.name) or {}) | {"restarts": 1})
    (line,) = running(store)
    assert (line["val/student_miou"], line["restarts"]) == (50.46, 1)
    show_status(project, store, watch=True, as_json=False)  # no terminal: once
    board = capsys.readouterr().out
    assert "50.46" in board
    assert "smoke/table_7" in board
    assert "\x1b" not in board
    show_status(project, store, watch=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["running"][0]["restarts"] == 1


READERS: dict[str, Callable[[Store], object]] = {
    "status": running,
    "gc": lambda store: find_garbage(store, set(), days=-1),
    "doctor": lambda store: _leftovers(store, mend=False),
    "cancel": live_needs,
    "logs": lambda store: [_log_text(store, path.name) for path in store.root.glob("work/*")],
}


@pytest.mark.parametrize("reader", list(READERS))
def test_who_reads_a_store_that_lives_loses_no_race_with_it(reader: str, store: Store) -> None:
    """Files go between the look and the reading, as fast as one can publish."""
    (row,) = resolve_table(PARAMS, "experiment")
    cell, enough, errors = chain(row)[-2].to_json(), threading.Event(), []
    holder = {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}

    def publish() -> None:
        for number in range(10_000):
            if enough.is_set():
                return
            key = f"{number:04}"
            store.claim(key, "s")
            token = store.hold(cell | {"key": key}, holder)
            (store.work(key) / "log.txt").write_text("step 1 of 4\n")
            (store.work(key) / "spool.jsonl").write_text('{"step": 1, "time_ms": 1, "metrics": {}}\n')
            with Waiting(store, "smoke/table_7", keys=[key]):
                store.publish(key, str(token), result={"state": "done"})
            shutil.rmtree(store.done(key))

    def publishing() -> None:
        try:
            publish()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=publishing)
    thread.start()
    try:
        for _ in range(100):
            READERS[reader](store)
    finally:
        enough.set()
        thread.join()
    assert errors == []


@pytest.mark.parametrize("reader", list(READERS))
def test_a_file_that_goes_between_the_look_and_the_reading_harms_no_reader(
    reader: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_before_it_goes(path: Path) -> dict[str, Any] | None:
        content = read_json(path)
        path.unlink()
        return content

    (hold(store, age_s=1) / ".temporary").symlink_to("gone")
    write_json(store.root / "waiting" / "mark.json", {"table": "smoke/table_7", "keys": ["k"]})
    monkeypatch.setattr(waiting, "read_json", read_before_it_goes)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    READERS[reader](store)


def finish(store: Store, row: dict[str, object], miou: float) -> None:
    *_, train, evaluate = chain(row)
    figures = {"best": {"padding_ignored": {"miou": miou, "iou": [miou] * 21}}}
    for cell, result in ((train, {"state": "done", "provenance": {}, "train_s": 1.0}), (evaluate, {"metrics": {
        "teacher": figures}})):  # fmt: skip
        store.done(cell.key).mkdir(parents=True)
        write_json(store.done(cell.key) / "result.json", result)


def test_a_table_so_far_has_what_is_done_and_says_why_the_rest_is_not(store: Store, project: Path) -> None:
    rows = resolve_table(PARAMS, "table_7")
    finish(store, rows[0], 61.5)
    *_, train, _ = chain(rows[2])
    store.fail(train.key, None, reason={"reason": "disk full"})
    found = rows_so_far(store, project / "reports" / "smoke" / "cells" / "table_7.json")
    assert [row["state"] for row in found].count("done") == 1
    assert found[2]["reason"] == "train failed: disk full"
    assert found[3]["reason"] == "warm_start not submitted"
    (text,) = tables_so_far(project, store, scale="smoke", tables=["table_7"])
    assert "61.50" in text
    assert "disk full" in text


def test_a_table_without_any_result_says_so_and_an_unknown_one_is_refused(store: Store, project: Path) -> None:
    assert tables_so_far(project, store, scale="smoke", tables=[]) == [
        "table_7: no row is measured yet: warm_start not submitted (8)\n"
    ]
    with pytest.raises(ValueError, match=r"table_9: no such table at scale smoke; allowed: table_7"):
        tables_so_far(project, store, scale="smoke", tables=["table_9"])
    with pytest.raises(ValueError, match=r"reports/nosuch/cells: no tables of scale nosuch yet; `dvc repro cells`"):
        tables_so_far(project, store, scale="nosuch", tables=[])


def test_a_row_whose_folder_of_images_is_not_here_is_a_hole(store: Store, project: Path) -> None:
    path = project / "reports" / "smoke" / "cells" / "table_7.json"
    rows = json.loads(path.read_text())
    rows[0]["data"] |= {"name": "own", "path": "own/nowhere"}
    path.write_text(json.dumps(rows))
    assert rows_so_far(store, path)[0]["reason"] == "own/nowhere is not here"


def test_a_row_of_another_version_is_a_hole(store: Store, project: Path) -> None:
    path = project / "reports" / "smoke" / "cells" / "table_7.json"
    rows = json.loads(path.read_text())
    del rows[0]["networks"]
    path.write_text(json.dumps(rows))
    assert rows_so_far(store, path)[0]["reason"].startswith("of another version (KeyError: 'networks')")
    assert len(tables_so_far(project, store, scale="smoke", tables=["table_7"])) == 1


def test_a_row_of_the_page_says_why_it_is_open(store: Store) -> None:
    row = resolve_table(PARAMS, "table_7")[0]
    *_, train, evaluate = chain(row)
    assert why_missing(store, row) == "warm_start not submitted"
    store.fail(train.key, None, reason={"reason": "ValueError: corrupt image"})
    assert why_missing(store, row) == "train failed: ValueError: corrupt image"
    assert key_today(row) == evaluate.key
    elsewhere = row | {"data": row["data"] | {"path": "nowhere/photographs"}}
    assert key_today(elsewhere) is None
    assert why_missing(store, elsewhere) == "nowhere/photographs is not here"
