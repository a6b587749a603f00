"""Two small data sets drawn from nothing but installed packages, laid out on disk as VOC and Cityscapes are.

`shapes` plays `voc_classic` and `voc_blender`, `streets` plays `cityscapes`, so that the loaders, partitions and
evaluation written for the real data run unchanged. Equal parameters give equal bytes (with equal Pillow and NumPy).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data import embedded_shapes, embedded_streets
from pipeline.data.images import voc_palette

FINE, COARSE, VAL = range(3)  # the second word of a scene's seed; the third is its number
TRAIN_CITIES = ("alder", "birch", "cedar", "elm", "hazel", "larch")
VAL_CITIES = ("maple", "rowan")


def generate(name: str, root: Path, *, seed: int, num_fine: int, num_coarse: int, num_val: int) -> None:
    """Draw the data set `name` (`shapes` or `streets`) into the new folder `root`, whole or not at all.

    `num_fine` and `num_coarse` are training scenes with fine and coarse masks, `num_val` validation scenes (fine).
    Scene i stays the same when the counts change. `shapes`: JPEGImages/, SegmentationClass/ (fine only),
    SegmentationClassAug/ and ImageSets/Segmentation/{train,train_aug,val}.txt. `streets`: leftImg8bit/ and gtFine/.

    Raises ValueError for an unknown name or a count out of range, FileExistsError if `root` holds anything.
    """
    writers: dict[str, Callable[..., None]] = {"shapes": _shapes, "streets": _streets}
    if name not in writers:
        raise ValueError(f"embedded data set {name!r}: allowed are {', '.join(writers)}")
    counts = {FINE: num_fine, COARSE: num_coarse, VAL: num_val}
    _check(name, seed, counts=counts)
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} is not an empty folder: remove it to generate {name} there")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        writers[name](partial, seed, counts=counts)
        partial.chmod(0o755)  # mkdtemp's folders are private, data sets are shared
        partial.replace(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(name: str, seed: int, *, counts: dict[int, int]) -> None:
    if seed < 0:
        raise ValueError(f"seed = {seed} of {name}: allowed are 0 and above")
    for split, word in ((FINE, "num_fine"), (VAL, "num_val")):
        if counts[split] < 1:
            raise ValueError(f"{word} = {counts[split]} of {name}: allowed are 1 and above")
    if counts[COARSE] < 0:
        raise ValueError(f"num_coarse = {counts[COARSE]} of {name}: allowed are 0 and above")
    if name == "streets" and counts[COARSE]:
        raise ValueError(f"num_coarse = {counts[COARSE]} of streets: allowed is 0, all its masks are fine")


def _shapes(root: Path, seed: int, *, counts: dict[int, int]) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    ids: dict[int, list[str]] = {}
    for split, year in ((FINE, 2007), (COARSE, 2008), (VAL, 2009)):
        ids[split] = [f"{year}_{number:06d}" for number in range(counts[split])]
        for number, image_id in enumerate(ids[split]):
            random = np.random.default_rng([seed, split, number])
            pixels, mask = embedded_shapes.scene(random, coarse=split == COARSE)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{image_id}.jpg", quality=95)
            indexed = _indexed(mask)
            indexed.save(root / "SegmentationClassAug" / f"{image_id}.png")
            if split != COARSE:
                indexed.save(root / "SegmentationClass" / f"{image_id}.png")
    for stem, listed in (("train", ids[FINE]), ("train_aug", ids[FINE] + ids[COARSE]), ("val", ids[VAL])):
        lines = "".join(f"{image_id}\n" for image_id in listed)
        (root / "ImageSets" / "Segmentation" / f"{stem}.txt").write_text(lines)


def _streets(root: Path, seed: int, *, counts: dict[int, int]) -> None:
    for split, word, cities in ((FINE, "train", TRAIN_CITIES), (VAL, "val", VAL_CITIES)):
        for city in cities:
            (root / "leftImg8bit" / word / city).mkdir(parents=True)
            (root / "gtFine" / word / city).mkdir(parents=True)
        for number in range(counts[split]):
            pixels, mask = embedded_streets.scene(np.random.default_rng([seed, split, number]))
            city = cities[number % len(cities)]
            stem = f"{city}_{number // len(cities):06d}_000019"
            Image.fromarray(pixels).save(root / "leftImg8bit" / word / city / f"{stem}_leftImg8bit.png")
            Image.fromarray(mask).save(root / "gtFine" / word / city / f"{stem}_gtFine_labelTrainIds.png")


def _indexed(mask: np.ndarray) -> Image.Image:
    """Return a mask (H, W) uint8 as a palette image, whose pixel values are the class indices."""
    image = Image.fromarray(mask).convert("L")
    image.putpalette(voc_palette())
    return image
