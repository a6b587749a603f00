"""What the store keeps for no table: work that nobody asks for, finished submissions, unused code snapshots."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from pipeline.cell import folder_is_here
from pipeline.cluster.liveness import submission_alive
from pipeline.cluster.waiting import needs
from pipeline.files import modified, read_json
from pipeline.store import Store

KEPT_DAYS = 7.0
"""What was touched within so many days stays: it may be of another clone or a colleague."""


def find_garbage(
    store: Store, needed: set[str], *, root: Path = Path(), days: float = KEPT_DAYS, done: bool = False
) -> list[Path]:
    """Return the folders that can go: of `work/` those of no needed, claimed or held cell; submissions whose jobs have
    ended; snapshots that no kept submission runs from. With `done`, also finished cells that no table needs.

    What was computed from a folder of one's own stays while that is not in the project `root`: no table can name it.
    """
    old = _days_ago(days)
    kept = {path.stem for path in (store.root / "claims").glob("*.json")} | needed
    kept = kept.union(*(keys for _, keys in needs(store)))  # a colleague's tables too
    unasked = [path for path in _folders(store.root / "work", old) if path.name not in kept and not _taken_up(path)]
    garbage = [path for path in unasked if _has_images(path, root)]
    submissions = [path for path in _folders(store.submissions, old) if not submission_alive(store, path.name)]
    staying = set(_folders(store.submissions, float("inf"))) - set(submissions)
    used = {record.get("snapshot") for path in staying if (record := store.submission(path.name))}
    garbage += submissions
    garbage += [path for path in _folders(store.root / "snapshots", old) if path.name not in used]
    if done:
        unasked = [path for path in _folders(store.root / "done", old) if path.name not in kept]
        garbage += [path for path in unasked if _has_images(path, root)]
    return garbage


def remove(folders: Iterable[Path], *, days: float) -> int:
    """Remove those of the folders that are still untouched for so many days; return how many bytes they held."""
    old, freed = _days_ago(days), 0
    for folder in folders:
        if not _taken_up(folder) and _touched(folder) < old:  # again: it was looked at a while ago
            freed += size_of(folder)
            shutil.rmtree(folder)
    return freed


def size_of(folder: Path) -> int:
    """Return the bytes that only this folder holds: files that DVC's cache shares by a hard link free nothing."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def _folders(parent: Path, before: float) -> list[Path]:
    """Return the folders within `parent` that were last touched before a time."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir() and _touched(path) < before)


def _touched(folder: Path) -> float:
    """Return when a folder or a file in it was last written; never, where it is published just now."""
    try:
        times = [modified(path) for path in (folder, *folder.iterdir())]
    except FileNotFoundError:
        return math.inf
    return max((at for at in times if at is not None), default=math.inf)


def _has_images(folder: Path, root: Path) -> bool:
    """Tell whether the images that a cell reads may be in the project."""
    cell = read_json(folder / "cell.json") or {}
    return folder_is_here(cell.get("values", {}), root)


def _taken_up(folder: Path) -> bool:
    """Tell whether a worker holds the cell of this folder, or a submission claims it."""
    claim = folder.parents[1] / "claims" / f"{folder.name}.json"
    return (folder / "holder.json").exists() or claim.exists()


def _days_ago(days: float) -> float:
    return time.time() - 86_400 * days
