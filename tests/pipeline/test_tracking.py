from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.spool import Spool
from pipeline.tracking import database, sending
from pipeline.tracking.database import UnreachableError

if TYPE_CHECKING:
    from tests.pipeline.conftest import Lab

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own use of it
)


def test_a_second_pass_and_a_second_ingester_add_nothing(lab: Lab) -> None:
    lab.finish("a")
    sending.ingest(lab.store.root, [lab.entry("a")])
    counts = lab.query("select (select count(*) from metrics), (select count(*) from runs)")
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert lab.query("select (select count(*) from metrics), (select count(*) from runs)") == counts


def test_curves_appear_while_a_cell_runs_and_a_resume_doubles_nothing(lab: Lab) -> None:
    ingester = sending.Ingester(lab.store.root, [lab.entry("a")], uri=None)
    token = lab.begin("a")
    lab.spool("a", range(1, 11))
    ingester.work()
    assert len(lab.points("a", "loss/supervised")) == 10
    lab.spool("a", range(5, 16))  # from a checkpoint at step 4; the ingester had read up to 10
    ingester.work()
    lab.store.publish("a", token, result=lab.TRAINED)
    ingester.work()
    assert lab.points("a", "loss/supervised") == [(step, 1 / step) for step in range(1, 16)]


def test_a_spool_that_a_power_cut_shortened_and_training_wrote_again_doubles_nothing(lab: Lab) -> None:
    """In lines of another length: none begins where the ingester was, and it reads from the beginning."""
    lab.begin("a")
    lab.spool("a", range(1, 11))
    sending.ingest(lab.store.root)
    path = lab.store.work("a") / "spool.jsonl"
    sent = path.stat().st_size
    path.write_bytes(path.read_bytes()[:150])
    time.sleep(0.002)  # MLflow takes what it gets twice with one time for one
    spool = Spool(path)
    for step in range(1, 13):
        spool.append(step, {"loss/supervised": 1 / step, "lr": 0.01, "loss/contrastive": 2 / step})
    assert path.read_bytes()[sent - 1 : sent] != b"\n"
    sending.ingest(lab.store.root)
    assert lab.points("a", "lr") == [(step, 0.01) for step in range(1, 13)]
    assert lab.points("a", "loss/supervised") == [(step, 1 / step) for step in range(1, 13)]
    assert lab.points("a", "loss/contrastive") == [(step, 2 / step) for step in range(1, 13)]


def test_a_training_that_began_anew_is_a_run_that_begins_anew(lab: Lab) -> None:
    """Its data had changed: nothing of what that gave is shown."""
    token = lab.begin("a")
    Spool(lab.store.work("a") / "spool.jsonl").append(1, {"loss/supervised": 99.0})
    Spool(lab.store.work("a") / "spool.jsonl").append(2, {"loss/supervised": 99.0})
    sending.ingest(lab.store.root)
    (lab.store.work("a") / "spool.jsonl").unlink()
    time.sleep(0.002)
    lab.spool("a", range(1, 2))
    sending.ingest(lab.store.root)
    lab.spool("a", range(2, 6))
    lab.store.publish("a", token, result=lab.TRAINED)
    sending.ingest(lab.store.root)
    assert lab.runs()["a"]["status"] == "FINISHED"
    assert lab.points("a", "loss/supervised") == [(step, 1 / step) for step in range(1, 6)]


def test_a_failure_after_a_retry_replaces_the_one_before_though_nobody_looked_in_between(lab: Lab) -> None:
    """Its reason and its curve: a retry that fails at once is seldom seen running."""
    for number, reason in enumerate(("first", "second")):
        token = lab.begin("a")
        lab.spool("a", range(5 * number + 1, 5 * number + 6))
        lab.store.fail("a", token, reason={"reason": reason})
        sending.ingest(lab.store.root, [lab.entry("a")])
        lab.store.retry("a")
    tags = lab.query("select value from tags where key = 'reason'")
    assert [value for (value,) in tags] == ["second"]
    assert [step for step, _ in lab.points("a", "loss/supervised")] == list(range(1, 11))


def test_non_finite_values_reach_the_database_once(lab: Lab) -> None:
    lab.begin("a")
    Spool(lab.store.work("a") / "spool.jsonl").append(1, {"x": math.nan, "y": math.inf})
    for _ in range(2):
        sending.ingest(lab.store.root)
        shutil.rmtree(lab.store.root / "tracking")
    assert lab.query("select key, is_nan, value > 1e300 from metrics order by key") == [("x", 1, 0), ("y", 0, 1)]


def test_more_values_and_params_than_one_batch_holds_all_arrive(lab: Lab) -> None:
    token = lab.begin("a")
    cell = json.loads((lab.store.work("a") / "cell.json").read_text())
    cell["values"]["parameters"] = {f"p{number}": number for number in range(250)}
    (lab.store.work("a") / "cell.json").write_text(json.dumps(cell))
    writer = Spool(lab.store.work("a") / "spool.jsonl")
    for step in range(3):
        writer.append(step, {f"m{number}": float(number) for number in range(900)})
    lab.store.publish("a", token, result=lab.TRAINED)
    sending.ingest(lab.store.root)
    assert len(lab.runs()["a"]["params"]) == 254
    assert lab.query("select count(*) from metrics where key like 'm%'") == [(2700,)]


def test_with_its_notes_lost_the_ingester_finds_its_runs_again(lab: Lab) -> None:
    lab.finish("a")
    sending.ingest(lab.store.root, [lab.entry("a")])
    before = lab.query("select * from metrics order by 1, 2, 3, 4, 5"), set(lab.runs())
    shutil.rmtree(lab.store.root / "tracking")
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert (lab.query("select * from metrics order by 1, 2, 3, 4, 5"), set(lab.runs())) == before


def test_with_the_database_gone_a_rebuild_makes_an_equal_one(lab: Lab) -> None:
    lab.finish("a")
    lab.store.fail("b", lab.begin("b"), reason={"reason": "killed"})
    sending.ingest(lab.store.root, [lab.entry("a"), lab.entry("b")])
    what = "select key, value, timestamp, step from metrics order by 1, 2, 3, 4"
    times = "select name, status, start_time, end_time from runs where name like 'u2pl%1-4 a%'"
    before = lab.query(what), lab.query(times)
    lab.database.rename(lab.store.root.parent / "old.db")
    code = "import sys, json; from pathlib import Path; from pipeline.tracking.sending import rebuild\n"
    code += (
        "print(rebuild(Path(sys.argv[1]), json.loads(sys.argv[2])))"  # another process: this one has the old file open
    )
    command = [sys.executable, "-c", code, str(lab.store.root), json.dumps([lab.entry("a"), lab.entry("b")])]
    rebuilt = subprocess.run(command, capture_output=True, text=True, check=True)
    assert rebuilt.stdout == "{'FINISHED': 1, 'FAILED': 1}\n"
    assert (lab.query(what), lab.query(times)) == before


def test_a_run_deleted_by_hand_disturbs_no_other_cell(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    ingester = sending.Ingester(lab.store.root, [], uri=None)
    for key in ("a", "b"):
        lab.begin(key)
        lab.spool(key, range(1, 3))
    ingester.work()
    ingester.database.client.delete_run(lab.runs()["a"]["id"])
    for key in ("a", "b"):
        lab.spool(key, range(1, 5))
    ingester.work()
    assert "refused the run of a" in caplog.text
    assert len(lab.points("b", "lr")) == 4
    ingester.work()
    assert len(lab.points("a", "lr")) == 4


@pytest.mark.parametrize("num_faulty", [1, 5])
def test_a_run_that_mlflow_fails_on_holds_up_no_other_and_many_of_them_end_the_pass(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, num_faulty: int
) -> None:
    from mlflow.exceptions import MlflowException

    ingester = sending.Ingester(lab.store.root, [], uri=None)
    keys = ["a", "b", "c", "d", "e", "f"]
    for key in keys:
        lab.begin(key)
    ingester.work()
    for key in keys:
        lab.spool(key, range(1, 5))
    faulty, log = {lab.runs()[key]["id"] for key in keys[:num_faulty]}, ingester.database.client.log_batch

    def failing(run_id: str, *what: object) -> None:
        if run_id in faulty:
            raise MlflowException("internal error")
        log(run_id, *what)

    monkeypatch.setattr(ingester.database.client, "log_batch", failing)
    with pytest.raises(UnreachableError, match="internal error"):
        ingester.work()
    arrived = [key for key in keys if len(lab.points(key, "lr")) == 4]
    assert arrived == (keys[1:] if num_faulty == 1 else [])
    faulty.clear()
    ingester.work()
    assert [len(lab.points(key, "lr")) for key in keys] == [4] * len(keys)


def test_a_server_out_of_reach_is_said_and_stops_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lab.finish("a")
    sending.ingest_until(lab.store.root, uri="http://127.0.0.1:9", stop=lambda: True)
    assert "MLflow is behind, training goes on" in caplog.text


def test_following_ends_when_told_after_one_more_pass(lab: Lab) -> None:
    answers = iter([False, True, True])
    lab.begin("a")

    def stop() -> bool:
        lab.spool("a", range(1, 5))
        return next(answers)

    sending.ingest_until(lab.store.root, stop=stop)
    assert len(lab.points("a", "lr")) == 4


@pytest.mark.parametrize("place", ["create", "log", "set_status"])
@pytest.mark.parametrize("before", [True, False])
def test_an_ingester_that_dies_at_any_call_leaves_nothing_lost_or_doubled_to_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str, before: bool
) -> None:
    lab.finish("a", steps=500)  # two batches
    call = getattr(database.Database, place)
    for death in range(3):
        calls = iter(range(100))

        def dying(*args: Any, death: int = death, calls: Any = calls, **keywords: Any) -> Any:
            if before and next(calls) == death:
                raise Killed
            result = call(*args, **keywords)
            if not before and next(calls) == death:
                raise Killed
            return result

        monkeypatch.setattr(database.Database, place, dying)
        with contextlib.suppress(Killed):
            sending.ingest(lab.store.root, [lab.entry("a")])
    monkeypatch.undo()
    sending.ingest(lab.store.root, [lab.entry("a")])
    assert set(lab.runs()) == {"a", "table_7@embedded"}
    assert lab.runs()["a"]["status"] == "FINISHED"
    assert lab.points("a", "lr") == [(step, 0.01) for step in range(1, 501)]


class Killed(BaseException):
    """What kill -9 is to the database and the store: nothing after it is written."""


WRITE = """
import sys, time
from pathlib import Path
from pipeline.spool import Spool
for path in sys.argv[2:]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
spools = [Spool(Path(path)) for path in sys.argv[2:]]
for step in range(1, int(sys.argv[1]) + 1):
    for spool in spools:
        spool.append(step, {"loss/supervised": 1 / step, "lr": 0.01, "val/student_miou": step / 7})
    time.sleep(0.02)
"""
INGEST = """
import sys
from pathlib import Path
from pipeline.tracking.sending import ingest_until
ingest_until(Path(sys.argv[1]), stop=lambda: False, interval_s=0.05)
"""


@pytest.mark.slow
def test_64_cells_logging_at_once_while_ingesters_are_killed_lose_nothing_and_double_nothing(lab: Lab) -> None:
    keys, steps = [f"cell{number:02}" for number in range(64)], 120
    tokens = {key: lab.begin(key) for key in keys}
    paths = [str(lab.store.work(key) / "spool.jsonl") for key in keys]
    writers = [subprocess.Popen([sys.executable, "-c", WRITE, str(steps), *paths[n::4]]) for n in range(4)]
    chance = random.Random(0)
    for _ in range(4):
        ingesters = [subprocess.Popen([sys.executable, "-c", INGEST, str(lab.store.root)]) for _ in range(2)]
        time.sleep(chance.uniform(4.0, 6.0))
        for ingester in ingesters:
            os.kill(ingester.pid, signal.SIGKILL)
            ingester.wait()
    assert [writer.wait() for writer in writers] == [0] * 4
    for key in keys:
        lab.store.publish(key, tokens[key], result=lab.TRAINED)
    assert sending.ingest(lab.store.root) == {"FINISHED": 64}
    assert len(lab.runs()) == 64
    spooled = lab.query("select run_uuid, key, step from metrics where key not like 'final/%'")
    assert len(spooled) == 64 * steps * 3
    assert max(Counter(spooled).values()) == 1
