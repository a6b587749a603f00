"""Everything that can be wrong in params.yaml and its resolved rows, found before anything runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pipeline.data.augment import Augmentation
from pipeline.data.partition import Rules
from pipeline.evaluation.predict import MODES, Evaluation
from pipeline.labels import PARTITIONS
from pipeline.models.build import ModelConfig
from pipeline.params import OF_THE_SCALE, SECTIONS, choose
from pipeline.reporting.paper import Published
from pipeline.reporting.rows import PADDINGS, Shown
from pipeline.training import setting

KINDS: dict[type, tuple[Any, str]] = {
    int: ((int, float), "a whole number"),  # 2.0 is one, and 2.5 the method's own to refuse
    float: ((int, float), "a number"),
    bool: (bool, "true or false"),
    str: (str, "a word"),
}
SCHEDULE_KINDS = (
    dict.fromkeys(("scale_law", "epoch_over", "optimiser", "criterion", "precision", "loss_resolution"), KINDS[str])
    | dict.fromkeys(("channels_last", "recompute", "compile"), KINDS[bool])
    | {"steps_per_epoch": ((int, float, type(None)), "a number or null")}
)
"""What of a schedule is no plain number."""

NAMED_WEIGHTS = ("torchvision", "timm", "package")
"""Weights that have a name; others are the path of a state dict."""

PRECISIONS = ("float32", "bfloat16")

LOGITS_STRIDE = 4
"""Pixels of the image beside each other for one of the logits."""

UNDO = "touch params.yaml; git checkout params.yaml 'reports/*/cells/*' 'reports/*/shown.json'"
"""What takes back every edit of params.yaml, and gives back the rows that DVC has removed."""

EVALUATION_KEYS = ("mode", "size", "batch_images", "precision", "select", "select_mode")
SOURCE_KEYS = ("name", "title", "path", "layout", "num_classes", "classes", "seed", "num_fine", "num_coarse", "num_val")
METHOD_KEYS = ("networks", "representation", "parameters", "training", "variants")
KEYS = {
    "data": ("source", "partitions", *(field.name for field in fields(Rules)), *SOURCE_KEYS),
    "model": tuple(field.name for field in fields(ModelConfig)),
    "training": tuple(sorted(setting.TRAINING_KEYS)),
    "evaluation": EVALUATION_KEYS,
}
"""The keys of each section that scales, methods and variants share."""


def check_blocks(params: dict[str, Any]) -> None:
    """Check the keys of every method and scale, of those that are not run too. Raises ValueError naming the place."""
    known = {name: _parameters(name) for name in params["methods"]}
    for name, block in params["methods"].items():
        where = f"methods.{name}"
        _check_keys(block, METHOD_KEYS, where=where)
        _check_sections({key: block.get(key) for key in ("parameters", "training")}, known[name], where=where)
        for variant, layer in (block.get("variants") or {}).items():
            _check_sections(layer, known[name], where=f"{where}.variants.{variant}")
    for name, scale in params["scales"].items():
        where = f"scales.{name}"
        _check_keys(scale, (*OF_THE_SCALE, *PARTITIONS), where=where)
        _check_keys(scale.get("shown"), [field.name for field in fields(Shown)], where=f"{where}.shown")
        for source, block in scale["sources"].items():
            _check_keys(block, SOURCE_KEYS, where=f"{where}.sources.{source}")
            _check_class_names(block, where=f"{where}.sources.{source}")
        for place in [key for key in scale if key not in ("sources", "shown")]:
            own = {section: block for section, block in scale[place].items() if section != "methods"}
            _check_sections(own, (), where=f"{where}.{place}")
            methods = scale[place].get("methods")
            _check_keys(methods, known, where=f"{where}.{place}.methods")
            for method, layer in (methods or {}).items():
                _check_sections(layer, known[method], where=f"{where}.{place}.methods.{method}")


def _check_class_names(source: dict[str, Any], *, where: str) -> None:
    names, num_classes = source.get("classes"), source.get("num_classes")
    if names is None:
        return
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(set(names)) != len(names) or len(names) != num_classes:
        raise ValueError(f"{where}.classes: {names!r}; null, or a list of {num_classes} different names is allowed")


def _parameters(method: str) -> list[str]:
    module = importlib.import_module(f"pipeline.methods.{method}")
    return [field.name for field in fields(module.Parameters)]


def _check_sections(layer: Any, parameters: Sequence[str], *, where: str) -> None:
    """Check the sections of a block and their keys; those of `parameters` are the method's, where there is one."""
    allowed = KEYS | ({"parameters": parameters} if parameters else {})
    _check_keys(layer, [section for section in SECTIONS if section in allowed], where=where)
    for section, block in (layer or {}).items():
        _check_keys(block, allowed[section], where=f"{where}.{section}")


def _check_keys(block: Any, allowed: Iterable[str], *, where: str) -> None:
    if block is not None and not isinstance(block, dict):
        raise ValueError(f"{where}: {block!r}; a mapping is expected")
    for key in block or {}:
        choose(key, allowed, where=where)


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
        _check_hard_pixels(training)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _check_kinds(row: dict[str, Any]) -> None:
    """Check that values are of the kind that is taken, before they are compared with anything."""
    where = f"{row['table']} ({row['method']})"
    for key, value in row["training"].items():
        _check_kind(value, SCHEDULE_KINDS.get(key, KINDS[float]), where=f"{where}: training.{key}")
    kinds = get_type_hints(importlib.import_module(f"pipeline.methods.{row['method']}").Parameters)
    for key, value in row["parameters"].items():
        if kinds.get(key) in KINDS:
            _check_kind(value, KINDS[kinds[key]], where=f"{where}: {key}")


def _check_kind(value: Any, kind: tuple[Any, str], *, where: str) -> None:
    types, allowed = kind
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
        raise ValueError(f"{where} is {value!r}; allowed is {allowed}")


def _check_weights(weights: str | None, *, where: str) -> None:
    """Refuse a path that workers could not read: they run in a folder of their own."""
    if weights not in (None, *NAMED_WEIGHTS) and not (Path(weights).is_absolute() and Path(weights).is_file()):
        allowed = f"null, {', '.join(NAMED_WEIGHTS)}, or the absolute path of a file that is there"
        raise ValueError(f"{where}: model.weights is {weights!r}; allowed: {allowed}")


def _check_hard_pixels(training: dict[str, Any]) -> None:
    """Refuse OHEM that would keep every pixel and so be plain cross-entropy, as with numbers meant for larger crops."""
    side = training["crop"] if training["loss_resolution"] == "full" else -(-training["crop"] // LOGITS_STRIDE)
    kept, pixels = training["ohem_min_kept"], training["labelled_batch"] * side**2
    if training["criterion"] == "ohem" and kept >= pixels:
        raise ValueError(f"training.ohem_min_kept: {kept}; fewer than the loss's {pixels} pixels are allowed")


def _check_evaluation(block: dict[str, Any]) -> None:
    if wrong := set(block) ^ set(EVALUATION_KEYS):
        raise ValueError(f"evaluation: unknown or missing {sorted(wrong)}; it has: {', '.join(EVALUATION_KEYS)}")
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
