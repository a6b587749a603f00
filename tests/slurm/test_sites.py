"""The example sites, read by the launcher and taken by a cluster of such nodes: what they ask for is on the jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import attach
from pipeline.cell import Cell, digest
from pipeline.cluster.lost import MAX_LOST
from pipeline.files import read_json
from pipeline.launch import load_site, resources
from pipeline.store import Store, find_store
from tests.slurm.driving import PROJECT, finish, send, sleeper, write_site

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = pytest.mark.slurm
Start = Callable[..., "AbstractContextManager[Cluster]"]
SITES = ("example", "example_multinode")
NODES = ("--no-accounting", "--nodes=8", "--cpus=64", "--gres=8", "--set", "PartitionName=gpu Nodes=ALL State=DOWN")


def cell(kind: str, dataset: str, seed: int = 0) -> Cell:
    return Cell(
        kind,
        {"dataset": dataset, "partition": "1-4", "seed": seed, "model": {"weights": None}},
        (),
        digest([kind, dataset, seed]),
    )


def asked(parameters: dict[str, Any]) -> dict[str, str]:
    """What submitit's keywords come to in the words of `scontrol show job`."""
    days, minutes = divmod(parameters["timeout_min"], 1440)
    tasks = parameters.get("nodes", 1) * parameters.get("tasks_per_node", 1)
    limit = f"{f'{days}-' if days else ''}{minutes // 60:02}:{minutes % 60:02}:00"
    wanted = {"TimeLimit": limit, "NumNodes": str(parameters.get("nodes", 1)), "NumTasks": str(tasks)}
    wanted |= {"CPUs/Task": str(parameters["cpus_per_task"]), "MinMemoryNode": f"{parameters['mem_gb']}G"}
    wanted |= {"TresPerNode": f"gres:gpu:{parameters['gpus_per_node']}", "Partition": parameters["slurm_partition"]}
    wanted |= {"Features": parameters.get("slurm_constraint", "(null)")}
    return wanted | ({"Account": parameters["slurm_account"]} if "slurm_account" in parameters else {})


def shown(cluster: Cluster, job: str) -> dict[str, str]:
    words = cluster.run("scontrol", "show", "job", "-o", job).splitlines()[0].split()
    found = dict(word.split("=", 1) for word in words if "=" in word)
    return found | {"NumNodes": found["NumNodes"].split("-")[0]}  # at least, and at most, while it waits


def test_a_cluster_takes_the_jobs_of_both_example_sites(
    running_cluster: Start, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its partition is down: jobs are looked at and refused as ever, and wait."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(project / "nothing"))
    kinds, datasets = ("train", "evaluate"), ("voc_blender", "cityscapes")
    cells = [cell(kind, dataset, seed) for kind in kinds for dataset in datasets for seed in range(2)]
    with running_cluster(*NODES) as cluster:
        cluster.run("scontrol", "update", "NodeName=n[0-7]", "AvailableFeatures=a100,h100,infiniband")
        for name in SITES:
            monkeypatch.setenv("CLUSTER", name)
            site, store = load_site(project), Store(project / name)
            send(project, cells, root=store.root)
            for path in store.submissions.glob("*/submission.json"):
                keys = {record["key"] for record in (read_json(path) or {})["cells"]}
                wanted = [asked(resources(site, each)) for each in cells if each.key in keys]
                array = (read_json(path.with_name("jobs.json")) or {})["jobs"][0].split("_")[0]
                found = shown(cluster, array)
                assert wanted == [{name: found[name] for name in each} for each in wanted]
                assert int(found["ArrayTaskThrottle"]) == min(site["workers"], len(cells) // 4)
                assert "\n".join(site["setup"]) in cluster.run("scontrol", "write", "batch_script", array, "-")


def test_cityscapes_at_the_papers_size_gets_eight_gpus_in_both() -> None:
    for name, nodes, tasks in (("example", 8, 1), ("example_multinode", 2, 4)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLUSTER", name)
            wanted = asked(resources(load_site(PROJECT), cell("train", "cityscapes")))
        assert (wanted["NumNodes"], wanted["NumTasks"]) == (str(nodes), "8")
        assert wanted["TresPerNode"] == f"gres:gpu:{tasks}"


def test_an_evaluation_alone_gets_one_gpu_in_both_whatever_its_training_had() -> None:
    for name in SITES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLUSTER", name)
            wanted = asked(resources(load_site(PROJECT), cell("evaluate", "cityscapes")))
        assert (wanted["NumNodes"], wanted["NumTasks"], wanted["TresPerNode"]) == ("1", "1", "gres:gpu:1")


def test_the_setup_lines_of_a_data_set_and_of_a_kind_reach_the_job_after_those_of_the_site(
    make_site: Callable[..., Path], cluster: Cluster
) -> None:
    """As with every parameter, those of the kind stand in place of the data set's."""
    assert cluster
    site = make_site()

    def noted(dataset: str, **kinds: Any) -> list[str]:
        """What the set-up lines of the job of a cell of this data set wrote down."""
        file = site / f"noted-{dataset}-{len(kinds)}"
        lines = {word: [f"echo {word} >> {file}"] for word in ("site", "dataset", "kind")}
        datasets = {"voc_classic": {"slurm_setup": lines["dataset"]}}
        chosen = {kind: {"slurm_setup": lines[word]} for kind, word in kinds.items()}
        write_site(site, {}, setup=lines["site"], datasets=datasets, kinds=chosen)
        cells = [sleeper(len(kinds), 0.1, dataset)]
        send(site, cells)
        finish(site, cells)
        return file.read_text().split()

    assert noted("voc_classic") == ["site", "dataset"]
    assert noted("voc_blender") == ["site"]
    assert noted("voc_classic", sleep="kind") == ["site", "kind"]


def test_where_a_line_of_the_set_up_fails_the_cells_fail_and_name_the_logs(
    make_site: Callable[..., Path], cluster: Cluster
) -> None:
    """As `module load` of what is not there: else the jobs would be submitted again for ever, without a word."""
    assert cluster
    site, cells = make_site(setup=["echo no such module >&2; exit 1"]), [sleeper(number, 0.2) for number in range(3)]
    store = Store(find_store(site))
    keyed = {one.key: one for one in cells}
    failed = attach.wait(store, keyed, start=lambda: send(site, cells), title="test")
    assert failed.keys() == keyed.keys()
    assert len(list(store.submissions.iterdir())) == MAX_LOST
    (pattern,) = {reason["reason"].rpartition(": see ")[2] for reason in failed.values()}
    logs = list(Path("/").glob(pattern.removeprefix("/")))
    assert logs
    assert all("no such module" in log.read_text() for log in logs)
