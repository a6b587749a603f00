"""From a cell's blocks to networks, losses and optimiser: the second and last configuration hop."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch

from pipeline.data.augment import SCALE_LAWS
from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet
from pipeline.training.losses import Criterion
from pipeline.training.method import Method, Setting

OPTIMISERS = ("sgd", "adamw")
TRAINING_KEYS = {
    "labelled_batch",
    "unlabelled_batch",
    "crop",
    "scale_min",
    "scale_max",
    "scale_law",
    "flip_probability",
    "pad_label",
    "epochs",
    "epoch_over",
    "steps_per_epoch",
    "lr",
    "lr_factor",
    "head_lr_factor",
    "optimiser",
    "momentum",
    "weight_decay",
    "power",
    "warm_start_epochs",
    "criterion",
    "ohem_threshold",
    "ohem_min_kept",
    "auxiliary_weight",
    "precision",
    "channels_last",
    "loss_resolution",
    "evaluate_every_epochs",
    "accumulate",
    "recompute",
    "compile",
}
"""The keys of the `training` block."""


def make_setting(values: dict[str, Any]) -> Setting:
    """Return what every method of this cell is built from."""
    training, num_classes = values["training"], values["data"]["num_classes"]
    config = ModelConfig(**values["model"])

    def build(*, representation: bool = False) -> SegNet:
        return build_network(config, num_classes=num_classes, representation=representation)

    return Setting(build, make_criterion(training), num_classes, training["loss_resolution"])


def make_criterion(training: dict[str, Any]) -> Criterion:
    """Return the supervised loss of one of the `accumulate` parts of a batch."""
    return Criterion(
        training["criterion"],
        ohem_threshold=training["ohem_threshold"],
        ohem_min_kept=-(-training["ohem_min_kept"] // training["accumulate"]),
        auxiliary_weight=training["auxiliary_weight"],
        loss_resolution=training["loss_resolution"],
    )


def build_optimiser(method: Method, training: dict[str, Any]) -> torch.optim.Optimizer:
    """Return the optimiser over everything that learns, one group for each learning-rate factor.

    Weight decay is on every parameter, norms and biases included, as released. SGD's momenta are there from the
    start, 0: its fused step refuses parameters of which some had no gradient before, as heads in a warm start.
    """
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(method.lr_factor(name, training["head_lr_factor"]), []).append(parameter)
    parameters = [{"params": members, "lr_factor": factor} for factor, members in sorted(groups.items())]
    decay = training["weight_decay"]
    if training["optimiser"] == "sgd":
        momentum = training["momentum"]
        optimiser = torch.optim.SGD(parameters, lr=training["lr"], momentum=momentum, weight_decay=decay, fused=True)
        for parameter in (member for members in groups.values() for member in members if momentum):
            optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimiser
    return torch.optim.AdamW(parameters, lr=training["lr"], weight_decay=decay, fused=True)


def check_training(training: dict[str, Any], where: str) -> None:
    """Raise ValueError naming the key, the value and what is allowed, where the schedule cannot be run."""
    if set(training) != TRAINING_KEYS:
        wrong = sorted(set(training) ^ TRAINING_KEYS)
        raise ValueError(f"{where}.training: unknown or missing {wrong}; it has: {', '.join(sorted(TRAINING_KEYS))}")
    choices = {
        "optimiser": OPTIMISERS,
        "criterion": ("ce", "ohem"),
        "precision": ("float32", "bfloat16"),
        "loss_resolution": ("full", "network"),
        "epoch_over": ("unlabelled", "labelled"),
        "pad_label": (0, 255),
        "scale_law": SCALE_LAWS,
        "recompute": (False, True),
        "compile": (False, True),
    }
    for key, allowed in choices.items():
        if training[key] not in allowed:
            raise ValueError(f"{where}.{key}: {training[key]!r}; allowed: {', '.join(map(str, allowed))}")
    for key, holds, wanted in _conditions(training):
        if not holds:
            raise ValueError(f"{where}.{key}: {training[key]!r}; {wanted} is allowed")


def _conditions(training: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """Yield key, whether its value may be, and what may be."""
    for key in ("labelled_batch", "unlabelled_batch", "crop", "epochs", "evaluate_every_epochs", "accumulate"):
        yield key, isinstance(training[key], int) and training[key] >= 1, "a whole number of at least 1"
    yield (
        "steps_per_epoch",
        training["steps_per_epoch"] is None or training["steps_per_epoch"] >= 1,
        "null, or at least 1",
    )
    for key in ("labelled_batch", "unlabelled_batch"):
        yield "accumulate", training[key] % training["accumulate"] == 0, f"a divisor of {key} {training[key]}"
    for key in ("lr", "lr_factor", "head_lr_factor", "scale_min", "scale_max"):
        yield key, training[key] > 0, "a number above 0"
    for key in ("weight_decay", "power", "auxiliary_weight"):
        yield key, training[key] >= 0, "0 and above"
    yield "momentum", 0 <= training["momentum"] < 1, "at least 0 and below 1"
    yield "warm_start_epochs", 0 <= training["warm_start_epochs"] < training["epochs"], "0 to epochs - 1"
    # torch.compile cannot follow the context in which blocks are computed again.
    yield "compile", not (training["recompute"] and training["compile"]), "false, with recompute,"


def check_row(row: dict[str, Any]) -> None:
    """Check every value of a resolved row as its constructors do. Raises ValueError."""
    where = f"{row['table']} ({row['method']})"
    check_training(row["training"], where)
    try:
        ModelConfig(**row["model"])
        make_criterion(row["training"])
        module = importlib.import_module(f"pipeline.methods.{row['method']}")
        parameters = module.Parameters(**row["parameters"])
        if hasattr(parameters, "check_classes"):
            parameters.check_classes(row["data"]["num_classes"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
