"""Images of one's own, read once before anything is trained: what nobody can use is named, all of it at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.images import IGNORED, read_image, read_pair
from pipeline.data.layout import Pair, files_below, list_ids, pairs
from pipeline.data.sources import OWN
from pipeline.progress import follow

NUM_SHOWN = 10


def check_own_images(data: dict[str, Any], folder: Path) -> None:
    """Read every image that a data set of one's own lists, and its mask; nothing of other data, which have checksums.

    `folder` is the copy, which `data` (a role's block with that of its source) describes. Says on stderr which masks
    are those of no image, and which classes are in no mask. Raises ValueError that names, in the folder itself, the
    files which cannot be read, or hold what they may not, and the lists that are not there.
    """
    if data["name"] != OWN:
        return
    if data["layout"] == "voc":
        _require_voc(data, folder)
    _tell_unmatched(data["layout"], folder)
    names = [name for name in (data["train"], data["val"]) if isinstance(name, str)]
    ids = {identity for name in names for identity in list_ids(folder, data["layout"], name=name)}
    files = pairs(folder, data["layout"], ids=sorted(ids))
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda pair: _look(pair, data["num_classes"]), files)
        looks = list(follow(read, total=len(files), title="reading images"))
    faults = [fault.replace(str(folder), str(data["path"])) for fault, _ in looks if fault]  # where it is to be mended
    if faults:
        more = [f"and {len(faults) - NUM_SHOWN} more"] if len(faults) > NUM_SHOWN else []
        lines = "\n".join([*faults[:NUM_SHOWN], *more])
        raise ValueError(f"{len(faults)} of {len(files)} images cannot be used; mend or remove them:\n{lines}")
    _tell_absent(set().union(*(classes for _, classes in looks)), data["num_classes"])


def _require_voc(data: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a folder in VOC's layout lacks a list, as a plain devkit does."""
    lists = sorted(path.stem for path in (folder / "ImageSets" / "Segmentation").glob("*.txt"))
    for key in ("train", "fine", "labelled_from", "val"):
        if isinstance(data.get(key), str) and data[key] not in lists:
            place = f"{data['path']}/ImageSets/Segmentation"
            hint = "; the devkit has none of that name: copy train.txt, or list all masks but those of val.txt"
            known = f"lists in {place}: {', '.join(lists) or 'none'}{hint if data[key] == 'train_aug' else ''}"
            raise ValueError(f"data.{key} is {data[key]!r}; {known}")


def _look(pair: Pair, num_classes: int) -> tuple[str | None, set[int]]:
    """Return what is wrong with an image or its mask, if anything is, and the classes of the mask."""
    try:
        if pair.mask is not None and pair.mask.exists():
            return None, set(np.unique(read_pair(pair, num_classes)[1]).tolist())
        read_image(pair.image)
    except (OSError, ValueError) as error:
        return str(error), set()
    return None, set()


def _tell_absent(there: set[int], num_classes: int) -> None:
    """Say which classes no mask has: each counts 0 in the mean IoU."""
    if absent := [str(index) for index in range(num_classes) if index not in there]:
        needed = max(there - {IGNORED}, default=0) + 1
        hint = f"; is num_classes {needed}?" if needed < num_classes else ""
        print(f"classes in no mask, of which each counts 0 in the mIoU: {', '.join(absent)}{hint}", file=sys.stderr)


def _tell_unmatched(layout: str, folder: Path) -> None:
    """Say which files below `masks/` of a plain folder are not used: nobody would miss them."""
    if layout != "folder" or not (folder / "masks").is_dir():
        return
    used = {pair.mask for pair in pairs(folder, "folder", ids=list_ids(folder, "folder", name="images"))}
    left = sorted(str(path.relative_to(folder)) for path in files_below(folder / "masks") if path not in used)
    if left:
        shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
        rule = "a mask of images/a/b.jpg is masks/a/b.png"
        print(f"{len(left)} files below masks/ belong to no image and are not used ({shown}): {rule}", file=sys.stderr)
