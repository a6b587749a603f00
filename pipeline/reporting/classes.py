"""How the classes of each data set are called, in the order of their numbers."""

from __future__ import annotations

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


def class_names(data: str, num_classes: int) -> list[str]:
    """Return the names of a data set's classes; of one that is not known here their numbers."""
    names = _NAMES.get(data, [])
    return list(names) if len(names) == num_classes else [f"class {index}" for index in range(num_classes)]
