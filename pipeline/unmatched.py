"""Masks of one's own that are the mask of no image, which nobody would miss: their images are used without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.data.layout import files_below, list_ids, pairs


def tell_unmatched(data: dict[str, Any], folder: Path) -> None:
    """Say on stderr which files below `masks/` of a copied folder are not used; nothing of other layouts."""
    if data["layout"] != "folder" or not (folder / "masks").is_dir():
        return
    used = {pair.mask for pair in pairs(folder, "folder", list_ids(folder, "folder", "images"))}
    left = sorted(str(path.relative_to(folder)) for path in files_below(folder / "masks") if path not in used)
    if left:
        shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
        rule = "a mask of images/a/b.jpg is masks/a/b.png"
        print(f"{len(left)} files below masks/ belong to no image and are not used ({shown}): {rule}", file=sys.stderr)
