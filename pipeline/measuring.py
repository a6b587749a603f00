"""What measuring a cell costs, counted: after epochs, to choose the best one, and of its best and last networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cell import digest
from pipeline.evaluation.predict import Evaluation, num_windows
from pipeline.labels import IMAGE_SIZES, VALIDATION_IMAGES
from pipeline.models.build import ModelConfig, build_network
from pipeline.store import read_json
from pipeline.training.probe import NUM_IMAGES

EPOCHS_KEPT = 2
"""An `evaluate` cell measures the best and the last networks."""

COUNTED: dict[str, int] = {}
"""Operations of a forward pass by network and size: equal ones are counted once."""


def evaluation_flop(row: dict[str, Any], num_predictors: int, data_root: Path | None = None) -> float:
    """Return the operations of all forward passes that measure a row, in training and after.

    Windows x images x predictors x evaluations, and the 16 images whose pseudo-labels are looked at each epoch. Sizes
    and numbers of validation images are the published ones, or of the lists below `data_root`. Raises ValueError for a
    data set of one's own whose lists are not there.
    """
    training, block, dataset = row["training"], row["evaluation"], row["dataset"]
    summary = data_root and read_json(data_root / "partitions" / dataset / "summary.json")
    if not summary and dataset not in VALIDATION_IMAGES:
        raise ValueError(f"the lists of {dataset} are not there yet, and nobody published their sizes")
    num_images = summary["val"] if summary else VALIDATION_IMAGES[dataset]
    epochs = training["epochs"] - training["warm_start_epochs"]
    chosen, measured = (image_flop(row, block[mode] or block["mode"]) for mode in ("select_mode", "mode"))
    in_training = -(-epochs // training["evaluate_every_epochs"]) * chosen * num_images * num_predictors
    return in_training + EPOCHS_KEPT * measured * num_images * num_predictors + epochs * NUM_IMAGES * measured


def image_flop(row: dict[str, Any], mode: str) -> float:
    """Return the operations of one network's prediction of one validation image in a mode."""
    size = row["evaluation"]["size"]
    height, width = IMAGE_SIZES.get(row["dataset"], (size or row["training"]["crop"],) * 2)
    evaluation = Evaluation(mode=mode, size=size)
    if mode != "whole":
        return num_windows((height, width), evaluation) * _forward_flop(row, size, size)
    return _forward_flop(row, height, width)


def _forward_flop(row: dict[str, Any], height: int, width: int) -> int:
    config, num_classes = replace(ModelConfig(**row["model"]), weights=None), row["data"]["num_classes"]
    kind = digest([row["model"], num_classes, height, width])
    if kind not in COUNTED:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            build_network(config, num_classes=num_classes).eval().predict(torch.empty(1, 3, height, width))
        COUNTED[kind] = counter.get_total_flops()
    return COUNTED[kind]
