"""The commands that look and steer, on a real SLURM: they say what the cluster does, and what they stop ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.__main__ import main
from pipeline.cell import chain
from pipeline.files import read_json, write_json
from pipeline.store import Store, find_store
from tests.pipeline.conftest import let_go
from tests.slurm.driving import (
    assert_same_bits,
    edit,
    events,
    finish,
    reached,
    send,
    sleeper,
    slow_down,
    starts,
    u2pl_row,
    write_site,
)
from tests.test_end_to_end import Copy

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Make = Callable[..., Path]
TABLE = "smoke/table_7"


def jobs_of(store: Store) -> list[str]:
    return [job for path in store.submissions.glob("*/jobs.json") for job in (read_json(path) or {})["jobs"]]


def submitted(store: Store) -> dict[str, str]:
    """The kind of each submitted cell, by its key."""
    records = [read_json(path) or {} for path in store.submissions.glob("*/submission.json")]
    return {cell["key"]: cell["kind"] for record in records for cell in record["cells"]}


def test_doctor_cancels_jobs_without_a_cell_but_none_of_another_store(
    make_site: Make, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site({"slurm_additional_parameters": {"hold": True}})
    ours, theirs = Store(find_store(site)), Store(site / "theirs" / "cells")
    mine, other = [[sleeper(number, seconds) for number in range(3)] for seconds in (0.1, 0.2)]
    send(site, mine)
    send(site, other, root=theirs.root)
    orphans, spared = jobs_of(ours), jobs_of(theirs)
    for cell in mine:
        let_go(ours, cell.key)
    assert main(["doctor", "--dry-run"]) == 1
    assert all(cluster.states(job) == ["PENDING"] for job in orphans)
    capsys.readouterr()
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert sorted(line.split()[1] for line in said.splitlines() if line.startswith("job ")) == sorted(orphans)
    cluster.wait_for(lambda: not any(cluster.states(job) for job in orphans))
    assert all(cluster.states(job) == ["PENDING"] for job in spared)
    cluster.run("scontrol", "release", *spared)
    assert starts(finish(site, other, root=theirs.root)) == sorted(cell.key for cell in other)
    assert starts(ours) == []


def test_a_cancelled_training_keeps_its_checkpoint_and_ends_with_the_same_bits_after_retry(
    calm: Store, make_site: Make, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """One runs, another one waits behind it."""
    rows = [u2pl_row(), u2pl_row() | {"seed": 1}]
    site, (cells, waiting) = make_site(workers=1), [chain(row) for row in rows]
    edit(site, "params.yaml", "\nscale: embedded", "\nscale: smoke")
    write_json(site / "reports" / "smoke" / "cells" / "experiment.json", rows)
    slow_down(site, 0.05)
    send(site, [*cells, *waiting])
    store, train = Store(find_store(site)), cells[1].key
    cluster.wait_for(lambda: store.state(train) == "running" and reached(store, train) > 15, seconds=120)
    running, pending = jobs_of(store)
    assert (cluster.states(running), cluster.states(pending)) == (["RUNNING"], ["PENDING"])
    assert main(["cancel", "experiment"]) == 0
    cluster.wait_for(cluster.idle)
    assert (store.work(train) / "checkpoint.pt").exists()
    assert {store.state(cell.key) for cell in [*cells[1:], *waiting]} == {"cancelled"}
    assert main(["retry", "experiment"]) == 0
    finish(site, cells)
    assert events(store, train) == ["start", "cancelled", "retry", "resume", "done"]
    assert [events(store, cell.key) for cell in waiting] == [["cancelled", "retry"]] * len(waiting)
    assert_same_bits(calm, store, cells)
    capsys.readouterr()
    assert main(["why", train[:12]]) == 0
    told = json.loads(capsys.readouterr().out)
    provenance, (first, again) = told["result"]["provenance"], [line for line in told["executions"] if "job" in line]
    assert provenance["restarts"] == 1
    assert first["job"] == running
    owners = [read_json(store.submissions / line["submission"] / "jobs.json") or {} for line in (first, again)]
    assert all(line["job"] in owner["jobs"] for line, owner in zip((first, again), owners, strict=True))
    assert (provenance["job"], provenance["node"]) == (again["job"], again["host"])


def ask(copy: Copy, *command: str) -> Any:
    return json.loads(
        subprocess.check_output(("python", "-m", "pipeline", *command), cwd=copy.folder, env=copy.environment)
    )


@contextmanager
def stopped_in_a_training(cluster: Cluster, folder: Path) -> Iterator[tuple[Copy, str, subprocess.Popen[bytes]]]:
    """A copy of the project whose one worker was stopped in its second training; its key, and the driver that waits."""
    copy = Copy(folder)
    copy.environment["CLUSTER"] = "test"
    write_site(folder, {}, workers=1)
    slow_down(folder, 0.3)
    edit(folder, "pipeline/training/engine.py", "LOG_EVERY_STEPS = 10", "LOG_EVERY_STEPS = 2")  # only then may it leave
    store, command = copy.store, ["dvc", "repro", "tables@table_7"]
    driver = subprocess.Popen(command, cwd=folder, env=copy.environment, stdout=subprocess.DEVNULL)

    def under_way() -> list[str]:
        kinds = submitted(store)
        evaluated = any(store.is_done(key) for key, kind in kinds.items() if kind == "evaluate")
        trained = [key for key, kind in kinds.items() if kind == "train" and reached(store, key) and store.holder(key)]
        return trained if evaluated else []

    try:
        cluster.wait_for(lambda: bool(under_way()), seconds=400)
        (key,) = under_way()
        os.kill((store.holder(key) or {})["pid"], signal.SIGSTOP)
        yield copy, key, driver
    finally:
        driver.kill()
        driver.wait()
        subprocess.run(["scancel", *jobs_of(store)], check=False, capture_output=True)


def test_plan_status_logs_and_why_count_and_name_what_the_cluster_does(cluster: Cluster, tmp_path: Path) -> None:
    """The one worker is stopped meanwhile, so that all of them speak of the same moment."""
    with stopped_in_a_training(cluster, tmp_path / "copy") as (copy, key, driver):
        assert_they_tell_the_truth(copy, key, cluster)
        store, kinds, pid = copy.store, submitted(copy.store), (copy.store.holder(key) or {})["pid"]
        done = {name for name in kinds if store.is_done(name)}
        copy.run("python", "-m", "pipeline", "cancel", "table_7")
        os.kill(pid, signal.SIGCONT)
        cluster.wait_for(cluster.idle, seconds=120)
        assert driver.wait(timeout=120) != 0
        assert (store.work(key) / "checkpoint.pt").exists()
        assert {store.state(name) for name in kinds.keys() - done} == {"cancelled"}


def assert_they_tell_the_truth(copy: Copy, key: str, cluster: Cluster) -> None:
    """One evaluation is done and the training `key` under way."""
    store, kinds = copy.store, submitted(copy.store)
    holder = store.holder(key) or {}
    done = {path.name for path in (store.root / "done").iterdir()}
    states = {name: "done" if name in done else "queued" for name in kinds} | {key: "running"}
    assert Counter(job for jobs in jobs_of(store) for job in cluster.states(jobs))["RUNNING"] == 1

    shown = ask(copy, "status", "--json")
    assert {name: number for name, number in shown["tables"][TABLE].items() if number} == Counter(states.values())
    (line,) = shown["running"]
    assert (line["job"], line["node"], line["restarts"]) == (holder["job"], holder["host"], 0)
    planned = {line["stage"]: line for line in ask(copy, "plan", "--json", "tables@table_7")}
    for kind in ("train", "evaluate"):
        expected = Counter(state for name, state in states.items() if kinds[name] == kind)
        stage = planned[f"{kind}@table_7"]
        assert {state: stage[state] for state in ("done", "running", "queued", "missing") if state in stage} == expected
    logged = ask(copy, "logs", "--json", key)
    assert (logged["key"], logged["state"]) == (key, "running")
    assert f"as job {holder['job']}" in logged["lines"][0]
    (before,) = [name for name in done if kinds[name] == "evaluate"]
    told = ask(copy, "why", before)["result"]["provenance"]
    assert told["job"] in jobs_of(store)
    assert (told["dvc_stage"], told["node"], told["restarts"]) == ("evaluate@table_7", holder["host"], 0)
