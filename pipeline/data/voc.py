"""PASCAL VOC 2012 with the Semantic Boundaries Dataset: the 10,582 augmented training images, in VOC's layout.

Masks of VOC's own 1,464 training and 1,449 validation images are VOC's, with ignored borders; those of the others are
SBD's, coarser and without borders.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.archives import extract
from pipeline.data.download import fetch
from pipeline.data.exif import refuse_turned
from pipeline.data.images import read_mask, refuse_unlisted, write_mask
from pipeline.data.layout import read_ids
from pipeline.data.published import ARCHIVES

NUM_CLASSES = 21
COUNTS = {"train": 1464, "train_aug": 10582, "val": 1449}


def make(out: Path, archives: Path) -> None:
    """Write the data set into the existing folder `out`, fetching its archives into `archives` as far as needed."""
    voc, sbd = (fetch(remote, archives) for remote in ARCHIVES["voc"])
    scratch = out / ".sbd"
    extract(voc, out, wanted=_wanted_of_voc)
    extract(sbd, scratch, wanted=_wanted_of_sbd)
    lists = out / "ImageSets" / "Segmentation"
    train, val = read_ids(lists / "train.txt"), read_ids(lists / "val.txt")
    coarse = {*read_ids(scratch / "train.txt"), *read_ids(scratch / "val.txt")}
    added = sorted(coarse - set(train) - set(val))
    (lists / "train_aug.txt").write_text("".join(f"{identity}\n" for identity in [*train, *added]))
    _check_counts({"train": len(train), "train_aug": len(train) + len(added), "val": len(val)})
    masks = out / "SegmentationClassAug"
    masks.mkdir()
    for identity in [*train, *val]:
        _check_mask(out, identity, mask=read_mask(out / "SegmentationClass" / f"{identity}.png", NUM_CLASSES))
        shutil.copyfile(out / "SegmentationClass" / f"{identity}.png", masks / f"{identity}.png")
    for identity in added:
        mask = read_sbd_mask(scratch / "cls" / f"{identity}.mat")
        _check_mask(out, identity, mask=mask)
        write_mask(masks / f"{identity}.png", mask)
    shutil.rmtree(scratch)


def read_sbd_mask(path: Path) -> np.ndarray:
    """Return the class ids (H, W) uint8 of an SBD file, refusing a damaged file and unlisted values."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        ids = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except (MatReadError, zlib.error, OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an SBD mask: {error}") from error
    refuse_unlisted(ids, NUM_CLASSES, path=path)
    return ids.astype(np.uint8)


def _wanted_of_voc(name: str) -> str | None:
    _, _, inner = name.partition("VOCdevkit/VOC2012/")
    return inner if inner.startswith(("JPEGImages/", "SegmentationClass/", "ImageSets/Segmentation/")) else None


def _wanted_of_sbd(name: str) -> str | None:
    _, _, inner = name.partition("benchmark_RELEASE/dataset/")
    return inner if inner.startswith("cls/") or inner in ("train.txt", "val.txt") else None


def _check_counts(counts: dict[str, int]) -> None:
    if counts != COUNTS:
        raise ValueError(f"VOC with SBD has {counts} images in its lists; it must have {COUNTS}")


def _check_mask(out: Path, identity: str, *, mask: np.ndarray) -> None:
    path = out / "JPEGImages" / f"{identity}.jpg"
    with Image.open(path) as image:
        width, height = image.size
        refuse_turned(image, path)
    if mask.shape != (height, width):
        raise ValueError(f"mask of {identity} has {mask.shape} pixels, its image {(height, width)}")
