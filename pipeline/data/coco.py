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
from PIL import Image, ImageDraw

from pipeline.data.archives import extract
from pipeline.data.download import fetch
from pipeline.data.images import write_mask
from pipeline.data.published import ARCHIVES

COUNTS = {"train": 118287, "val": 5000}


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
        instances = json.loads((scratch / "annotations" / f"instances_{split}2017.json").read_text())
        ids = _write_masks(instances, out / "SegmentationClassAug")
        if len(ids) != COUNTS[split]:
            raise ValueError(f"COCO has {len(ids)} images in {split}; it must have {COUNTS[split]}")
        (lists / f"{split}.txt").write_text("".join(f"{identity}\n" for identity in ids))
    shutil.rmtree(scratch)


def paint(size: tuple[int, int], annotations: Iterable[dict[str, Any]], class_of: dict[int, int]) -> np.ndarray:
    """Return the class ids (H, W) uint8 of one image of `size` (height, width)."""
    height, width = size
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    for annotation in sorted(annotations, key=lambda one: (not one["iscrowd"], -one["area"])):
        shape = annotation["segmentation"]
        if annotation["iscrowd"]:
            canvas.paste(255, mask=Image.fromarray(_run_lengths(shape, size)))
            continue
        for polygon in shape:
            corners = list(zip(polygon[::2], polygon[1::2], strict=True))
            if len(corners) > 2:
                draw.polygon(corners, fill=class_of[annotation["category_id"]])
    return np.array(canvas)


def _write_masks(instances: dict[str, Any], folder: Path) -> list[str]:
    """Write one mask an image and return the ids, sorted."""
    class_of = {number: place for place, number in enumerate(sorted(c["id"] for c in instances["categories"]), start=1)}
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in instances["images"]}
    for annotation in instances["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for image in instances["images"]:
        mask = paint((image["height"], image["width"]), of_image[image["id"]], class_of)
        write_mask(folder / f"{Path(image['file_name']).stem}.png", mask)
    return sorted(Path(image["file_name"]).stem for image in instances["images"])


def _run_lengths(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Decode uncompressed run lengths, column by column, starting outside, as a mask (H, W) of 0 and 255."""
    counts = np.asarray(shape["counts"])
    flat = np.repeat(np.arange(len(counts)) % 2 * 255, counts).astype(np.uint8)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


def _wanted(name: str) -> str | None:
    return f"JPEGImages/{Path(name).name}" if name.endswith(".jpg") else None
