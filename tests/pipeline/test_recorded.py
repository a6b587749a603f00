"""Commands see results that git holds although the store has none of them yet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.cell import chain
from pipeline.files import write_json
from tests.pipeline import test_steering
from tests.pipeline.test_steering import Lab

PROJECT = Path(__file__).parents[2]
lab = test_steering.lab


def test_in_a_fresh_clone_recorded_results_are_seen(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    *_, train, evaluate = chain(lab.rows("experiment")[0])
    row = lab.rows("experiment")[0] | {"key": evaluate.key, "train_key": train.key, "state": "done", "evaluate_s": 1.0}
    row |= {"metrics": {}, "provenance": {"ended": 5.0, "node": "n7", "job": "7_1", "commit": "abc"}}
    write_json(lab.root / "reports" / "smoke" / "metrics" / "experiment.json", [row])
    (lab.root / "reports" / "smoke" / "metrics" / "a.json").write_text("<<<<<<< HEAD\n[]\n")
    assert main(["status", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["tables"]["smoke/experiment"]["done"] == 1
    assert "1 results taken over from what git and the DVC cache hold" in said.err
    for key, state in ((evaluate.key, "done"), (train.key, "missing")):  # whose weights are elsewhere
        assert main(["why", key[:10]]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["result"]["state"] == state
        assert told["recorded"]["provenance"]["commit"] == "abc"
    assert main(["logs", evaluate.key]) == 1
    place = "reports/smoke/metrics/experiment.json; it ran on n7, job 7_1"
    assert f"has no log here: its result was taken over from {place}" in capsys.readouterr().err


def test_who_may_only_read_the_store_takes_nothing_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr("pipeline.listings.adopt", lambda *_, **__: 1 / 0)
    assert main(["status"]) == 0
    assert capsys.readouterr().err == ""


def test_of_a_comparison_what_differs_is_shown_and_the_rest_counted(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((PROJECT / "reports" / "embedded" / "metrics" / "table_7.json").read_text())
    for scale in ("one", "other"):
        write_json(lab.root / "reports" / scale / "metrics" / "table_7.json", rows)
        rows[0]["metrics"]["teacher"]["best"]["padding_ignored"]["miou"] += 1.5
    assert main(["compare", "one", "one"]) == 0
    equal = f"{len(rows)} of {len(rows)} rows are equal on both sides (--all shows them)\n"
    assert capsys.readouterr().out == equal
    assert main(["compare", "one", "other"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line for line in told if line.startswith("| table_7")] == [line for line in told if "+1.50" in line]
    assert told[-1].startswith(f"{len(rows) - 1} of {len(rows)} rows are equal")
    assert main(["compare", "one", "other", "--all"]) == 0
    assert capsys.readouterr().out.count("| table_7 |") == len(rows)


def test_what_a_comparison_lacks_is_named_without_what_may_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare"])
    assert capsys.readouterr().err.endswith("required: a, b\n")
