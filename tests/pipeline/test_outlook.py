"""What `plan` prints: cells by state, the time past cells tell, and counted operations where none has run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import listings
from pipeline.cell import chain
from pipeline.commands import outlook
from pipeline.files import write_json
from pipeline.params import resolve_table
from pipeline.store import Store
from tests.pipeline.test_past import ran

PROJECT = Path(__file__).parents[2]


def test_with_past_cells_the_time_is_theirs_and_without_it_is_counted(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, rows = Store(tmp_path / "cells"), resolve_table(params, "table_7")
    site: dict[str, Any] = {"parameters": {}, "kinds": {}, "datasets": {}}
    other = resolve_table(params | {"scale": "embedded"}, "table_7")  # of another scale: nothing of it counts
    monkeypatch.setattr(
        outlook, "tables_of", lambda _root: {("smoke", "table_7"): rows, ("embedded", "table_7"): other}
    )
    monkeypatch.setattr(outlook, "current_scale", lambda _root: "smoke")
    monkeypatch.setattr(outlook, "load_site", lambda _root: site)
    monkeypatch.setattr(outlook.subprocess, "run", lambda *_, **__: Planned('{"train@table_7": ["new"]}'))
    outlook.show_plan(tmp_path, store, targets=[], tflops=1e-6, as_json=False)
    shown = capsys.readouterr().out
    trainings = len({chain(row)[-2].key for row in rows})
    assert re.search(rf"train@table_7 +{trainings} not submitted +new", shown)
    counted = re.search(
        rf"{trainings} trainings whose like never ran here: (\S+) PFLOP counted, (\S+) GPU-hours", shown
    )
    assert counted
    assert float(counted[2].replace(",", "")) == pytest.approx(float(counted[1]) * 1e15 / 1e6 / 3600, rel=0.1)
    ran(store, chain(other[0])[-2], took_s=7200)
    for cell in {row["partition"]: chain(row)[-2] for row in rows}.values():  # smoke's epochs are passes over them
        ran(store, cell, took_s=120)
    site["parameters"] |= {"nodes": 2, "gpus_per_node": 4}
    outlook.show_plan(tmp_path, store, targets=[], tflops=50, as_json=False)
    shown, left = capsys.readouterr().out, trainings - store_done(store, rows)
    hours = f"{2 * left * 8 / 60:,.2g}"
    assert f"about {2 * left} min of one worker, {hours} GPU-hours (median of past cells like them, " in shown
    assert "never ran here" not in shown


def store_done(store: Store, rows: list[dict[str, Any]]) -> int:
    return sum(store.is_done(key) for key in {chain(row)[-2].key for row in rows})


def test_tables_on_a_folder_that_is_not_here_are_left_out(params: dict[str, Any], tmp_path: Path) -> None:
    rows = resolve_table(params, "table_7")
    rows[0]["data"]["path"] = "own/photos"
    write_json(tmp_path / "reports" / "laptop" / "cells" / "table_7.json", rows)
    write_json(tmp_path / "reports" / "smoke" / "cells" / "table_7.json", rows[1:])
    assert list(listings.tables_of(tmp_path)) == [("smoke", "table_7")]
    (tmp_path / "own" / "photos").mkdir(parents=True)
    assert len(listings.tables_of(tmp_path)) == 2


def test_rows_of_another_version_are_left_out_and_named_once(
    params: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch that lacks a method, or has other fields, still reads what the other tables hold."""
    rows = resolve_table(params, "table_7")
    older = {name: value for name, value in rows[1].items() if name != "data"}
    path = tmp_path / "reports" / "smoke" / "cells" / "table_7.json"
    write_json(path, [rows[0] | {"method": "removed"}, older, *rows[2:]])
    write_json(path.with_name("table_4.json"), [older])
    for _ in range(2):
        assert listings.tables_of(tmp_path) == {("smoke", "table_7"): rows[2:]}
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0].removeprefix("left out: ") for line in told] == [
        f"{place}: row {number}" for place, number in ((path.with_name("table_4.json"), 1), (path, 1), (path, 2))
    ]


class Planned:
    """What DVC's plan answered."""

    returncode = 0

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout


def test_the_plan_of_a_scale_is_written_as_markdown_with_what_it_assumes(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "load_params", lambda _path: params)
    out = tmp_path / "reports" / "smoke" / "plan.md"
    outlook.show_scale(tmp_path, "smoke", tables=["table_7"], tflops=20, out=out, as_json=False)
    text = out.read_text()
    assert "20 TFLOP/s sustained" in text
    table = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert [cells[0].strip() for cells in table] == ["table", "---", "table_7", "all"]
    assert len({len(cells) for cells in table}) == 1
    memory = [float(cell) for cell in table[2][-4:]]
    assert memory == sorted(memory, reverse=True)


def test_the_kept_plan_assumes_what_todays_does() -> None:
    kept = (PROJECT / "reports" / "paper" / "plan.md").read_text().splitlines()
    assert [line for line in outlook.ASSUMED if "{" not in line and line not in kept] == []
