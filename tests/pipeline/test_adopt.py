"""Results that were computed elsewhere: taken over under their own key, whole, once, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.adopt import adopt
from pipeline.cell import Cell, cells_of, chain
from pipeline.data.sources import OWN
from pipeline.files import read_json, write_json
from pipeline.listings import find_trained
from pipeline.params import resolve_table
from pipeline.results import link_weights
from pipeline.store import Store
from stages import pictures, report
from tests.params import params_text, project_params

PROJECT = Path(__file__).parents[2]
RESULT = {"state": "done", "steps": 4, "train_s": 1.0, "provenance": {"ended": 5.0}}


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, str]:
    """A project whose DVC cache holds one trained cell, and the cell's key. Its store is empty."""
    origin, root = Store(tmp_path / "elsewhere"), tmp_path / "project"
    (row,) = resolve_table(project_params("embedded"), "experiment")
    train = chain(row)[-2]
    files = {"weights.pt": tmp_path / "w", "spool.jsonl": tmp_path / "s"}
    for path in files.values():
        path.write_text(path.name)
    assert origin.adopt(train.to_json(), RESULT, files=files)
    link_weights(origin, {train.key: train}, folder=tmp_path / "out")
    listing = [
        {"md5": put(root, path.read_bytes()), "relpath": path.name} for path in sorted((tmp_path / "out").iterdir())
    ]
    listed = put(root, json.dumps(listing).encode(), ".dir")
    out = {"path": "runs/embedded/train/experiment", "md5": listed}
    (root / "dvc.lock").write_text(yaml.dump({"stages": {"train@experiment": {"cmd": "c", "outs": [out]}}}))
    return root, train.key


def put(root: Path, content: bytes, suffix: str = "") -> str:
    """Put a file into the DVC cache and return the name DVC gives it."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() + suffix
    path = root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5


def store_of(root: Path) -> Store:
    return Store(root / ".dvc" / "cache" / "cells")


def test_a_trained_cell_comes_from_the_dvc_cache_whole_and_once(recorded: tuple[Path, str]) -> None:
    (root, key), store = recorded, store_of(recorded[0])
    assert adopt(store, root, scale="embedded") == 1
    assert adopt(store, root, scale="embedded") == 0
    assert read_json(store.done(key) / "result.json") == RESULT
    assert (store.done(key) / "weights.pt").read_text() == "w"
    assert (store.done(key) / "spool.jsonl").read_text() == "s"
    assert (read_json(store.done(key) / "cell.json") or {})["key"] == key
    assert [line["event"] for line in store.executions()] == ["adopted"]
    assert [path.name for path in (store.root / "done").iterdir()] == [key]


@pytest.mark.parametrize("why", [errno.EPERM, errno.EXDEV])
def test_what_may_not_be_linked_is_copied(
    recorded: tuple[Path, str], why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPERM is what the kernel says, by default, where the file is another user's and read-only."""
    (root, key), store, link = recorded, store_of(recorded[0]), os.link

    def refuse(source: Path, target: Path) -> None:
        if not source.name.startswith("."):  # one's own temporary files may be linked
            raise OSError(why, "refused")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    assert adopt(store, root, scale="embedded") == 1
    assert (store.done(key) / "weights.pt").read_text() == "w"
    link_weights(store, {key: Cell("train", {}, (), key)}, folder=tmp_path / "linked")
    assert (tmp_path / "linked" / f"{key[:16]}.pt").read_text() == "w"
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        link_weights(store, {key: Cell("train", {}, (), key)}, folder=tmp_path / "linked")


def test_another_scale_a_lost_file_or_a_torn_lock_gives_nothing(recorded: tuple[Path, str]) -> None:
    (root, _), store = recorded, store_of(recorded[0])
    assert adopt(store, root, scale="smoke") == 0
    (weights,) = (
        path for path in (root / ".dvc" / "cache" / "files").rglob("*") if path.is_file() and path.read_bytes() == b"w"
    )
    weights.unlink()
    assert adopt(store, root, scale="embedded") == 0
    (root / "dvc.lock").write_text("stages: {torn")
    assert adopt(store, root, scale="embedded") == 0


@pytest.mark.parametrize("stage", ["pictures", "report"])
def test_a_stage_that_shows_results_takes_over_what_git_and_the_dvc_cache_hold(
    recorded: tuple[Path, str], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `dvc pull` and an edit of how results are shown no cell stage runs, which would do it."""
    (root, key), shown = recorded, list[bool]()
    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(root / "nothing"))
    write_json(root / "reports" / "embedded" / "shown.json", {})

    def write(*_: Any, **__: Any) -> list[str]:
        shown.append(store_of(root).is_done(key))
        return []

    for name in ("pictures.write_gallery", "report.write_report", "report.wait_for_ingester"):
        monkeypatch.setattr(f"stages.{name}", write)
    assert {"pictures": pictures, "report": report}[stage].main("embedded") == 0
    assert set(shown) == {True}


def test_a_network_that_only_the_dvc_cache_holds_is_found_by_its_key(recorded: tuple[Path, str]) -> None:
    (root, key), store = recorded, store_of(recorded[0])
    write_json(root / "reports/embedded/cells/experiment.json", resolve_table(project_params("embedded"), "experiment"))
    (root / "params.yaml").write_text(params_text())
    assert find_trained(root, store, name=key[:12]) == store.done(key)
    assert (store.done(key) / "weights.pt").read_text() == "w"


def test_an_evaluation_is_a_recorded_row_whose_key_is_still_its_own(tmp_path: Path) -> None:
    (row,) = resolve_table(project_params("embedded"), "experiment")
    key, path = chain(row)[-1].key, tmp_path / "reports" / "embedded" / "metrics" / "experiment.json"
    row |= RESULT | {"metrics": {"student": {}}, "evaluate_s": 1.5}
    store = Store(tmp_path / "cells")
    write_json(path, [row | {"key": "of other code"}])
    assert adopt(store, tmp_path, scale="embedded") == 0
    write_json(path, [row | {"key": key}])
    assert adopt(store, tmp_path, scale="embedded") == 1
    result = read_json(store.done(key) / "result.json") or {}
    assert result["metrics"] == {"student": {}}
    assert result["provenance"]["adopted_from"] == "reports/embedded/metrics/experiment.json"


def test_a_row_or_file_that_is_of_no_use_any_more_is_named_and_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = resolve_table(project_params("embedded"), "experiment")
    key, reports, store = chain(row)[-1].key, tmp_path / "reports" / "embedded", Store(tmp_path / "cells")
    row |= RESULT | {"metrics": {}, "evaluate_s": 1.5, "key": key}
    absent = row | {"data": row["data"] | {"name": OWN, "path": str(tmp_path / "absent")}, "key": "b"}
    removed = row | {"method": "removed", "key": "a"}
    older = {name: value for name, value in row.items() if name != "networks"} | {"key": "c"}
    write_json(reports / "metrics" / "table_1.json", [removed, absent, older, {"key": key}, "no row", row])
    (reports / "metrics" / "table_2.json").write_text("<<<<<<< HEAD\n[]\n")
    write_json(reports / "metrics" / "table_3.json", {"no": "rows"})
    write_json(reports / "cells" / "table_1.json", [removed])
    write_json(reports / "reliability" / "table_1.json", [{"key": "d"}])
    assert adopt(store, tmp_path, scale="embedded") == 1
    assert store.is_done(key)
    told = capsys.readouterr().err.splitlines()
    places = [f"metrics/table_1.json: row {number}" for number in (1, 2, 3, 4, 5)]
    places += ["metrics/table_2.json", "metrics/table_3.json", "reliability/table_1.json"]
    assert [line.partition(": left out")[0] for line in told] == [f"reports/embedded/{place}" for place in places]
    assert "methods/removed.py" in told[0]
    assert str(tmp_path / "absent") in told[1]
    assert "'networks'" in told[2]


def test_a_reliability_record_is_taken_over_while_its_row_has_its_key(tmp_path: Path) -> None:
    rows = resolve_table(project_params("embedded"), "table_1")
    [cell] = [cell for row in rows for cell in cells_of(row) if cell.kind == "reliability"]
    reports, store = tmp_path / "reports" / "embedded", Store(tmp_path / "cells")
    record = {"key": cell.key, "state": "done", "sets": {"val": {}}, "reliability_s": 2.0, "provenance": {"ended": 5.0}}
    write_json(reports / "reliability" / "table_1.json", [record, record | {"key": "of other code"}])
    assert adopt(store, tmp_path, scale="embedded") == 0  # no rows say what it is
    write_json(reports / "cells" / "table_1.json", rows)
    assert adopt(store, tmp_path, scale="embedded") == 1
    result = read_json(store.done(cell.key) / "result.json") or {}
    assert (result["sets"], result["provenance"]["ended"]) == ({"val": {}}, 5.0)
