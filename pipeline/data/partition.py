"""Which images are labelled: seeded partitions of any data set, and the published ones.

A partition is `<partition>/{labelled,unlabelled}.txt`, an id a line, beside `val.txt` and `summary.json`. No torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.data.code import read_code
from pipeline.data.layout import Pair, list_ids, pairs, unique
from pipeline.data.lists import is_published, published_identity, published_ids
from pipeline.data.sources import source_identity

PARTITIONS = ("1-16", "1-8", "1-4", "1-2", "full")
"""What a data set is partitioned into unless its `data` block lists its own `partitions`."""

ORDERS = ("nested", "independent", "fine_first")
ABSENT = ("refuse", "skip")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a data set is partitioned; the keys of its `data` block that concern it. Lists are named as in `layout`.

    `family`: `seeded`, or whose published lists. For `seeded`, `order` says whether smaller partitions lie within
    larger ones (`nested`), are drawn anew (`independent`), or are nested and take images of the list `fine` first
    (`fine_first`, as the blender lists of U2PL do); `partition_seed` is the seed. For a published family, `absent`
    says what to do about ids the data set does not have: `refuse`, or `skip` for a subset of it.
    """

    family: str
    partition_seed: int
    order: str
    absent: str
    train: str
    fine: str
    labelled_from: str
    val: str | float

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"data.order is {self.order!r}; allowed are {ORDERS}")
        if self.absent not in ABSENT:
            raise ValueError(f"data.absent is {self.absent!r}; allowed are {ABSENT}")
        if not isinstance(self.val, str) and not 0 < self.val < 1:
            raise ValueError(f"data.val is {self.val}; allowed are the name of a list, or a share between 0 and 1")


@dataclass(frozen=True)
class Lists:
    """The ids a data set is partitioned from: all training images, the finely masked, those to label, validation."""

    train: list[str]
    fine: list[str]
    pool: list[str]
    val: list[str]


CODE = ("layout.py", "lists.py", "partition.py")
"""The files that decide which images a partition has."""


def input_key(data: Mapping[str, Any], dataset: str, *, partition: str) -> str:
    """Return the sha256 that stands for a partition's images and lists, known before anything is downloaded.

    It covers the `data` block, the partition, the checksums of archives and lists, and the code that writes them.
    """
    family = _rules(data).family
    published = is_published(family, dataset, partition=partition)
    identity = {
        "data": {key: value for key, value in data.items() if key != "path"},  # content counts, not its place
        "partition": partition,
        "lists": published_identity(family, dataset, partition=partition) if published else None,
        "source": source_identity(data),
        "code": [read_code(Path(__file__).with_name(name))[0] for name in CODE],
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def write_partitions(data: Mapping[str, Any], dataset: str, *, root: Path, out: Path) -> None:
    """Write all partitions of a data set into the new folder `out`, whole or not at all.

    `root` holds the data source `data["source"]`. Raises ValueError for an empty partition, duplicate ids, a
    training image that is also a validation image, or files that are not there.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _write(data, dataset, source=Path(root) / data["source"], out=partial)
        partial.chmod(0o755)  # mkdtemp's folders are private
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def labelled_count(num: int, partition: str) -> int:
    """Return how many of `num` images a partition labels: the fraction, rounded up as published (1-16 of 10582: 662).

    Raises ValueError unless `partition` is `full`, like `1-16`, a share of at most 1, or a count of at most `num`.
    """
    if partition == "full":
        return num
    parts = partition.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"partition is {partition!r}; allowed are 'full', fractions such as '1-16', and counts")
    if len(parts) == 1:
        if not 0 < int(partition) <= num:
            raise ValueError(f"partition is {partition!r}; of {num} images, 1 to {num} can be labelled")
        return int(partition)
    share, whole = (int(part) for part in parts)
    if not 0 < share <= whole:
        raise ValueError(f"partition is {partition!r}; the fraction must lie above 0 and at most at 1")
    return -(-num * share // whole)


def _rules(data: Mapping[str, Any]) -> Rules:
    names = [field.name for field in fields(Rules)]
    missing = [name for name in names if name not in data]
    if missing:
        raise ValueError(f"the data block lacks {missing}; it needs {names}")
    return Rules(**{name: data[name] for name in names})


def _write(data: Mapping[str, Any], dataset: str, *, source: Path, out: Path) -> None:
    rules, layout = _rules(data), data["layout"]
    lists = _lists(rules, source, layout=layout)
    _require(pairs(source, layout, ids=lists.train), masks=False, what=f"training images of {dataset}")
    _require(pairs(source, layout, ids=lists.val), masks=True, what=f"validation images of {dataset}")
    _write_ids(out / "val.txt", lists.val)
    chosen: dict[str, tuple[list[str], list[str]]] = {}
    for partition in map(str, data.get("partitions", PARTITIONS)):
        labelled, unlabelled = chosen[partition] = _choose(rules, lists, dataset=dataset, partition=partition)
        check_partition(labelled, unlabelled, val=lists.val, name=f"{dataset}/{partition}")
        _require(pairs(source, layout, ids=labelled), masks=True, what=f"labelled images of {dataset}/{partition}")
        (out / partition).mkdir()
        _write_ids(out / partition / "labelled.txt", labelled)
        _write_ids(out / partition / "unlabelled.txt", unlabelled)
    summary = {"dataset": dataset, "family": rules.family, "train": len(lists.train), "val": len(lists.val)}
    facts = partition_facts(chosen, set(lists.fine))
    (out / "summary.json").write_text(json.dumps(summary | facts, indent=2) + "\n")


def _lists(rules: Rules, source: Path, *, layout: str) -> Lists:
    train, fine, pool = (list_ids(source, layout, name=name) for name in (rules.train, rules.fine, rules.labelled_from))
    if isinstance(rules.val, str):
        val = list_ids(source, layout, name=rules.val)
    else:
        val = sorted(_shuffled(pool, f"val {rules.partition_seed}")[: max(1, int(rules.val * len(pool)))])
    if layout == "folder" or not isinstance(rules.val, str):  # the lists hold all images, those of val too
        train, fine, pool = (sorted(set(ids) - set(val)) for ids in (train, fine, pool))
    strangers = sorted(set(pool) - set(train))
    if strangers:
        raise ValueError(
            f"{len(strangers)} ids of list {rules.labelled_from!r} are not in list {rules.train!r}, such as"
            f" {strangers[0]}; labelled images must be training images"
        )
    return Lists(train, fine, pool, val)


def _choose(rules: Rules, lists: Lists, *, dataset: str, partition: str) -> tuple[list[str], list[str]]:
    """Return the labelled and unlabelled ids of one partition."""
    if is_published(rules.family, dataset, partition=partition):
        with tempfile.TemporaryDirectory() as folder:
            labelled, others = published_ids(rules.family, dataset, partition=partition, folder=Path(folder))
        labelled = _present(labelled, lists.train, rules=rules, name=f"{dataset}/{partition}")
        if others is None:
            return labelled, sorted(set(lists.train) - set(labelled))
        return labelled, _present(others, lists.train, rules=rules, name=f"{dataset}/{partition}")
    salt = f"{rules.partition_seed} {partition}" if rules.order == "independent" else f"{rules.partition_seed}"
    order = _shuffled(lists.pool, salt)
    if rules.order == "fine_first":
        fine = set(lists.fine)
        order.sort(key=lambda identity: identity not in fine)
    labelled = sorted(order[: labelled_count(len(order), partition)])
    return labelled, sorted(set(lists.train) - set(labelled))


def _shuffled(ids: list[str], salt: str) -> list[str]:
    """Return ids in an order that depends on nothing but the salt and each id."""
    return sorted(ids, key=lambda identity: hashlib.sha256(f"{salt} {identity}".encode()).digest())


def _present(ids: list[str], train: list[str], *, rules: Rules, name: str) -> list[str]:
    known = set(train)
    absent = [identity for identity in ids if identity not in known]
    if absent and rules.absent == "refuse":
        raise ValueError(
            f"{len(absent)} ids of the published partition {name} are not in list {rules.train!r} of the data set,"
            f" such as {absent[0]}; set data.absent to 'skip' for a subset of the data set"
        )
    return [identity for identity in ids if identity in known]


def check_partition(labelled: list[str], unlabelled: list[str], *, val: list[str], name: str) -> None:
    """Raise ValueError for a partition without labelled images, with an id twice, or with images of val."""
    if not labelled:
        raise ValueError(f"partition {name} has no labelled image")
    unique([*labelled, *unlabelled], f"of partition {name}, labelled and unlabelled,")
    shared = sorted(set(val).intersection([*labelled, *unlabelled]))
    if shared:
        raise ValueError(f"partition {name} shares {len(shared)} images with val, such as {shared[0]}")


def partition_facts(chosen: Mapping[str, tuple[list[str], list[str]]], fine: set[str]) -> dict[str, Any]:
    """Return counts, the share of finely masked images, and how many labelled images partitions have in common."""
    labelled = {partition: set(ids) for partition, (ids, _) in chosen.items()}
    facts: dict[str, Any] = {
        partition: {
            "labelled": len(ids),
            "unlabelled": len(unlabelled),
            "fine": len(fine.intersection(ids)),
            "in_common": {other: len(labelled[partition] & labelled[other]) for other in chosen if other != partition},
        }
        for partition, (ids, unlabelled) in chosen.items()
    }
    return {"partitions": facts}


def _require(files: list[Pair], *, masks: bool, what: str) -> None:
    absent = [pair.image for pair in files if not pair.image.exists()]
    if masks:
        absent += [
            pair.mask or Path(f"the mask of {pair.image}") for pair in files if not (pair.mask and pair.mask.exists())
        ]
    if absent:
        raise FileNotFoundError(f"{len(absent)} files of the {len(files)} {what} are not there, such as {absent[0]}")


def _write_ids(path: Path, ids: list[str]) -> None:
    path.write_text("".join(f"{identity}\n" for identity in ids), encoding="utf-8")
