"""Everything that can be wrong in resolved rows, found before anything runs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pipeline.data.augment import Augmentation
from pipeline.data.partition import Rules
from pipeline.evaluation.predict import MODES, Evaluation
from pipeline.reporting.paper import Published
from pipeline.reporting.rows import PADDINGS, Shown
from pipeline.training import setting

KINDS: dict[type, tuple[Any, str]] = {
    int: ((int, float), "a whole number"),  # 2.0 is one, and 2.5 the method's own to refuse
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
    str: (str, "a word"),
}
WORDS = ("scale_law", "epoch_over", "optimiser", "criterion", "precision", "loss_resolution")
"""What of a schedule is told in words."""

NAMED_WEIGHTS = ("torchvision", "timm", "package")
"""Weights that have a name; others are the path of a state dict."""

PRECISIONS = ("float32", "bfloat16")


def check_table(rows: Sequence[dict[str, Any]]) -> None:
    """Check every value of a table's resolved rows, and that no two stand for one. Raises ValueError."""
    places = set()
    for row in rows:
        check_row(row)
        place = (*row["row"].items(), row["column"], row["seed"])
        if place in places:
            labels = ", ".join(f"{name} {value}" for name, value in row["row"].items())
            message = f"two rows are {labels}, {row['column']}, seed {row['seed']}, and could not be told apart"
            raise ValueError(f"tables.{row['table']}: {message}")
        places.add(place)


def check_labels(rows: Sequence[dict[str, Any]], published: Published | None) -> None:
    """Check that the rows of a table can stand beside the paper's. Raises ValueError."""
    for row in rows:
        if published is not None and set(row["row"]) != set(published.labels):
            ours, paper = ", ".join(row["row"]), ", ".join(published.labels)
            raise ValueError(
                f"tables.{row['table']}: its rows are labelled by {ours}, the paper's by {paper}; rename it"
            )


def check_row(row: dict[str, Any]) -> None:
    """Check every value of a resolved row as what uses it does. Raises ValueError."""
    _check_kinds(row)
    _check_weights(row["model"]["weights"], where=f"{row['table']} ({row['method']})")
    setting.check_row(row)
    where, training = f"{row['table']} ({row['method']})", row["training"]
    try:
        Augmentation(**{field.name: training[field.name] for field in fields(Augmentation)})
        Rules(**{field.name: row["data"].get(field.name) for field in fields(Rules)})
        _check_evaluation(row["evaluation"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _check_kinds(row: dict[str, Any]) -> None:
    """Check that values are of the kind that is taken, before they are compared with anything."""
    for key, value in row["training"].items():
        if isinstance(value, str) != (key in WORDS) or isinstance(value, dict | list):
            allowed = "a word" if key in WORDS else "a number, true, false or null"
            raise ValueError(f"{row['table']} ({row['method']}): training.{key} is {value!r}; allowed is {allowed}")
    parameters = importlib.import_module(f"pipeline.methods.{row['method']}").Parameters
    kinds = get_type_hints(parameters)
    for key, value in row["parameters"].items():
        if kinds.get(key) not in KINDS:
            continue
        types, allowed = KINDS[kinds[key]]
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise ValueError(f"{row['table']} ({row['method']}): {key} is {value!r}; allowed is {allowed}")


def _check_weights(weights: str | None, *, where: str) -> None:
    """Refuse a path that workers could not read: they run in a folder of their own."""
    if weights not in (None, *NAMED_WEIGHTS) and not (Path(weights).is_absolute() and Path(weights).is_file()):
        allowed = f"null, {', '.join(NAMED_WEIGHTS)}, or the absolute path of a file that is there"
        raise ValueError(f"{where}: model.weights is {weights!r}; allowed: {allowed}")


def _check_evaluation(block: dict[str, Any]) -> None:
    keys = {"mode", "size", "batch_images", "precision", "select", "select_mode"}
    if set(block) != keys:
        raise ValueError(
            f"evaluation: unknown or missing {sorted(set(block) ^ keys)}; it has: {', '.join(sorted(keys))}"
        )
    for mode in (block["mode"], block["select_mode"] or block["mode"]):
        Evaluation(mode=mode, size=block["size"])
    for key, allowed in {"precision": PRECISIONS, "select": PADDINGS, "select_mode": (None, *MODES)}.items():
        if block[key] not in allowed:
            raise ValueError(f"evaluation.{key}: {block[key]!r}; allowed: {', '.join(map(str, allowed))}")
    if not isinstance(block["batch_images"], int) or block["batch_images"] < 1:
        raise ValueError(f"evaluation.batch_images: {block['batch_images']!r}; a whole number of at least 1 is allowed")


def check_shown(shown: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """Check what tables are to show of these rows. Raises ValueError."""
    if unknown := set(shown) - {field.name for field in fields(Shown)}:
        allowed = ", ".join(field.name for field in fields(Shown))
        raise ValueError(f"shown: {', '.join(sorted(unknown))} not known; allowed: {allowed}")
    classes = Shown(**shown).classes
    num_classes = min((row["data"]["num_classes"] for row in rows), default=0)
    if classes is not None and not (classes and all(index in range(num_classes) for index in classes)):
        raise ValueError(f"shown.classes: {list(classes)}; null, or some of 0 to {num_classes - 1} are allowed")
