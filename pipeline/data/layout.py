"""Where the files of a data set lie: PASCAL VOC's layout, Cityscapes', and a plain folder of one's own images.

* `voc`: `JPEGImages/<id>.jpg`, `SegmentationClassAug/<id>.png`, `ImageSets/Segmentation/<list>.txt`.
* `cityscapes`: an id is the path `leftImg8bit/<list>/<city>/<name>_leftImg8bit.png`, its mask
  `gtFine/<list>/<city>/<name>_gtFine_labelTrainIds.png`; a list is what lies in its folder.
* `folder`: `images/<any>/<name>.<png, jpg, …>`, an id is the path below `images`; `masks/<any>/<name>.png` for
  those that have one; the list `images` holds all, `masked` those with a mask, any other is `<list>.txt`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LAYOUTS = ("voc", "cityscapes", "folder")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Pair:
    """An image and its mask, if it has one."""

    id: str
    image: Path
    mask: Path | None


def pairs(root: Path, layout: str, *, ids: Iterable[str]) -> list[Pair]:
    """Return the files of each id, in order, without touching them."""
    return [_pair(Path(root), _known(layout), identity=identity) for identity in ids]


def list_ids(root: Path, layout: str, *, name: str) -> list[str]:
    """Return the ids of the list `name`, refusing an empty list and duplicate ids."""
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist")
    if _known(layout) == "voc":
        return read_ids(root / "ImageSets" / "Segmentation" / f"{name}.txt")
    if layout == "cityscapes":
        return _cityscapes_ids(root, name)
    if name in ("images", "masked"):
        return _folder_ids(root, masked=name == "masked")
    return read_ids(root / f"{name}.txt")


def read_ids(path: Path) -> list[str]:
    """Return the ids of a list file, one a line; blank lines, Windows line ends and a byte-order mark are harmless."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"list {path} is not text in UTF-8: {error}") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"list {path} is empty; it must name one image id a line")
    return unique(ids, str(path))


def read_partition(folder: Path) -> tuple[list[str], list[str]]:
    """Return the labelled and unlabelled ids of a partition; of `full`, the latter may be empty."""
    unlabelled = folder / "unlabelled.txt"
    return read_ids(folder / "labelled.txt"), read_ids(unlabelled) if unlabelled.stat().st_size else []


def unique(ids: list[str], place: str) -> list[str]:
    """Return `ids`, refusing duplicates."""
    repeated = sorted(identity for identity, count in Counter(ids).items() if count > 1)
    if repeated:
        raise ValueError(f"list {place} names {len(repeated)} ids more than once, such as {repeated[:3]}")
    return ids


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, behind links too, but nothing hidden (`.name`).

    `above` are the folders around it, into which a link may lead back; it is not followed then.
    """
    place = folder.resolve()
    if place in above or not place.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_below(folder / entry.name, (*above, place))
            else:
                yield folder / entry.name


def _known(layout: str) -> str:
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; allowed are {LAYOUTS}")
    return layout


def _pair(root: Path, layout: str, *, identity: str) -> Pair:
    if PurePosixPath(identity).is_absolute() or ".." in PurePosixPath(identity).parts:
        raise ValueError(f"id {identity!r} leads out of the data folder {root}")
    if layout == "voc":
        image = root / "JPEGImages" / f"{identity}.jpg"
        return Pair(identity, image, root / "SegmentationClassAug" / f"{identity}.png")
    if layout == "cityscapes":
        label = identity.replace("leftImg8bit/", "gtFine/", 1).replace("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
        return Pair(identity, root / identity, root / label)
    mask = root / "masks" / PurePosixPath(identity).with_suffix(".png")
    return Pair(identity, root / "images" / identity, mask if mask.exists() else None)


def _cityscapes_ids(root: Path, name: str) -> list[str]:
    files = sorted((root / "leftImg8bit" / name).glob("*/*_leftImg8bit.png"))
    if not files:
        raise ValueError(f"folder {root / 'leftImg8bit' / name} holds no <city>/*_leftImg8bit.png")
    return [file.relative_to(root).as_posix() for file in files]


def _folder_ids(root: Path, *, masked: bool) -> list[str]:
    top = root / "images"
    found = [
        path.relative_to(top).as_posix() for path in files_below(top) if path.name.lower().endswith(IMAGE_SUFFIXES)
    ]
    for identity in found:
        # As `read_ids` would read it from a list.
        if identity.encode(errors="ignore").decode().strip().splitlines() != [identity]:
            raise ValueError(
                f"file {identity!r} in {top} cannot stand in a list: allowed are names in UTF-8, in one line, without"
                " a space at the beginning or the end"
            )
    unique([PurePosixPath(identity).with_suffix("").as_posix() for identity in found], f"{top} (without suffix)")
    ids = sorted(pair.id for pair in pairs(root, "folder", ids=found) if pair.mask is not None or not masked)
    if not ids:
        raise ValueError(f"folder {root} holds no images{' with a mask in masks/' if masked else ' in images/'}")
    return ids
