"""How many steps a row trains, told before its data are there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline.data.partition import labelled_count
from pipeline.files import read_json
from pipeline.labels import PUBLISHED_COUNTS, TRAINING_IMAGES


def num_steps(row: dict[str, Any], data_root: Path | None = None) -> int:
    """Return how many steps a row trains, its warm start included.

    From the sizes of its lists below `data_root`, or before they are there from those that they will have: of images
    that are drawn, what their block says, else the published ones. Raises ValueError for lists of one's own that are
    not there, where the schedule needs their sizes.
    """
    training = row["training"]
    if training["steps_per_epoch"]:
        return training["epochs"] * training["steps_per_epoch"]
    labelled, unlabelled = _list_sizes(row, data_root)
    if training["epoch_over"] == "labelled":
        return training["epochs"] * math.ceil(labelled / training["labelled_batch"])
    return training["epochs"] * ((unlabelled or labelled) // training["unlabelled_batch"])


def _list_sizes(row: dict[str, Any], data_root: Path | None) -> tuple[int, int]:
    dataset, partition = row["dataset"], row["partition"]
    summary = data_root and read_json(data_root / "partitions" / dataset / "summary.json")
    if summary and partition in summary["partitions"]:  # one that was added since has no lists yet
        sizes = summary["partitions"][partition]
        return sizes["labelled"], sizes["unlabelled"]
    if "num_fine" in row["data"]:
        return _drawn_sizes(row["data"], partition)
    if dataset not in PUBLISHED_COUNTS:
        raise ValueError(f"the lists of {dataset} are not there yet, and nobody published their sizes")
    known = PUBLISHED_COUNTS[dataset]
    pool = known.get("full", TRAINING_IMAGES[dataset])  # of a seeded partition: what it labels some of
    labelled = known[partition] if partition in known else labelled_count(pool, partition)
    return labelled, TRAINING_IMAGES[dataset] - labelled


def _drawn_sizes(data: dict[str, Any], partition: str) -> tuple[int, int]:
    num_images = data["num_fine"] + data["num_coarse"]
    pool = data["num_fine"] if data["labelled_from"] == data["fine"] else num_images
    labelled = labelled_count(pool, partition)
    return labelled, num_images - labelled
