"""A machine's GPUs: each worker has its own, and a job whose GPUs torch cannot use computes nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from submitit.core.utils import DelayedSubmission

from pipeline.cell import Cell
from pipeline.cluster import liveness
from pipeline.cluster.gpus import deal, machine_gpus, see_gpus
from pipeline.files import read_json
from pipeline.store import Store
from pipeline.worker import Worker
from tests.pipeline import test_launch, test_sbatch
from tests.pipeline.test_launch import send, sleeper, until
from tests.pipeline.test_sbatch import Cluster

local_store, cluster = test_launch.local_store, test_sbatch.cluster
LISTED = "GPU 0: NVIDIA A100 (UUID: GPU-7c5f)\n  MIG 1g.5gb     Device  0: (UUID: MIG-c6d4)\nGPU 1: NVIDIA A100"


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first folder of PATH, on a machine of which nothing else says what GPUs it has."""
    folder = tmp_path / "first-in-path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    list_gpus(folder, "")
    return folder


def list_gpus(folder: Path, listing: str) -> None:
    """Let `nvidia-smi -L` say this."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && cat <<'END'\n{listing}\nEND\n")
    program.chmod(0o755)


def choose_site(project: Path, **changes: Any) -> None:
    path = project / "slurm" / "local.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def gpus_of_cells(store: Store, project: Path, cells: list[Cell]) -> dict[str, set[str]]:
    """Run the cells; return which GPUs each process that ran some wrote into their logs."""
    send(store, cells, project)
    until(lambda: all(store.is_done(cell.key) for cell in cells))
    lines = [(store.done(cell.key) / "log.txt").read_text().splitlines()[0] for cell in cells]
    found: dict[str, set[str]] = {}
    for line in lines:
        job, gpus = re.findall(r"as job (\S+)(?: with GPU (\S+))?$", line)[0]
        found.setdefault(job, set()).add(gpus)
    return found


def kill_worker(store: Store, submission: str) -> None:
    """Kill the one process of a submission that runs its cells."""
    (job,) = (read_json(store.submissions / submission / "jobs.json") or {})["jobs"]
    until(lambda: bool(psutil.Process(int(job)).children()))
    psutil.Process(int(job)).children()[0].kill()


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        (None, ["0", "1"]),
        ("", []),
        ("1", ["1"]),
        ("2, 0", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("GPU-7c5f,MIG-c6d4", ["GPU-7c5f", "MIG-c6d4"]),
    ],
)
def test_the_gpus_are_those_the_driver_may_see_or_all(
    named: str | None, gpus: list[str], bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_gpus(bin_folder, LISTED)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert machine_gpus() == gpus


def test_a_machine_without_gpus_or_without_the_program_has_none(
    bin_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_gpus(bin_folder, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    assert machine_gpus() == []
    monkeypatch.setenv("PATH", str(bin_folder.parent / "nothing"))
    assert machine_gpus() == []


@pytest.mark.parametrize(
    ("classes", "sizes", "dealt"),
    [
        ([{}], [9], [["0", "1", "2", "3"]]),
        ([{"gpus_per_node": 2}], [9], [["0,1", "2,3"]]),
        ([{"gpus_per_node": 3}], [9], [["0,1,2"]]),
        ([{"gpus_per_node": 0}], [9], [[]]),
        ([{"tasks_per_node": 2}], [9], [["0,1", "2,3"]]),
        ([{}, {"mem_gb": 1}], [30, 10], [["0", "1", "2"], ["3"]]),
        ([{}, {"gpus_per_node": 0}, {"gpus_per_node": 2}], [0, 50, 1], [["0", "1"], [], ["2,3"]]),
        ([{}, {"gpus_per_node": 4}], [9, 1], [["0"], ["1,2,3,0"]]),  # more than there are
        ([{"mem_gb": number} for number in range(5)], [1] * 5, [["0"], ["1"], ["2"], ["3"], ["0"]]),
    ],
)
def test_workers_have_gpus_of_their_own(
    classes: list[dict[str, Any]], sizes: list[int], dealt: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert deal({"executor": "local"}, classes, sizes=sizes) == dealt
    assert deal({"executor": "slurm"}, classes, sizes=sizes) == [[] for _ in classes]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    named = [asked | {"gpus_per_node": 0} if "gpus_per_node" in asked else asked for asked in classes]
    assert deal({"executor": "local"}, named, sizes=sizes) == [[] for _ in classes]


@pytest.mark.parametrize("asked", [{"gpus_per_node": 3}, {"tasks_per_node": 3}, {"gpus_per_node": "a100:1"}])
def test_more_gpus_than_the_machine_has_are_refused(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("CLUSTER", raising=False)
    with pytest.raises(ValueError, match=r"^slurm/local\.yaml: gpus_per_node .*('a100:1'|3); allowed: 0, .* to 2, "):
        deal({"executor": "local"}, [{}, asked], sizes=[1, 1])


def test_as_many_workers_start_as_gpus_and_none_has_anothers(
    local_store: Store, project: Path, bin_folder: Path
) -> None:
    list_gpus(bin_folder, LISTED)
    found = gpus_of_cells(local_store, project, [sleeper(number, 1.0) for number in range(6)])
    (jobs,) = [read_json(path) or {} for path in local_store.submissions.glob("*/jobs.json")]
    assert len(jobs["jobs"]) == 2
    assert sorted(found.values(), key=str) in ([{"0"}, {"1"}], [{"0"}], [{"1"}])  # one may come late to cells so short


def test_a_submission_beside_another_takes_the_gpus_without_a_worker_first(
    local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    submissions = [send(local_store, [sleeper(number, 90.0)], project)[0] for number in range(2)]
    assert liveness.gpus_in_use(local_store) == {"0": 1, "1": 1}
    kill_worker(local_store, submissions[0])
    until(lambda: liveness.gpus_in_use(local_store) == {"1": 1})
    kill_worker(local_store, submissions[1])
    until(lambda: not liveness.gpus_in_use(local_store))


@pytest.mark.parametrize(
    ("changes", "named", "expected"),
    [
        ({"workers": 1}, "0,1", [{"0"}]),
        ({"parameters": {"gpus_per_node": 2}}, "GPU-7c,GPU-9a,GPU-3e", [{"GPU-7c,GPU-9a"}]),
        ({"parameters": {"gpus_per_node": 0}, "workers": 1}, "0,1", [{""}]),
    ],
)
def test_the_site_says_how_many_workers_and_gpus_at_most(
    changes: dict[str, Any],
    named: str,
    expected: list[set[str]],
    local_store: Store,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    choose_site(project, **changes)
    found = gpus_of_cells(local_store, project, [sleeper(number) for number in range(3)])
    assert list(found.values()) == expected


@pytest.mark.parametrize("usable", [True, False])
def test_a_job_that_needs_a_gpu_says_why_it_has_none(usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")  # also brings back what is there now
    monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    see_gpus("1", needed=False)
    if usable:
        see_gpus("5", needed=True)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
        return
    with pytest.raises(
        RuntimeError, match=r"made for CUDA 13\.0, can use none .*DEVICES: '5'\); allowed: a driver .*0`"
    ):
        see_gpus("5", needed=True)


def test_cells_whose_workers_cannot_use_their_gpus_fail_and_name_the_log(
    local_store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-of-nobody")
    values = {"dataset": "none", "partition": "-", "seed": 0, "model": {"weights": None}}
    cell = Cell("train", values, (), "unlucky")

    def failed() -> bool:
        liveness.release_dead(local_store)
        send(local_store, [cell], project)
        return local_store.state(cell.key) == "failed"

    until(failed, seconds=200)
    reason = (local_store.failure(cell.key) or {})["reason"]
    (named,) = re.findall(r"^its job ended 3 times before it began, .*: see (\S+)/\*_log\.err$", reason)
    (log,) = Path(named).glob("*_log.err")
    assert "can use none of the GPUs" in log.read_text()
    assert "GPU-of-nobody" in log.read_text()


@pytest.mark.parametrize(
    ("kind", "parameters", "needs"),
    [
        ("train", {"gpus_per_node": 2}, True),
        ("train", {"slurm_gres": "gpu:a100:1"}, True),
        ("train", {"gpus_per_node": 0}, False),
        ("train", {}, False),
        ("sleep", {"gpus_per_node": 2}, False),  # it imports no torch
    ],
)
def test_a_job_on_slurm_needs_a_gpu_where_its_site_asks_for_one(
    kind: str, parameters: dict[str, Any], needs: bool, cluster: Cluster
) -> None:
    cluster.be(room=100, parameters={"timeout_min": 5} | parameters)
    cluster.send([test_sbatch.cell(kind, 0)])
    (path,) = [path for path in cluster.store.submissions.glob("*/jobs/**/*submitted.pkl") if not path.is_symlink()]
    worker = DelayedSubmission.load(path).function
    assert isinstance(worker, Worker)
    assert (worker.gpus, worker.needs_gpu) == (None, needs)
