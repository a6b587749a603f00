"""A site: `slurm/<CLUSTER>.yaml`, what it offers and what each cell asks of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import yaml

from pipeline.cell import KINDS, Cell
from pipeline.labels import PARTITIONS
from pipeline.records import Site

MAX_DOUBLINGS = 3
"""How often `mem_gb` is doubled for a cell at most: eightfold; more is seldom to be had, and sbatch would refuse it."""

EXECUTORS = ("local", "slurm")
SITE_KEYS = tuple(Site.__annotations__)


def load_site(root: Path) -> Site:
    """Read `slurm/<CLUSTER>.yaml`.

    Raises ValueError naming the file and what is wrong in it and what is allowed, or the sites there are.
    """
    name = os.environ.get("CLUSTER", "local")
    path = root / "slurm" / f"{name}.yaml"
    if not path.exists():
        sites = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ValueError(f"CLUSTER={name}: {path} does not exist; there are: {sites}")
    try:
        site = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML: {error}") from None
    if not isinstance(site, dict):
        raise ValueError(f"{path}: {site!r} is no mapping; it holds: {', '.join(SITE_KEYS)}")
    if set(site) != set(SITE_KEYS):
        sides = {"unknown": set(site) - set(SITE_KEYS), "missing": set(SITE_KEYS) - set(site)}
        wrong = "; ".join(f"{side}: {', '.join(sorted(map(str, keys)))}" for side, keys in sides.items() if keys)
        raise ValueError(f"{path}: keys {wrong}; it holds: {', '.join(SITE_KEYS)}")
    if site["executor"] not in EXECUTORS:
        raise ValueError(f"{path}: executor {site['executor']!r}; allowed: {', '.join(EXECUTORS)}")
    _check_values(path, site)
    return cast(Site, site)


def _check_values(path: Path, site: dict[str, Any]) -> None:
    """Raise ValueError where a value is of another kind than what submitting takes it for, as one left blank is."""
    _check_mappings(path, site)
    for name, or_null in (("threads", ""), ("workers", ", or null"), ("pack", ", or null")):
        value = site[name]
        if not (type(value) is int and value >= 1) and not (or_null and value is None):
            raise ValueError(f"{path}: {name}: {value!r}; allowed: a whole number of at least 1{or_null}")
    if site["executor"] == "slurm" and site["parameters"].get("timeout_min") is None:
        raise ValueError(
            f"{path}: parameters: timeout_min: None; allowed with executor slurm: whole minutes, no more than the "
            "partition's MaxTime, above which jobs wait for ever; a cell that needs longer goes on in a requeued job"
        )
    if not isinstance(site["setup"], list) or not all(isinstance(line, str) for line in site["setup"]):
        raise ValueError(f"{path}: setup: {site['setup']!r}; allowed: a list of shell lines, [] for none")
    if site["setup"] and site["executor"] == "local":
        raise ValueError(
            f"{path}: setup: {site['setup']!r}; allowed with executor local: [], for no job's shell runs them"
        )


def _check_mappings(path: Path, site: dict[str, Any]) -> None:
    """Raise ValueError where what submitit is to be told is no mapping, of no such cells, or left blank."""
    mappings = {name: site[name] for name in ("parameters", "kinds", "datasets")}
    for name in ("kinds", "datasets"):
        if isinstance(site[name], dict):
            mappings |= {f"{name}: {key}": value for key, value in site[name].items()}
    for name, value in mappings.items():
        if not isinstance(value, dict):
            raise ValueError(f"{path}: {name}: {value!r}; allowed: a mapping, {{}} for none")
    if unknown := sorted(set(map(str, site["kinds"])) - {*KINDS, "sleep"}):  # the last is what launching is tested with
        raise ValueError(f"{path}: kinds: {', '.join(unknown)}; allowed: {', '.join(KINDS)}")
    if unknown := sorted(set(map(str, site["datasets"])) - set(PARTITIONS)):
        raise ValueError(f"{path}: datasets: {', '.join(unknown)}; allowed: {', '.join(PARTITIONS)}")
    for name, value in mappings.items():
        if empty := sorted(str(key) for key, given in value.items() if given is None or not isinstance(key, str)):
            allowed = "submitit's keywords, each with a value"
            raise ValueError(f"{path}: {name}: {', '.join(empty)} has no value; allowed: {allowed}")


def resources(site: Site, cell: Cell, *, doublings: int = 0) -> dict[str, Any]:
    """Return the submitit keywords of a cell: for all jobs, over them those of its data set, over them its kind's.

    So a data set whose trainings want many GPUs need not have them for an evaluation alone.

    `mem_gb`, where it is among them, is doubled for each time that the cell died for want of memory, MAX_DOUBLINGS at
    most.
    """
    dataset = site["datasets"].get(cell.values["dataset"], {})
    parameters = site["parameters"] | dataset | site["kinds"].get(cell.kind, {})
    if doublings and "mem_gb" in parameters:
        parameters["mem_gb"] *= 2 ** min(doublings, MAX_DOUBLINGS)
    return parameters


def num_gpus(parameters: dict[str, Any]) -> int:
    """Return how many GPUs one job with these submitit keywords has, on all its nodes together."""
    nodes = parameters.get("nodes", 1)
    for name in ("slurm_gpus_per_node", "gpus_per_node"):  # of both submitit takes the first
        if name in parameters:
            return nodes * _count(parameters[name])
    if "slurm_gpus_per_task" in parameters:
        return nodes * parameters.get("tasks_per_node", 1) * _count(parameters["slurm_gpus_per_task"])
    every = str(parameters.get("slurm_gres", "")).split(",")
    return nodes * sum(_count(one) for one in every if one.partition(":")[0] == "gpu")


def divide(total: int, sizes: list[int], *, least: list[int]) -> list[int]:
    """Return how much of `total` each has, by its size and no less than its `least`, which may come to more."""
    found: list[int] = []
    left, room = sum(max(size, 1) for size in sizes), max(total, sum(least))
    for number, size in enumerate(sizes):
        share = max(least[number], round(room * max(size, 1) / left))
        found.append(min(share, room - sum(least[number + 1 :])))
        room, left = room - found[-1], left - max(size, 1)
    return found


def _count(asked: Any) -> int:
    """Return the number in what SLURM is asked for: `4`, `a100:4`, `gpu:a100:4`; without one it gives one."""
    number = str(asked).rpartition(":")[2]
    return int(number) if number.isdecimal() else 1
