"""Cells and stages by the names that people type."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import attach, listings
from pipeline.__main__ import main
from pipeline.cell import chain
from pipeline.commands.live import show_status
from pipeline.files import write_json
from pipeline.guard import Inputs
from tests.pipeline import test_shared_store, test_steering
from tests.pipeline.test_liveness import submitted
from tests.pipeline.test_shared_store import job
from tests.pipeline.test_steering import Lab, finish

PROJECT = Path(__file__).parents[2]
lab = test_steering.lab
squeue = test_shared_store.squeue


def test_a_table_of_one_row_stands_for_its_training(lab: Lab) -> None:
    (row,) = lab.rows("experiment")
    assert listings.find_cell(lab.root, lab.store, prefix="experiment").key == chain(row)[-2].key


def test_who_names_no_cell_is_told_where_keys_stand(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "nosuch"]) == 1
    assert "keys stand in reports/<scale>/metrics, `key` and `train_key` of each row" in capsys.readouterr().err


def test_who_names_a_table_is_told_the_keys_of_its_trainings(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["why", "table_7"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("why: table_7 has 8 trained cells; name one by its key:\n")
    assert chain(lab.rows("table_7")[3])[-2].key[:12] in said


def test_who_wants_a_network_that_is_not_there_is_told_how_to_come_to_one(lab: Lab) -> None:
    """By the table that trains the fewest others, or of another key that is there."""
    train = chain(lab.rows("experiment")[0])[-2]
    assert train.key in {chain(row)[-2].key for row in lab.rows("table_7")}
    shutil.copy(PROJECT / "dvc.yaml", lab.root)
    with pytest.raises(ValueError, match=r"is not submitted; .* `dvc repro train@experiment` trains it, or `dvc pull`"):
        listings.find_trained(lab.root, lab.store, name=train.key)
    lab.store.claim(train.key, "s")
    with pytest.raises(ValueError, match=f"is queued; .*logs -f {train.key[:12]}` follows it$"):
        listings.find_trained(lab.root, lab.store, name=train.key)
    lab.store.fail(train.key, None, reason={"reason": "no luck"})
    write_json(lab.store.done("0ther" * 4) / "cell.json", train.to_json() | {"key": "0ther" * 4})
    with pytest.raises(ValueError, match=r"is failed; .*retry .*; the last one of its method, .* is 0ther0ther0t$"):
        listings.find_trained(lab.root, lab.store, name=train.key)


def test_who_names_an_evaluation_is_told_the_key_of_its_training(lab: Lab) -> None:
    *_, train, evaluate = chain(lab.rows("experiment")[0])
    finish(lab.store, evaluate)
    with pytest.raises(ValueError, match=f"has a network; that of {train.key[:12]}, perhaps"):
        listings.find_trained(lab.root, lab.store, name=evaluate.key)


def test_what_failed_before_a_stage_began_is_told_from_what_fails_now(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = chain(lab.rows("experiment")[0])
    monkeypatch.setattr(attach, "read_inputs", lambda *_: Inputs(Path(), b"", cells, data=""))
    lab.store.fail(cells[-2].key, None, reason={"reason": "no luck"})
    assert attach.run_stage("train", "smoke", table="experiment") == 1
    said = capsys.readouterr().err
    assert "1 of 1 cells failed, 1 of them before this stage began and not tried again; see" in said


def test_a_fresh_clone_is_told_that_its_networks_are_not_here(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    *_, train, evaluate = chain(lab.rows("experiment")[0])
    finish(lab.store, evaluate)
    show_status(lab.root, lab.store, watch=False, as_json=False)
    assert "1 trainings are measured, as `python -m pipeline tables` shows" in capsys.readouterr().out
    finish(lab.store, train)
    show_status(lab.root, lab.store, watch=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["without_network"] == 0


def test_why_slurm_lets_jobs_wait_is_shown(lab: Lab, squeue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of this store's jobs, and of those that wait."""
    show_status(lab.root, lab.store, watch=False, as_json=False)
    assert "jobs that wait" not in capsys.readouterr().out
    submitted(lab.store, [chain(lab.rows("experiment")[0])], pack=1)
    lines = [job("cells-s", f"7_{number}", "PENDING", reason="PartitionTimeLimit") for number in range(3)]
    lines += [job("cells-s", "7_4"), job("cells-other", "8_0", "PENDING", reason="Priority")]
    squeue.write_text("".join(lines))
    show_status(lab.root, lab.store, watch=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["waiting"] == [{"reason": "PartitionTimeLimit", "jobs": 3}]
    show_status(lab.root, lab.store, watch=False, as_json=False)
    assert "PartitionTimeLimit" in capsys.readouterr().out
    (known,) = (json.loads(path.read_text()) for path in lab.store.root.glob("squeue.*.json"))
    assert {len(fields) for fields in known["jobs"]} == {6}  # as drivers of older code read them
