"""Rows say where they come from, and a stage whose code, rows or data were edited while it ran records nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, chain, digest
from pipeline.cluster.stopping import StoppedError
from pipeline.data.sources import folder_digest
from pipeline.files import read_json, write_json
from pipeline.guard import changed_data, check_copies, data_state, fingerprint
from pipeline.launch import submit
from pipeline.params import resolve_table
from pipeline.provenance import provenance, source_state, versions
from pipeline.results import measured_row
from pipeline.store import Store, find_store
from pipeline.worker import Stop, run_submission
from tests.params import project_params

RUN = """
import sys
from pathlib import Path
import pipeline.attach as attach

def wait(*_, **__):
    path, what, text = sys.argv[1:4]
    if what == "append":
        with Path(path).open("a") as file:
            file.write(text)
    else:
        Path(path).write_text(Path(path).read_text().replace(text, text + "1", 1))
    return {}

attach.wait = wait
attach.link_weights = lambda *_, **__: Path("linked").touch()
sys.exit(attach.run_stage("train", "smoke", table="experiment"))
"""
LAUNCH = """
import sys
from pathlib import Path
import pipeline.launch as launch
from pipeline.cell import cells_of, digest, read_rows
from pipeline.sbatch import Queue

def prepare(_):  # what takes seconds between the first key and the copy of the code
    with Path(sys.argv[1]).open("a") as file:
        file.write(sys.argv[2])

launch.start_plan = lambda *_: None
launch.read_plan = lambda *_: ["train@experiment"]
launch.prepare_weights = prepare
Queue.send = lambda queue, _: queue.jobs.append("1")
rows = read_rows(Path("reports/smoke/cells/experiment.json"))
keys = sorted(cell.key for row in rows for cell in cells_of(row))
sys.exit(launch.main([str(Path.cwd()), "smoke", "train@experiment", sys.argv[3] or digest(keys)]))
"""
METHOD = "pipeline/methods/u2pl.py"
CELLS = "reports/smoke/cells/experiment.json"


@pytest.fixture
def ready(project: Path, data_root: Path) -> Path:
    """A copy of the project, data included, that can be edited."""
    params = project_params()
    rows = resolve_table(params, "experiment")
    write_json(project / CELLS, rows)
    own, data = project / "data" / "smoke", rows[0]["data"]["source"]
    own.unlink()
    own.mkdir()
    for part in (data, "partitions"):
        subprocess.run(["cp", "-r", str(data_root / part), str(own / part)], check=True)
    return project


@pytest.mark.parametrize(
    ("path", "what", "text", "named"),
    [
        (METHOD, "append", "\nEDITED = 1\n", "the code or the weights changed"),
        (CELLS, "replace", '"seed": ', f"{CELLS} and the code or the weights changed"),
        ("data/smoke/partitions/voc_blender/val.txt", "append", "\n", "the data changed"),
        (METHOD, "append", "\n# a comment changes no number\n", None),
        (CELLS, "append", "]", f"{CELLS}: torn or edited"),
    ],
)
def test_an_edit_while_the_stage_runs_fails_it(ready: Path, path: str, what: str, text: str, named: str | None) -> None:
    environment = os.environ | {"PYTHONPATH": str(ready), "XDG_CONFIG_HOME": str(ready / "nothing")}
    command = [sys.executable, "-c", RUN, path, what, text]
    ran = subprocess.run(command, cwd=ready, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == (1 if named else 0), ran.stderr
    assert (ready / "linked").exists() is (named is None)
    if named:
        assert ran.stderr.startswith("train@experiment: ")
        assert named in ran.stderr


STAGE = """
import importlib, sys
from pathlib import Path
stage = importlib.import_module(sys.argv[1])
writer, path, text, more = sys.argv[2:6]
write = getattr(stage, writer)

def edited(*given, **named):
    write(*given, **named)
    Path(path).write_text(Path(path).read_text().replace(text, more, 1))

setattr(stage, writer, edited)
sys.exit(stage.main(*sys.argv[6:]))
"""
EDITS = {
    "cells": ("write_json", "params.yaml", "alpha0: 0.2", "alpha0: 0.3"),
    "partitions smoke voc_blender": ("write_partitions", "params.yaml", "num_val: 6}", "num_val: 7}"),
    "download smoke voc": ("prepare", "pipeline/data/voc.py", '"""', '"""A'),
}


@pytest.mark.parametrize("words", EDITS)
def test_an_edit_while_a_stage_without_cells_runs_fails_it(ready: Path, words: str) -> None:
    writer, path, text, more = EDITS[words]
    assert text in (ready / path).read_text()
    name, *given = words.split()
    if name == "download":
        shutil.rmtree(ready / "data" / "smoke" / "voc")
    environment = os.environ | {"PYTHONPATH": str(ready), "XDG_CONFIG_HOME": str(ready / "nothing")}
    command = [sys.executable, "-c", STAGE, f"stages.{name}", writer, path, text, more, *given]
    ran = subprocess.run(command, cwd=ready, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert "changed while the stage ran; run it again" in ran.stderr


@pytest.mark.parametrize(
    ("text", "waited_for", "status"),
    [("\nEDITED = 1\n", "", 1), ("\n# no number\n", "", 0), ("\n# no number\n", "other keys", 1)],
)
def test_code_that_is_edited_during_a_submission_or_before_it_is_not_submitted_under_the_old_key(
    ready: Path, text: str, waited_for: str, status: int
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ready), "XDG_CONFIG_HOME": str(ready / "nothing")}
    command = [sys.executable, "-c", LAUNCH, METHOD, text, waited_for]
    ran = subprocess.run(command, cwd=ready, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == status, ran.stderr
    root = find_store(ready)
    records = [read_json(path) or {} for path in root.glob("submissions/*/submission.json")]
    assert len(records) == 1 - status
    assert len(list(root.glob("claims/*"))) == sum(len(record["cells"]) for record in records)
    if status:
        assert ran.stdout == "the code, weights or images changed while cells were being submitted; run it again\n"
        return
    (keys,) = records[0]["tables"].values()
    assert sorted(keys) == sorted(cell["key"] for cell in records[0]["cells"])
    assert {"voc", "partitions/voc_blender"} <= set(records[0]["data"])


@pytest.mark.parametrize("ends", ["published", "stopped", "crashed"])
def test_what_was_computed_with_edited_data_is_neither_published_nor_gone_on_from(
    ready: Path, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(ready / "nothing"))
    monkeypatch.setattr("pipeline.sbatch.Queue.send", lambda queue, _: queue.jobs.append("1"))
    store, data, edits = Store(find_store(ready)), ready / "data" / "smoke", [True, False]
    lists = data / "partitions" / "voc_blender" / "val.txt"
    text, times = lists.read_text(), lists.stat()
    values = {"dataset": "voc_blender", "data": {"source": "voc"}, "partition": "-", "seed": 0}
    cell = Cell("sleep", values, (), digest("key"))

    def compute(*_: Any, work: Path, **__: Any) -> dict[str, Any]:
        (work / "checkpoint.pt").touch()
        if edits.pop(0):
            lists.write_text(text + "another\n")
            if ends == "stopped":
                raise StoppedError("asked to leave")
            if ends == "crashed":
                raise FileNotFoundError("an image")
        return {"state": "done"}

    def run() -> None:
        (submission,) = submit(store, [cell], root=ready, data_root=data, data=data_state(data))
        run_submission(store, submission, limit=1, stop=Stop())

    monkeypatch.setattr("pipeline.run.compute", compute)
    run()
    assert not store.is_done(cell.key)
    assert not (store.work(cell.key) / "checkpoint.pt").exists()
    if ends == "published":
        reason = (store.failure(cell.key) or {})["reason"]
        assert reason.startswith(f"DataChangedError: {lists.parent} changed after the cell was submitted")
    store.retry(cell.key)
    lists.write_text(text)
    os.utime(lists, ns=(times.st_atime_ns, times.st_mtime_ns))
    run()
    assert store.is_done(cell.key)
    assert (store.done(cell.key) / "log.txt").exists()


def test_a_cell_looks_at_its_own_data_alone(ready: Path) -> None:
    data, values = ready / "data" / "smoke", {"dataset": "voc_blender", "data": {"source": "voc"}}
    record = {"data_root": str(data), "data": data_state(data)}
    assert changed_data(values, record) == []
    assert changed_data({"dataset": "none"}, {"data_root": str(data)}) == []
    next((data / "voc").rglob("*.png")).unlink()
    assert changed_data(values, record) == [data / "voc"]
    assert changed_data(values | {"data": {"source": "cityscapes"}}, record) == []


def test_new_weights_at_the_same_path_are_noticed(tmp_path: Path, params: dict[str, Any]) -> None:
    from pipeline.guard import edited, read_inputs

    weights, cells = tmp_path / "weights.pt", tmp_path / "cells.json"
    weights.write_bytes(b"old")
    rows = resolve_table(params, "experiment")
    rows[0]["model"]["weights"] = str(weights)
    write_json(cells, rows)
    before = read_inputs(tmp_path, cells)
    weights.write_bytes(b"new")
    assert edited(before, read_inputs(tmp_path, cells)) == ["the code or the weights"]


def test_a_folder_of_ones_own_that_was_edited_after_it_was_copied_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_digest.cache_clear()
    row = {"scale": "laptop", "data": {"name": "own", "path": "own/voc", "source": "voc"}}
    for folder in ("own/voc", "data/laptop/voc"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").write_bytes(b"photo")
    check_copies(tmp_path, [row, {"scale": "laptop", "data": {"name": "shapes", "source": "shapes"}}])
    folder_digest.cache_clear()
    (tmp_path / "own/voc/a.jpg").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"data/laptop/voc is no longer an up-to-date copy of own/voc; `dvc"):
        check_copies(tmp_path, [row])


def test_a_fingerprint_sees_names_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    seen = {fingerprint([tmp_path])}
    (tmp_path / "a" / "b").write_text("xy")
    seen.add(fingerprint([tmp_path]))
    os.utime(tmp_path / "a" / "b", (1, 1))
    seen.add(fingerprint([tmp_path]))
    (tmp_path / "a" / "b").rename(tmp_path / "a" / "c")
    seen.add(fingerprint([tmp_path]))
    assert len(seen) == 4
    assert fingerprint([tmp_path]) == fingerprint([tmp_path])
    assert fingerprint([tmp_path / "absent"]) != fingerprint([tmp_path])


def test_a_result_names_its_own_stage_and_the_one_that_submitted_it() -> None:
    cell = Cell("train", {}, (), digest("k"))
    record = {"dvc_stage": "warm_start@table_1", "commit": "abc", "dirty": True, "patch": "f00", "snapshot": "5"}
    record |= {"dvc_experiment": None, "tables": {"smoke/table_1": ["other"], "smoke/table_7": [cell.key]}}
    told = provenance(cell, record, holder={"job": "7_1", "restarts": 2}, ranks=1, started=1.0)
    assert (told["dvc_stage"], told["submitted_by"]) == ("train@table_7", "warm_start@table_1")
    assert (told["patch"], told["restarts"], told["job"]) == ("f00", 2, "7_1")


def test_a_row_names_the_stage_of_its_own_table(params: dict[str, Any], tmp_path: Path) -> None:
    store, (row,) = Store(tmp_path / "cells"), resolve_table(params, "experiment")
    *_, train, evaluate = chain(row)
    for cell in (train, evaluate):
        result = {"state": "done", "provenance": {"dvc_stage": "train@table_1", "commit": "abc"}}
        write_json(store.done(cell.key) / "result.json", result)
    assert measured_row(store, row)["provenance"] == {"dvc_stage": "train@experiment", "commit": "abc"}


def test_without_git_nothing_is_known_of_the_code_but_its_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert source_state(Store(tmp_path / "cells"), tmp_path) == {"commit": None, "dirty": False, "patch": None}


def test_the_versions_are_those_of_what_computes_and_launches() -> None:
    assert {"python", "torch", "torchvision", "numpy", "dvc", "submitit", "mlflow"} <= set(versions())
