from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from pipeline.spool import read
from pipeline.tracking import sending
from tests.pipeline.conftest import let_go

if TYPE_CHECKING:
    from tests.pipeline.conftest import Lab

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own use of it
)


def test_a_finished_cell_becomes_a_named_child_run_with_params_curves_result_and_provenance(lab: Lab) -> None:
    lab.finish("a")
    assert sending.ingest(lab.store.root, [lab.entry("a")]) == {"FINISHED": 1}
    run, parent = lab.runs()["a"], lab.runs()["table_7@embedded"]
    assert run["name"] == "u2pl blender 1-4 a seed 0"
    assert run["status"] == parent["status"] == "FINISHED"
    assert run["params"]["parameters.alpha0"] == "0.3"
    assert run["params"]["parameters.k"] == "[1]"
    assert lab.points("a", "loss/supervised") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert lab.points("a", "final/teacher_best_padding_ignored_miou") == [(0, 61.5)]
    assert lab.points("a", "iou/teacher_best_padding_ignored") == [(0, 50.0), (2, 73.0)]
    assert lab.points("a", "final/train_s") == [(0, 9.5)]
    expected = {"mlflow.parentRunId": parent["id"], "kind": "train", "table.table_7": "true", "scale": "embedded"}
    expected |= {"git_commit": "abc123", "node": "n1", "job": "7_1", "restarts": "2", "version.torch": "2.14"}
    expected |= {"checkpoint": str(lab.store.done("a") / "weights.pt"), "evaluate_key": "evaluate-a"}
    assert expected.items() <= run["tags"].items()


def test_the_run_of_an_evaluation_that_was_taken_over_without_its_training_has_the_params_of_the_training(
    lab: Lab,
) -> None:
    evaluation = {"key": "evaluate-a", "kind": "evaluate", "values": {}, "upstream": ["a"]}
    assert lab.store.adopt(evaluation, lab.RESULT, files={})
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert lab.runs()["a"]["params"] == {}  # as databases have it that were made before rows brought their values
    assert sending.ingest(lab.store.root, [lab.entry("a", values={"a": lab.VALUES})]) == {"FINISHED": 1}
    assert lab.runs()["a"]["params"].items() >= {"method": "u2pl", "partition": "1-4", "parameters.k": "[1]"}.items()


def test_a_cell_of_two_tables_is_one_run_under_the_first_with_the_tags_of_both(lab: Lab) -> None:
    lab.finish("a")
    sending.ingest(lab.store.root, [lab.entry("a", "table_4"), lab.entry("a", "table_7")])
    tags = lab.runs()["a"]["tags"]
    assert tags["table.table_4"] == tags["table.table_7"] == "true"
    assert tags["mlflow.parentRunId"] == lab.runs()["table_4@embedded"]["id"]
    sending.ingest(lab.store.root, [lab.entry("a", "table_a5")])
    assert lab.runs()["a"]["tags"]["table.table_a5"] == "true"
    assert lab.runs()["a"]["tags"]["mlflow.parentRunId"] == lab.runs()["table_4@embedded"]["id"]


def test_a_cell_of_no_table_is_a_run_of_its_own_until_a_table_claims_it(lab: Lab) -> None:
    lab.finish("a")
    sending.ingest(lab.store.root)
    assert "mlflow.parentRunId" not in lab.runs()["a"]["tags"]
    assert lab.runs()["a"]["name"] == "u2pl voc_blender 1-4"
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert lab.runs()["a"]["tags"]["mlflow.parentRunId"] == lab.runs()["table_7@embedded"]["id"]
    assert lab.runs()["a"]["name"] == "u2pl blender 1-4 a seed 0"


def test_a_warm_start_is_a_run_of_its_own_beside_the_trainings_that_share_it(lab: Lab) -> None:
    lab.store.publish("w", lab.begin("w", "warm_start"), result=lab.TRAINED)
    sending.ingest(
        lab.store.root, [lab.entry("a", warm_start_keys=["w"]), lab.entry("b", "table_4", warm_start_keys=["w"])]
    )
    run = lab.runs()["w"]
    assert run["tags"]["kind"] == "warm_start"
    assert run["name"] == "warm start 0 of u2pl blender 1-4 a seed 0"
    assert run["tags"]["table.table_7"] == run["tags"]["table.table_4"] == "true"


def test_the_status_of_a_run_follows_the_store_through_a_cells_life(lab: Lab) -> None:
    ingester = sending.Ingester(lab.store.root, [lab.entry("a")], uri=None)

    def status() -> tuple[str, str]:
        ingester.work()
        return lab.runs()["a"]["status"], lab.runs()["table_7@embedded"]["status"]

    lab.store.claim("a", "submission")
    assert status() == ("SCHEDULED", "RUNNING")
    token = lab.begin("a")
    assert status() == ("RUNNING", "RUNNING")
    assert lab.runs()["a"]["tags"]["job"] == "7_1"
    lab.store.drop("a", token)
    assert status() == ("SCHEDULED", "RUNNING")
    let_go(lab.store, "a")
    assert status() == ("KILLED", "KILLED")
    lab.store.fail("a", lab.begin("a"), reason={"reason": "MemoryError: 3 GiB", "log": "log.txt"})
    assert status() == ("FAILED", "FAILED")
    assert lab.runs()["a"]["tags"]["reason"] == "MemoryError: 3 GiB"
    lab.store.retry("a")
    lab.finish("a")
    assert status() == ("FINISHED", "FINISHED")
    assert lab.runs()["a"]["tags"]["reason"] == ""


@pytest.mark.parametrize("batch", [1, 800])
def test_a_run_that_was_stopped_twice_ends_when_it_was_stopped_last(
    batch: int, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its curves are so long that a part of them is sent before the rest."""
    monkeypatch.setattr(sending, "BATCH", batch)
    for steps in (range(1, 4), range(4, 8)):
        token = lab.begin("a")
        time.sleep(0.01)
        lab.spool("a", steps)
        lab.store.drop("a", token)
        let_go(lab.store, "a")
        sending.ingest(lab.store.root)
    *_, last = read(lab.store.work("a") / "spool.jsonl")
    assert lab.query("select status, end_time from runs") == [("KILLED", last.time_ms)]


def test_what_may_differ_under_one_key_is_no_param_which_mlflow_would_refuse_to_change(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"data": {"name": "own", "path": "a", "partitions": ["1-4"]}, "model": {"width": 8, "weights": "/a.pth"}}
    monkeypatch.setattr(lab, "VALUES", lab.VALUES | values, raising=False)
    token = lab.begin("a")
    sending.ingest(lab.store.root, [lab.entry("a")])
    lab.store.drop("a", token)
    values = {"data": {"name": "own", "path": "b", "partitions": ["1-8"]}, "model": {"width": 8, "weights": "/b.pth"}}
    monkeypatch.setattr(lab, "VALUES", lab.VALUES | values, raising=False)
    lab.finish("a")
    sending.ingest(lab.store.root, [lab.entry("a"), lab.entry("a", "table_4")])
    run = lab.runs()["a"]
    assert (run["status"], run["params"]["data.name"], run["params"]["model.width"]) == ("FINISHED", "own", "8")
    assert not {"data.path", "data.partitions", "model.weights"} & set(run["params"])
    assert run["tags"]["table.table_4"] == "true"


def test_a_table_is_judged_by_its_rows_of_today_and_not_by_cells_of_older_code(lab: Lab) -> None:
    def status(*keys: str) -> str:
        sending.ingest(lab.store.root, [lab.entry(key) for key in keys])
        return lab.runs()["table_7@embedded"]["status"]

    lab.store.fail("old", lab.begin("old"), reason={"reason": "killed"})
    lab.finish("older")
    assert status("old", "older") == "FAILED"
    lab.finish("new")
    assert status("new") == "FINISHED"
    assert status("next") == "KILLED"  # its only row has no run yet
    assert status() == "FAILED"  # of no rows, it is all that it ever had


def test_a_run_of_a_cell_that_the_store_lost_is_not_left_running(lab: Lab) -> None:
    lab.begin("a")
    sending.ingest(lab.store.root)
    assert lab.runs()["a"]["status"] == "RUNNING"
    shutil.rmtree(lab.store.work("a"))
    let_go(lab.store, "a")
    sending.ingest(lab.store.root)
    assert lab.runs()["a"]["status"] == "KILLED"


def test_a_failed_evaluation_fails_the_run_and_says_why(lab: Lab) -> None:
    lab.store.publish("a", lab.begin("a"), result=lab.TRAINED)
    lab.store.fail(
        "evaluate-a", lab.begin("evaluate-a", "evaluate", ("a",)), reason={"reason": "ValueError: corrupt image"}
    )
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert lab.runs()["a"]["status"] == "FAILED"
    assert lab.runs()["a"]["tags"]["reason"] == "ValueError: corrupt image"


def test_a_diverged_training_is_a_finished_run_that_says_so(lab: Lab) -> None:
    diverged = lab.TRAINED | {"state": "diverged", "diverged": {"step": 17, "losses": {"supervised": "nan"}}}
    lab.store.publish("a", lab.begin("a"), result=diverged)
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert lab.runs()["a"]["status"] == "FINISHED"
    assert lab.runs()["a"]["tags"]["diverged.step"] == "17"


def test_two_evaluations_of_one_training_stand_side_by_side(lab: Lab) -> None:
    lab.finish("a")
    lab.store.publish("slide-xx", lab.begin("slide-xx", "evaluate", ("a",)), result=lab.RESULT)
    sending.ingest(lab.store.root, [lab.entry("a")])
    name = "final/teacher_best_padding_ignored_miou"
    assert lab.points("a", name) == lab.points("a", f"slide-xx/{name}") == [(0, 61.5)]
