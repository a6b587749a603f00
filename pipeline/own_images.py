"""Images of one's own, read once before anything is trained: what nobody can use is named, all of it at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.data.images import read_image, read_pair
from pipeline.data.layout import Pair, files_below, list_ids, pairs
from pipeline.data.sources import OWN
from pipeline.progress import follow

NUM_SHOWN = 10


def check_own_images(data: dict[str, Any], folder: Path) -> None:
    """Read every image that a data set of one's own lists, and its mask; nothing of other data, which have checksums.

    `folder` is the copy, which `data` (a role's block with that of its source) describes. Says on stderr which masks
    are those of no image. Raises ValueError that names the files which cannot be read, or hold what they may not.
    """
    if data["name"] != OWN:
        return
    _tell_unmatched(data["layout"], folder)
    names = [name for name in (data["train"], data["val"]) if isinstance(name, str)]
    ids = {identity for name in names for identity in list_ids(folder, data["layout"], name=name)}
    refuse_faulty(pairs(folder, data["layout"], ids=sorted(ids)), num_classes=data["num_classes"])


def refuse_faulty(files: list[Pair], *, num_classes: int) -> None:
    """Raise ValueError with what is wrong with some of the images and masks, if anything is."""
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda pair: _fault(pair, num_classes), files)
        faults = [fault for fault in follow(read, total=len(files), title="reading images") if fault]
    if faults:
        more = [f"and {len(faults) - NUM_SHOWN} more"] if len(faults) > NUM_SHOWN else []
        lines = "\n".join([*faults[:NUM_SHOWN], *more])
        raise ValueError(f"{len(faults)} of {len(files)} images cannot be used; mend or remove them:\n{lines}")


def _fault(pair: Pair, num_classes: int) -> str | None:
    try:
        if pair.mask is not None and pair.mask.exists():
            read_pair(pair, num_classes)
        else:
            read_image(pair.image)
    except (OSError, ValueError) as error:
        return str(error)
    return None


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
