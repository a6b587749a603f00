"""How rows and columns are called: the headers of the paper's tables, one name for each value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PUBLISHED_COUNTS: dict[str, dict[str, int]] = {
    "voc_classic": {"1-16": 92, "1-8": 183, "1-4": 366, "1-2": 732, "full": 1464},
    "voc_blender": {"1-16": 662, "1-8": 1323, "1-4": 2646, "1-2": 5291, "full": 10582},
    "cityscapes": {"1-16": 186, "1-8": 372, "1-4": 744, "1-2": 1488},
    "coco": {"1-512": 232, "1-256": 463, "1-128": 925, "1-64": 1849, "1-32": 3697},
}
"""Labelled images of each partition in the paper (Tables 1-3), all 10,582, and PseudoSeg's of COCO."""

OWN_PARTITIONS = ("1-16", "1-8", "1-4", "1-2", "full")
PARTITIONS = {name: tuple(counts) for name, counts in PUBLISHED_COUNTS.items()} | {"folder": OWN_PARTITIONS}
"""What a role is partitioned into unless it names its own; `folder` holds images of one's own."""

TRAINING_IMAGES = {"voc_classic": 10582, "voc_blender": 10582, "cityscapes": 2975, "coco": 118287}
"""All training images of each data set, labelled or not."""

VALIDATION_IMAGES = {"voc_classic": 1449, "voc_blender": 1449, "cityscapes": 500, "coco": 5000}
IMAGE_SIZES = {"voc_classic": (375, 500), "voc_blender": (375, 500), "cityscapes": (1024, 2048), "coco": (480, 640)}
"""Height and width in pixels; of VOC and COCO those of most images."""

METHOD_LABELS = {
    "suponly": "SupOnly",
    "mean_teacher": "MT",
    "cutmix": "CutMix",
    "pseudoseg": "PseudoSeg",
    "pc2seg": "PC2Seg",
    "cct": "CCT",
    "gct": "GCT",
    "cps": "CPS",
    "ael": "AEL",
    "u2pl": "U2PL (w/ CutMix)",
    "u2pl_ael": "U2PL (w/ AEL)",
    "unimatch": "UniMatch",
    "unimatch_v2": "UniMatch V2",
    "augseg": "AugSeg",
}

CONTRAST_LABELS = {"infonce": "U2PL (w/ L_c)", "bce": "U2PL (w/ L_b)"}

LR_LABELS = {100: "1e-1", 10: "1e-2", 1: "1e-3", 0.1: "1e-4", 0.01: "1e-5"}
"""How Table A5 calls multiples of the learning rate."""

VALUE_LABELS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "alpha0": ("alpha_0_percent", lambda share: f"{100 * share:g}"),
    "rank_low": ("r_l", str),
    "rank_high": ("r_h", str),
    "temperature": ("tau", lambda tau: f"{tau:g}"),
    "negatives": ("negative_candidates_from", str.capitalize),
    "lr_factor": ("lr_base", lambda factor: LR_LABELS.get(factor, f"x {factor:g}")),
}
"""params key -> header in the paper's table and how a value is written there."""

COMPONENTS = ("contrast", "queue", "dpa", "prt", "negatives")


def method_label(method: str) -> str:
    """Return how tables call a method; one that no table of ours has goes by its own name."""
    return METHOD_LABELS.get(method, method)


def column_label(dataset: str, partition: str, *, whole: bool) -> str:
    """Return the paper's header of a partition, e.g. `1/8 (1323)`; of a subset, or one's own images, `1/8` alone."""
    fraction = "Full" if partition == "full" else partition.replace("-", "/")
    count = PUBLISHED_COUNTS.get(dataset, {}).get(partition)
    return f"{fraction} ({count})" if count and whole else fraction


def row_label(varied: list[str], row: dict[str, Any], *, parameters: dict[str, Any]) -> dict[str, str]:
    """Return the label columns of a row: what the table varies, under the paper's headers."""
    keys = [key for key in varied if key != "dataset"]
    if set(COMPONENTS) <= set(keys):
        return _component_marks(parameters)
    if "contrast" in keys:
        return {"method": CONTRAST_LABELS.get(row.get("contrast", ""), method_label(row["method"]))}
    labels = {}
    for key in keys or ["method"]:
        if key == "method":
            labels["method"] = method_label(row["method"])
        elif key == "variant" and row["variant"] == "default":
            labels["variant"] = "-"
        elif key in VALUE_LABELS:
            header, write = VALUE_LABELS[key]
            value = row.get(key, parameters.get(key))
            labels[header] = "-" if value is None else write(value)
        else:
            labels[key] = str(row.get(key, "-"))
    return labels


def _component_marks(parameters: dict[str, Any]) -> dict[str, str]:
    """Return the check-marks of Table 6 (1 on, 0 off) for a row; Mean Teacher has no component at all."""
    on = parameters.get("contrast", "none") != "none"
    marks = {
        "L_c": on,
        "Q_c": on and parameters["queue"],
        "DPA": on and parameters["dpa"],
        "PRT": on and parameters["prt"],
        "Unreliable": on and parameters["negatives"] == "unreliable",
    }
    return {header: str(int(mark)) for header, mark in marks.items()}
