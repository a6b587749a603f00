"""COCO 2017 as a segmentation data set of 80 classes and background, in VOC's layout.

Instances are painted from large to small, so that the smaller one is seen where two overlap; crowds are ignored (255).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from pipeline.data.archives import extract
from pipeline.data.download import fetch
from pipeline.data.exif import refuse_turned
from pipeline.data.images import write_mask
from pipeline.data.published import ARCHIVES

COUNTS = {"train": 118287, "val": 5000}
LEAST_NUMBERS = 6  # of a polygon: three corners


def make(out: Path, archives: Path) -> None:
    """Write the data set into the existing folder `out`, fetching its archives into `archives` as far as needed."""
    *images, annotations = ARCHIVES["coco"]
    scratch = out / ".annotations"
    extract(fetch(annotations, archives), scratch, wanted=lambda name: name if "/instances_" in name else None)
    lists = out / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (out / "SegmentationClassAug").mkdir()
    for split, remote in zip(COUNTS, images, strict=True):
        extract(fetch(remote, archives), out, wanted=_wanted)
        instances = read_instances(scratch / "annotations" / f"instances_{split}2017.json")
        ids = _write_masks(instances, out)
        if len(ids) != COUNTS[split]:
            raise ValueError(f"COCO has {len(ids)} images in {split}; it must have {COUNTS[split]}")
        (lists / f"{split}.txt").write_text("".join(f"{identity}\n" for identity in ids))
    shutil.rmtree(scratch)


def paint(size: tuple[int, int], annotations: Iterable[dict[str, Any]], *, class_of: dict[int, int]) -> np.ndarray:
    """Return the class ids (H, W) uint8 of one image of `size` (height, width)."""
    canvas = np.zeros(size, dtype=np.uint8)
    for annotation in sorted(annotations, key=lambda one: (not one["iscrowd"], -one["area"])):
        fill = 255
        if not annotation["iscrowd"]:
            if annotation["category_id"] not in class_of:
                raise ValueError(f"category {annotation['category_id']} is none of the {len(class_of)} categories")
            fill = class_of[annotation["category_id"]]
        canvas[_inside(annotation["segmentation"], size)] = fill
    return canvas


def read_instances(path: Path) -> dict[str, Any]:
    """Read an annotation file. Raises ValueError naming it where it is torn or lacks a part."""
    try:
        instances = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read as JSON: {error}") from None
    lacking = {"images", "annotations", "categories"} - set(instances)
    if lacking:
        raise ValueError(f"{path.name} has no {sorted(lacking)}")
    return instances


def _write_masks(instances: dict[str, Any], out: Path) -> list[str]:
    """Write one mask an image and return the ids, sorted. Raises ValueError naming the image that does not fit."""
    class_of = {number: place for place, number in enumerate(sorted(c["id"] for c in instances["categories"]), start=1)}
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in instances["images"]}
    for annotation in instances["annotations"]:
        if annotation["image_id"] not in of_image:
            raise ValueError(f"an annotation is of image {annotation['image_id']}, which is not listed")
        of_image[annotation["image_id"]].append(annotation)
    for image in instances["images"]:
        name, size = image["file_name"], (image["height"], image["width"])
        try:
            _check_size(out / "JPEGImages" / name, size)
            mask = paint(size, of_image[image["id"]], class_of=class_of)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"COCO image {name}: {error}") from None
        write_mask(out / "SegmentationClassAug" / f"{Path(name).stem}.png", mask)
    return sorted(Path(image["file_name"]).stem for image in instances["images"])


def _check_size(path: Path, size: tuple[int, int]) -> None:
    with Image.open(path) as image:  # reads the head of the file alone
        refuse_turned(image, path)
        if (image.height, image.width) != size:
            raise ValueError(f"it has {image.height}x{image.width} pixels, its annotations are of {size[0]}x{size[1]}")


def _inside(shape: dict[str, Any] | list[list[float]], size: tuple[int, int]) -> np.ndarray:
    """Return which pixels (H, W) bool polygons or run lengths cover, as COCO's own tools say."""
    if not isinstance(shape, dict):
        polygons = [polygon for polygon in shape if len(polygon) >= LEAST_NUMBERS]
        if not polygons:
            return np.zeros(size, dtype=bool)
        return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(polygons, *size))).astype(bool)
    if isinstance(shape["counts"], str):
        raise ValueError("its run lengths are compressed, as COCO's own are not")
    if sum(shape["counts"]) != size[0] * size[1]:
        raise ValueError(f"its run lengths are of {sum(shape['counts'])} pixels, not {size[0] * size[1]}")
    return coco_masks.decode(coco_masks.frPyObjects(shape, *size)).astype(bool)


def _wanted(name: str) -> str | None:
    return f"JPEGImages/{Path(name).name}" if name.endswith(".jpg") else None
