"""What `squeue` is asked, and whose answer counts: jobs that cannot be seen are not dead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster import liveness, slurm
from pipeline.cluster.liveness import release_dead
from pipeline.store import Store
from pipeline.worker import _drop_own
from tests.pipeline import test_shared_store
from tests.pipeline.test_liveness import cell, hold, submitted
from tests.pipeline.test_shared_store import job

squeue = test_shared_store.squeue


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    slurm._told.clear()


def says(squeue: Path, **configuration: str) -> None:
    """Let `scontrol show config` say this."""
    scontrol = squeue.parent / "bin" / "scontrol"
    lines = "\n".join(f"{name} = {value}" for name, value in configuration.items())
    scontrol.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    scontrol.chmod(0o755)
    slurm._told.clear()


@pytest.mark.parametrize(("private", "shared"), [("jobs,usage", False), ("none", True)])
def test_the_answer_of_a_colleague_counts_only_where_she_sees_everybody(
    private: str, shared: bool, squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    says(squeue, ClusterName="alder", PrivateData=private)
    submitted(store, [[one]], pack=1)
    hold(store, one, "7_0")
    monkeypatch.setattr(slurm, "SQUEUE_S", 30.0)
    with monkeypatch.context() as hers:
        hers.setattr(slurm, "user", lambda: "colleague")
        assert slurm.jobs(store) == []  # of which mine is none
    squeue.write_text(job("cells-s", "7_0"))
    release_dead(store)
    assert store.state(one.key) == ("missing" if shared else "running")


def test_of_another_cluster_nothing_is_known(squeue: Path, tmp_path: Path) -> None:
    says(squeue, ClusterName="birch", PrivateData="none")
    store, cells = Store(tmp_path / "cells"), [cell("sleep", 0), cell("sleep", 1)]
    submitted(store, [cells], pack=1, cluster="alder")
    hold(store, cells[0], "7_0", cluster="alder")
    release_dead(store)
    assert [store.state(one.key) for one in cells] == ["running", "queued"]
    _drop_own(store, cells, me={"job": "7_0", "cluster": "birch"})  # another job of this number, which was requeued
    assert store.state(cells[0].key) == "running"
    says(squeue, ClusterName="alder", PrivateData="none")
    release_dead(store)
    assert [store.state(one.key) for one in cells] == ["missing", "missing"]


def test_a_users_habits_and_hidden_partitions_hide_no_job(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "mine")
    script = squeue.parent / "bin" / "squeue"
    script.write_text(
        f'#!/bin/sh\n[ -n "$SQUEUE_PARTITION" ] && exit 0\n[ "$1" = -a ] || exit 0\ncat {squeue}\n', encoding="utf-8"
    )
    squeue.write_text(job("cells-s", "7_0"))
    assert list(slurm.live_jobs(Store(tmp_path / "cells")) or {}) == ["cells-s"]


def test_a_controller_that_does_not_answer_is_asked_as_seldom_as_the_queue_by_all_drivers_together(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, scontrol = tmp_path / "calls", squeue.parent / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho asked >> {calls}\nexit 1\n")
    monkeypatch.setattr(slurm, "SQUEUE_S", 30.0)
    drivers = [Store(tmp_path / "cells") for _ in range(3)]
    assert [slurm.jobs(store) for store in drivers] == [None] * 3
    assert calls.read_text().splitlines() == ["asked"]
    says(squeue, ClusterName="alder")
    assert slurm.jobs(drivers[0]) is None  # not yet
    monkeypatch.setattr(slurm, "SQUEUE_S", -1.0)
    assert slurm.jobs(drivers[0]) == []


def test_what_has_to_wait_for_slurms_word_is_not_called_released(
    squeue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.commands.doctor import _dead_cells

    store, one = Store(tmp_path / "cells"), cell("sleep", 0)
    submitted(store, [[one]], pack=1)
    hold(store, one, "7_0")
    monkeypatch.setattr(liveness.slurm, "causes_of_death", lambda *_: None)
    (line,) = _dead_cells(store, mend=True)[1]
    assert line.endswith("is gone; SLURM does not say yet why, not mended")
    assert store.state(one.key) == "running"
