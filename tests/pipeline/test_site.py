"""A site's file: what is wrong in it is named, with the place and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cluster.site import num_gpus
from pipeline.launch import load_site
from pipeline.sbatch import shares


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wokers": 2}, "keys unknown: wokers; it holds"),
        ({"executor": "pbs"}, "executor 'pbs'; allowed: local, slurm$"),
        ({"executor": "debug"}, "executor 'debug'; allowed: local, slurm$"),  # submitit's: it runs nothing
        ({"parameters": None}, "parameters: None; allowed: a mapping"),
        ({"executor": "slurm"}, "parameters: timeout_min: None; allowed with executor slurm: whole minutes, no more"),
        ({"executor": "slurm", "parameters": {"timeout_min": None}}, "parameters: timeout_min has no value; allowed"),
        ({"kinds": None}, "kinds: None; allowed: a mapping"),
        ({"datasets": {"cityscapes": None}}, "datasets: cityscapes: None; allowed: a mapping"),
        ({"threads": None}, "threads: None; allowed: a whole number of at least 1"),
        ({"workers": "8"}, "workers: '8'; allowed: a whole number of at least 1, or null"),
        ({"pack": -1}, "pack: -1; allowed: a whole number of at least 1, or null"),
        ({"kinds": {"evalute": {}}}, "kinds: evalute; allowed: warm_start, train, evaluate, reliability"),
        ({"datasets": {"voc": {}}}, "datasets: voc; allowed: voc_classic, voc_blender, cityscapes"),
        ({"kinds": {"train": {"timeout_min": None}}}, "kinds: train: timeout_min has no value"),
        ({"parameters": {"gpus_per_node": None}}, "parameters: gpus_per_node has no value"),
        ({"setup": [None]}, r"setup: \[None\]; allowed: a list of shell lines"),
        ({"setup": None}, "setup: None; allowed: a list of shell lines"),
        ({"setup": ["module load cuda"]}, r"setup: \['module load cuda'\]; allowed with executor local: \[\]"),
    ],
)
def test_a_wrong_site_file_names_the_key(change: dict[str, Any], message: str, project: Path) -> None:
    path = project / "slurm" / "local.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_site(project)


def test_an_unknown_cluster_names_those_there_are(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER", "mars")
    with pytest.raises(ValueError, match=r"CLUSTER=mars.*there are: .*local"):
        load_site(project)


@pytest.mark.parametrize(
    ("text", "message"), [("", "None is no mapping; it holds: executor"), ("a:\n\tb: 1", "no YAML")]
)
def test_a_site_file_that_is_no_mapping_is_named(text: str, message: str, project: Path) -> None:
    path = project / "slurm" / "local.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{path}: {message}"):
        load_site(project)


@pytest.mark.parametrize(
    ("asked", "num"),
    [
        ({}, 0),
        ({"gpus_per_node": 4}, 8),
        ({"gpus_per_node": "a100:4"}, 8),
        ({"slurm_gpus_per_node": "a100:4"}, 8),
        ({"gpus_per_node": 1, "slurm_gpus_per_node": 4}, 8),
        ({"tasks_per_node": 2, "slurm_gpus_per_task": "a100:1"}, 4),
        ({"slurm_gres": "gpu:2"}, 4),
        ({"slurm_gres": "gpu:a100:2"}, 4),
        ({"slurm_gres": "gpu,nvme:100"}, 2),
    ],
)
def test_the_gpus_of_a_job_are_counted_however_slurm_is_asked_for_them(asked: dict[str, Any], num: int) -> None:
    assert num_gpus({"nodes": 2} | asked) == num


@pytest.mark.parametrize(
    ("workers", "sizes", "expected"),
    [
        (64, [4, 96], [3, 61]),
        (4, [1, 1, 1000], [1, 1, 2]),
        (2, [5, 5, 5], [1, 1, 1]),  # each has one
        (10, [0, 9], [1, 9]),  # evaluations alone
        (None, [5, 7], [None, None]),
        (8, [30], [8]),
    ],
)
def test_the_classes_of_a_submission_share_the_sites_workers(
    workers: int | None, sizes: list[int], expected: list[int | None]
) -> None:
    found = shares({"executor": "slurm", "workers": workers}, sizes)
    assert found == expected


def test_on_one_machine_the_classes_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sbatch.num_cores", lambda: 8)
    assert shares({"executor": "local", "workers": None}, [3, 1]) == [6, 2]
