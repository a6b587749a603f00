"""How the classes of each data set are called, in the order of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VOC = [
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "table", "dog", "horse", "motorbike", "person", "plant", "sheep", "sofa", "train", "television",
]  # fmt: skip
_CITYSCAPES = [
    "road", "sidewalk", "building", "wall", "fence", "pole", "light", "sign", "vegetation", "terrain", "sky",
    "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
]  # fmt: skip
_SHAPES = ["photograph"] + [
    f"{hue} {texture}" for texture in ("plain", "stripes", "checks", "dots", "blotches")
    for hue in ("red", "green", "cyan", "violet")
]  # fmt: skip
_NAMES = {"voc": _VOC, "cityscapes": _CITYSCAPES, "streets": _CITYSCAPES, "shapes": _SHAPES}


def class_names(data: Mapping[str, Any], num_classes: int) -> list[str]:
    """Return the names of the classes of a data block: its own, or those known here, or else numbers."""
    names = data.get("classes") or _NAMES.get(data["name"], [])
    return list(names) if len(names) == num_classes else [f"class {index}" for index in range(num_classes)]
