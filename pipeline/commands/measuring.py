"""What measuring a cell costs, counted: after epochs, to choose the best one, and of its best and last networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cell import digest
from pipeline.data import embedded_shapes, embedded_streets
from pipeline.data.images import read_image
from pipeline.data.layout import pairs, read_ids
from pipeline.evaluation.predict import Evaluation, num_windows
from pipeline.files import read_json
from pipeline.labels import IMAGE_SIZES, VALIDATION_IMAGES
from pipeline.models.build import ModelConfig, build_network
from pipeline.training.probe import NUM_IMAGES

EPOCHS_KEPT = 2
"""An `evaluate` cell measures the best and the last networks."""

EMBEDDED_SIZES = {"shapes": embedded_shapes.SIZE, "streets": embedded_streets.SIZE}

_FORWARD_FLOP: dict[str, int] = {}
"""Operations of a forward pass by network and size: equal ones are counted once."""


def evaluation_flop(row: dict[str, Any], num_predictors: int, *, data_root: Path | None = None) -> float:
    """Return the operations of all forward passes that measure a row, in training and after.

    Windows x images x predictors x evaluations, and the 16 images whose pseudo-labels are looked at each epoch. Sizes
    and numbers of validation images are the published ones, or of what is below `data_root`. Raises ValueError for a
    data set of one's own that is not there.
    """
    training, block, dataset = row["training"], row["evaluation"], row["dataset"]
    summary = data_root and read_json(data_root / "partitions" / dataset / "summary.json")
    num_images = summary["val"] if summary else row["data"].get("num_val", VALIDATION_IMAGES.get(dataset))
    if num_images is None:
        raise ValueError(f"the lists of {dataset} are not there yet, and nobody published their sizes")
    size = image_size(row, data_root)
    chosen, measured = (image_flop(row, block[mode] or block["mode"], image=size) for mode in ("select_mode", "mode"))
    first = training["warm_start_epochs"] if row["networks"] else 0  # without a network to warm there is no warm start
    epochs = range(first + 1, training["epochs"] + 1)
    evaluated = [epoch for epoch in epochs if epoch % training["evaluate_every_epochs"] == 0 or epoch == epochs[-1]]
    in_training = len(evaluated) * chosen * num_images * num_predictors
    return in_training + EPOCHS_KEPT * measured * num_images * num_predictors + len(epochs) * NUM_IMAGES * measured


def image_size(row: dict[str, Any], data_root: Path | None = None) -> tuple[int, int]:
    """Return height and width of most validation images in pixels: of the data, else of the data set in whose place."""
    data, dataset = row["data"], row["dataset"]
    if data["name"] in EMBEDDED_SIZES:
        return EMBEDDED_SIZES[data["name"]]
    if data_root is None or dataset in IMAGE_SIZES:
        return IMAGE_SIZES[dataset]
    first = read_ids(data_root / "partitions" / dataset / "val.txt")[:1]
    height, width, _ = read_image(pairs(data_root / data["source"], data["layout"], ids=first)[0].image).shape
    return height, width


def image_flop(row: dict[str, Any], mode: str, *, image: tuple[int, int]) -> float:
    """Return the operations of one network's prediction of one validation image (height, width) in a mode."""
    size, (height, width) = row["evaluation"]["size"], image
    evaluation = Evaluation(mode=mode, size=size)
    if mode != "whole":
        return num_windows((height, width), evaluation) * _forward_flop(row, size, width=size)
    return _forward_flop(row, height, width=width)


def _forward_flop(row: dict[str, Any], height: int, *, width: int) -> int:
    config, num_classes = replace(ModelConfig(**row["model"]), weights=None), row["data"]["num_classes"]
    kind = digest([row["model"], num_classes, height, width])
    if kind not in _FORWARD_FLOP:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            build_network(config, num_classes=num_classes).eval().predict(torch.empty(1, 3, height, width))
        _FORWARD_FLOP[kind] = counter.get_total_flops()
    return _FORWARD_FLOP[kind]
