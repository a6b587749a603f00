"""From a cell's resolved values to the images it trains on and is measured on."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pipeline.data.augment import Augmentation
from pipeline.data.layout import pairs, read_ids, read_partition
from pipeline.data.loader import Batches, Loading
from pipeline.data.samples import Samples

DECODING_THREADS = 4
"""Threads that decode ahead of a GPU; on a CPU the training thread decodes itself. Changes no result."""


def open_batches(
    values: dict[str, Any], data_root: Path, *, device: str, reads: str, rank: int = 0, ranks: int = 1
) -> Batches:
    """Return the batches of a `warm_start` or `train` cell. `data_root` holds the sources and `partitions/`.

    `reads` says what the method reads of unlabelled images: `nothing`, `images` or `classes`.
    """
    data, training = values["data"], values["training"]
    lists = data_root / "partitions" / values["dataset"] / values["partition"]
    root, num_classes = data_root / data["source"], data["num_classes"]
    labelled, unlabelled = (pairs(root, data["layout"], ids=ids) for ids in read_partition(lists))
    augmentation = Augmentation(**{field.name: training[field.name] for field in fields(Augmentation)})
    loading = Loading(
        labelled=training["labelled_batch"],
        unlabelled=training["unlabelled_batch"],
        epoch_over=training["epoch_over"],
        seed=values["seed"],
        rank=rank,
        ranks=ranks,
        reads=reads,
        workers=DECODING_THREADS if torch.device(device).type == "cuda" else 0,
    )
    return Batches(
        Samples(labelled, num_classes=num_classes),
        # With every image labelled, the labelled ones are seen once more without their labels.
        Samples(unlabelled or labelled, num_classes=num_classes, masks=reads == "classes"),
        augmentation=augmentation,
        loading=loading,
        device=device,
    )


def open_validation(values: dict[str, Any], data_root: Path) -> Samples:
    """Return the validation images with their masks."""
    data = values["data"]
    ids = read_ids(data_root / "partitions" / values["dataset"] / "val.txt")
    return Samples(pairs(data_root / data["source"], data["layout"], ids=ids), num_classes=data["num_classes"])
