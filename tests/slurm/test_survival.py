"""Trainings on a real SLURM that nodes, neighbours, limits and signals interrupt: they end with the same bits."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline.files import read_json
from pipeline.store import Store, find_store
from tests.slurm.driving import (
    assert_same_bits,
    checkpoint_often,
    edit,
    events,
    finish,
    reached,
    send,
    sleeper,
    slow_down,
    u2pl_cells,
)

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]
Make = Callable[..., Path]
ENGINE = "pipeline/training/engine.py"


def job_under_way(cluster: Cluster, store: Store, key: str) -> str:
    """The job that runs a cell, once the cell has got on by some steps."""
    before = reached(store, key)
    cluster.wait_for(lambda: store.state(key) == "running" and reached(store, key) > before + 15, seconds=120)
    return (store.holder(key) or {})["job"]


def interrupt(cluster: Cluster, store: Store, key: str, *command: str) -> None:
    """Do to the cell's job what the command says, and let it start again at once."""
    job = job_under_way(cluster, store, key)
    cluster.run(*command, job)
    cluster.restart_requeued(job)


def preempt(cluster: Cluster, job: str, folder: Path) -> None:
    """Let an urgent job of a second take the place of this one, on a cluster of one node."""
    urgent = ("--partition=urgent", "--cpus-per-task=4", f"--output={folder}/urgent")
    cluster.submit(*urgent, "--wrap=sleep 1")
    cluster.wait_for(lambda: cluster.states(job) != ["RUNNING"])


def within_an_epoch(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint was made in the midst of an epoch, with something in every queue."""
    filled = [value for name, value in saved["method"].items() if name.endswith("filled")]
    return saved["step"] % 25 != 0 and bool(filled) and all(int(queue.sum()) > 0 for queue in filled)


def test_the_cells_of_a_fallen_node_go_on_elsewhere(calm: Store, cluster: Cluster, make_site: Make) -> None:
    site, cells = make_site({"cpus_per_task": 4}), [*u2pl_cells(), sleeper(0, 15.0), sleeper(1, 15.0)]
    checkpoint_often(site)
    slow_down(site, 0.03)
    send(site, cells)
    store, train = Store(find_store(site)), cells[1]
    job = job_under_way(cluster, store, train.key)
    fallen = cluster.run("squeue", "-h", "-j", job, "-o", "%N")
    cluster.kill(fallen)
    try:
        finish(site, cells)
    finally:
        cluster.start(fallen)
    assert events(store, train.key) == ["start", "resume", "done"]
    nodes = cluster.run("sacct", "-n", "-P", "-X", "-D", "-j", job, "-o", "NodeList").split()
    assert nodes[0] == fallen
    assert nodes[-1] != fallen
    assert [events(store, cell.key) for cell in cells if cell.kind == "sleep"] == [["start", "done"]] * 2
    assert_same_bits(calm, store, cells[:3])
    cluster.wait_for(lambda: cluster.run("sinfo", "-h", "-n", fallen, "-o", "%T") == "idle")


def test_killed_between_two_checkpoints_within_an_epoch_a_training_goes_on_with_its_queues(
    calm: Store, site: Path, cluster: Cluster
) -> None:
    """SIGKILL, as the kernel sends it: what counts is the last checkpoint, which was written while nobody asked."""
    cells, store = u2pl_cells(), Store(find_store(site))
    checkpoint_often(site)
    slow_down(site, 0.03)
    send(site, cells)
    train = cells[1]
    path = store.work(train.key) / "checkpoint.pt"

    cluster.wait_for(lambda: path.exists() and within_an_epoch(torch.load(path)), seconds=120)
    os.kill((store.holder(train.key) or {})["pid"], signal.SIGKILL)
    finish(site, cells)
    assert events(store, train.key) == ["start", "lost", "resume", "done"]
    assert_same_bits(calm, store, cells)


def test_preempted_twice_and_then_out_of_time_a_training_ends_with_the_same_bits(
    calm: Store, running_cluster: Start, make_site: Make, tmp_path: Path
) -> None:
    """The limit is SLURM's shortest, a minute, and below what the training needs: SLURM itself sends the signal.

    A signal that comes at the end of an epoch is obeyed a step later: each checkpoint is one within an epoch.
    """
    with running_cluster("--preempt=REQUEUE", "--nodes=1") as cluster:
        site = make_site({"cpus_per_task": 4, "timeout_min": 1, "slurm_signal_delay_s": 15})
        slow_down(site, 0.25)
        edit(site, ENGINE, "ranks.any_rank(stop())", "ranks.any_rank(stop() and run.step % 25 != 0)")
        keep = "        torch.save(state, work / f'resumed-at-{state[\"step\"]}.pt')\n"
        resume = "        _resume(run, load_checkpoint(saved, cell.key))\n"
        edit(site, ENGINE, resume, f"        state = load_checkpoint(saved, cell.key)\n{keep}{resume}")
        cells = u2pl_cells()
        send(site, cells)
        store, train = Store(find_store(site)), cells[1]
        for _ in range(2):
            job = job_under_way(cluster, store, train.key)
            preempt(cluster, job, tmp_path)
            cluster.restart_requeued(job)
        finish(site, cells)
        happened = events(store, train.key)
        restarts = len(happened) - 2
        assert happened == ["start", *["resume"] * restarts, "done"]
        assert restarts >= 3  # two by preemption, at least one by the limit
        assert_same_bits(calm, store, cells)
        trained = read_json(store.done(train.key) / "result.json") or {}
        assert trained["provenance"]["restarts"] == restarts
        assert len(list(store.submissions.iterdir())) == 1  # SLURM queued the one job again, each time
        resumed = [torch.load(path) for path in store.done(train.key).glob("resumed-at-*.pt")]
        assert 0 < len(resumed) <= restarts  # one that is stopped before it saves begins from the same step again
        assert all(within_an_epoch(saved) for saved in resumed)


def test_where_preemption_cancels_a_training_is_submitted_again_and_ends_with_the_same_bits(
    calm: Store, running_cluster: Start, make_site: Make, tmp_path: Path
) -> None:
    with running_cluster("--preempt=CANCEL", "--nodes=1") as cluster:
        site, cells = make_site({"cpus_per_task": 4}), u2pl_cells()
        slow_down(site, 0.03)
        send(site, cells)
        store, train = Store(find_store(site)), cells[1]
        preempt(cluster, job_under_way(cluster, store, train.key), tmp_path)
        finish(site, cells)
        assert [event for event in events(store, train.key) if event != "lost"] == ["start", "resume", "done"]
        assert_same_bits(calm, store, cells)
        assert len(list(store.submissions.iterdir())) == 2


def test_two_nodes_train_one_cell_and_end_with_the_same_bits_after_interruptions_and_as_two_tasks_of_a_node(
    make_site: Make, cluster: Cluster
) -> None:
    """The nodes of the test cluster have no address of their own: they meet on this host."""
    meet = ["export MASTER_ADDR=127.0.0.1"]
    site = make_site({"nodes": 2, "tasks_per_node": 1}, setup=meet)
    cells = u2pl_cells(labelled_batch=2, epochs=5)
    train = cells[1]
    calm, rough = finish(site, cells, root=site / "calm"), Store(site / "rough")
    send(site, cells, root=rough.root)
    interrupt(cluster, rough, train.key, "scontrol", "requeue")
    interrupt(cluster, rough, train.key, "scancel", "--signal=USR2")
    finish(site, cells, root=rough.root)
    assert events(rough, train.key) == ["start", "resume", "resume", "done"]
    assert_same_bits(calm, rough, cells)
    site = make_site({"nodes": 1, "tasks_per_node": 2}, setup=meet)
    together = finish(site, cells, root=site / "together")
    assert_same_bits(calm, together, cells)
    for store in (rough, together):
        assert (read_json(store.done(train.key) / "result.json") or {})["provenance"]["ranks"] == 2


def test_cancelled_by_slurm_a_running_and_a_waiting_task_of_an_array_are_made_good(
    calm: Store, make_site: Make, cluster: Cluster
) -> None:
    """As `scancel` does by itself: it terminates the one, kills it soon after, and forgets the other."""
    site, cells, others = make_site(workers=1), u2pl_cells(), [sleeper(number, 0.2) for number in range(3)]
    checkpoint_often(site)
    slow_down(site, 0.03)
    send(site, [*cells, *others])
    store, train = Store(find_store(site)), cells[1]
    running = job_under_way(cluster, store, train.key)
    (jobs,) = [read_json(path) or {} for path in store.submissions.glob("*/jobs.json")]
    pending = next(job for job in jobs["jobs"] if cluster.states(job) == ["PENDING"])
    cluster.run("scancel", running, pending)
    finish(site, [*cells, *others])
    assert [event for event in events(store, train.key) if event != "lost"] == ["start", "resume", "done"]
    assert [events(store, cell.key) for cell in [cells[0], cells[2], *others]] == [["start", "done"]] * 5
    assert_same_bits(calm, store, cells)
