"""Where a number comes from, when, under which code, at what cost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.reporting.provenance import commit_of, duration
from pipeline.reporting.rows import read_rows

Row = dict[str, Any]


def test_a_number_tells_its_cell_commit_job_and_settings(few: Path, page_of: Callable[..., str]) -> None:
    row = read_rows(few / "metrics" / "table_a6.json")[2]
    text = page_of()
    start = text.index('id="table_a6-2-0"')
    shown = text[start : text.index('id="table_a6-3-0"')]
    for fact in (
        row["key"],
        row["train_key"],
        row["provenance"]["commit"],
        "local-4711",
        "n001",
        "best epoch",
        "torch 2.14.1",
    ):
        assert fact in shown
    assert re.search(r"<dt>lr</dt>\s*<dd>0.006</dd>", shown)
    assert re.search(r"<dt>student, last epoch, padding ignored</dt>\s*<dd>\d+\.\d\d</dd>", shown)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"dirty": False, "patch": None}, "0f3c2a9d1b"),
        ({"dirty": True, "patch": "ab12"}, "0f3c2a9d1b with uncommitted changes"),
        ({"dirty": True, "patch": None}, "0f3c2a9d1b with new files"),
    ],
)
def test_a_commit_is_named_with_what_differed_from_it(facts: dict[str, Any], words: str) -> None:
    assert commit_of({"commit": "0f3c2a9d1b7e4c55aa0199e2d7f0c3b4a5968712"} | facts) == words


def test_a_number_tells_how_to_find_its_run_in_mlflow_when_it_ran_and_what_it_cost(
    few: Path, page_of: Callable[..., str]
) -> None:
    row = read_rows(few / "metrics" / "table_a6.json")[2]
    text = page_of()
    shown = text[text.index('id="table_a6-2-0"') : text.index('id="table_a6-3-0"')]
    search = f"tags.cell_key = &#39;{row['train_key']}&#39;"
    assert f"<dt>MLflow search</dt><dd><code>{search}</code></dd>" in shown
    assert "<dt>started</dt><dd>2026-01-05 10:00:00 UTC</dd>" in shown
    assert "<dt>ended</dt><dd>2026-01-05 10:00:30 UTC</dd>" in shown
    assert "the newest ended 2026-01-05 10:00:30 UTC" in text
    for fact in ("<dt>evaluation time</dt><dd>2 s", "<dt>peak memory</dt><dd>837 MiB", "<dt>cost of a step</dt><dd>4."):
        assert fact in shown


def test_every_table_of_the_paper_says_what_its_rows_cost(page_of: Callable[..., str]) -> None:
    text = page_of()
    prices = text[text.index("<summary>What Table 2 cost") :]
    prices = prices[: prices.index("</details>")]
    for name, units in (("SupOnly", "1.00"), ("U2PL (w/ CutMix)", "4.51")):
        cells = ("units a step", units), ("steps", "400"), ("train s", "30.0"), ("evaluate s", "1.5"), ("memory", "837")
        found = re.findall(r'class="n">([^<]+)<', prices[prices.index(f'<th scope="row">{name}</th>') :])
        assert found[:5] == [cell for _, cell in cells]
    assert "What Table X3 cost" not in text  # its costs are columns


def test_rows_measured_under_older_code_are_shown_marked_and_counted(few: Path, page_of: Callable[..., str]) -> None:
    rows = read_rows(few / "metrics" / "table_a6.json")
    older = {json.dumps(row["row"]) for row in rows[:2]}

    def key_of(cell: Row) -> str:
        is_older = cell["table"] == "table_a6" and json.dumps(cell["row"]) in older
        return "0" * 64 if is_older else next(row["key"] for row in _rows(few, cell["table"]) if _same(row, cell))

    text = page_of(key_of=key_of)
    shown = re.search(r'data-cell="table_a6-0-0".*?class="value">([^<]+)<', text)
    assert shown is not None
    assert shown[1] == f"{rows[0]['metrics']['teacher']['best']['padding_ignored']['miou']:.2f}"
    assert "<dt>older code</dt><dd>2</dd>" in text
    assert "<dt>older code</dt><dd>0</dd>" in page_of()
    entries = {line: text[text.index(f'data-cell="table_a6-{line}-0"') :][:900].split("</td>")[0] for line in range(5)}
    assert ["‡" in entries[line] for line in range(5)] == [True, True, False, False, False]
    assert "measured under older code: the cell has another key today (2 of 5 runs)" in text
    assert "older than today&#39;s, under which this cell&#39;s key is 000000000000…" in text


def _rows(folder: Path, table: str) -> list[Row]:
    path = folder / "metrics" / f"{table}.json"
    return [*read_rows(path), *read_rows(folder / "cells" / f"{table}.json", measured=False)] if path.exists() else []


def _same(row: Row, cell: Row) -> bool:
    return all(row[name] == cell[name] for name in ("row", "column", "seed")) and "key" in row


def test_one_cell_measured_under_two_versions_of_the_code_is_one_training(
    few: Path, page_of: Callable[..., str]
) -> None:
    """Table A6's rows stand in Table X9 too, there with older keys and another time."""
    rows = read_rows(few / "metrics" / "table_a6.json")
    copies = [
        row | {"table": "table_x9", "key": row["key"][::-1], "train_key": "9" * 64, "train_s": 7e6} for row in rows
    ]
    measured_only = {"key", "train_key", "state", "metrics", "best_epoch", "steps", "train_s", "provenance"}
    measured_only |= {"evaluate_s", "peak_memory_mib", "cost_units"}
    cells = [{name: value for name, value in row.items() if name not in measured_only} for row in copies]
    (few / "cells" / "table_x9.json").write_text(json.dumps(cells))
    before = page_of()
    (few / "metrics" / "table_x9.json").write_text(json.dumps(copies))
    keys = {json.dumps([row["row"], row["seed"]]): row["key"] for row in rows}

    def key_of(cell: Row) -> str | None:
        return keys.get(json.dumps([cell["row"], cell["seed"]])) if cell["table"] in ("table_a6", "table_x9") else None

    text = page_of(key_of=key_of)
    overview, former = (page[: page.index('<table class="index">')] for page in (text, before))
    for fact in ("trainings", "training time"):
        find = re.compile(rf"<dt>{fact}</dt><dd>([^<]+)</dd>")
        assert find.findall(overview) == find.findall(former) != []


def test_a_training_shared_by_tables_is_counted_and_paid_once(few: Path, page_of: Callable[..., str]) -> None:
    seconds: dict[str, float] = {}
    for path in (few / "metrics").glob("*.json"):
        seconds |= {row["train_key"]: row["train_s"] for row in read_rows(path)}
    text = page_of()
    assert f"<dt>trainings</dt><dd>{len(seconds)}</dd>" in text
    assert f"<dt>training time</dt><dd>{duration(sum(seconds.values()))}</dd>" in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (119.4, "119 s"), (600, "10 min"), (9000, "2.5 h"), (200_000, "2.3 days")]
)
def test_durations_are_written_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
