"""What a crash can leave behind, found and mended: torn dvc.lock, dead claims, foreign checkpoints, lying runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import yaml

from pipeline.liveness import release_dead
from pipeline.store import Store


def examine(root: Path, store: Store, *, mend: bool) -> list[str]:
    """Return what is wrong, one line each, and mend it if `mend`."""
    findings = _torn_lock(root, mend=mend)
    findings += _dead_cells(store, mend=mend)
    findings += _foreign_checkpoints(store, mend=mend)
    findings += _leftovers(store, mend=mend)
    return findings


def keep_lock(root: Path) -> None:
    """Keep a copy of dvc.lock while nobody writes it: DVC rewrites it in place, so a kill can leave it torn."""
    lock = root / "dvc.lock"
    if lock.exists() and lock_is_whole(lock):
        (root / ".dvc" / "tmp").mkdir(exist_ok=True)
        shutil.copyfile(lock, root / ".dvc" / "tmp" / "dvc.lock.whole")


def lock_is_whole(lock: Path) -> bool:
    """Tell whether dvc.lock reads as DVC wrote it."""
    try:
        content = yaml.load(lock.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return False
    return isinstance(content, dict) and "schema" in content


def _torn_lock(root: Path, *, mend: bool) -> list[str]:
    lock, kept = root / "dvc.lock", root / ".dvc" / "tmp" / "dvc.lock.whole"
    if not lock.exists() or lock_is_whole(lock):
        return []
    if mend:
        committed = subprocess.run(["git", "show", "HEAD:dvc.lock"], cwd=root, capture_output=True, check=False)
        if kept.exists():
            shutil.copyfile(kept, lock)
        elif committed.returncode == 0:
            lock.write_bytes(committed.stdout)
        else:
            lock.unlink()
    return [f"{lock}: torn; restored from {'the last whole copy' if kept.exists() else 'git, or dropped'}"]


def _dead_cells(store: Store, *, mend: bool) -> list[str]:
    before = {path for folder in ("claims", "work") for path in _records(store, folder)}
    if mend:
        release_dead(store)
        after = {path for folder in ("claims", "work") for path in _records(store, folder)}
        return [f"{path}: its worker or submission is gone; released" for path in sorted(before - after)]
    return []


def _records(store: Store, folder: str) -> list[Path]:
    pattern = "*.json" if folder == "claims" else "*/holder.json"
    return list((store.root / folder).glob(pattern))


def _foreign_checkpoints(store: Store, *, mend: bool) -> list[str]:
    """Find checkpoints that cannot be read or belong to another cell."""
    paths = [
        path for path in (store.root / "work").glob("*/checkpoint.pt") if not path.with_name("holder.json").exists()
    ]
    if not paths:
        return []
    from pipeline.training.checkpoint import load_checkpoint

    findings = []
    for path in paths:
        try:
            load_checkpoint(path, path.parent.name)
        except ValueError as error:
            findings.append(f"{error}; {'dropped' if mend else 'to be dropped'}")
            if mend:
                path.unlink()
    return findings


def _leftovers(store: Store, *, mend: bool) -> list[str]:
    """Find temporary files of killed writers, and checkpoints left beside a published result."""
    paths = [*(store.root / "done").glob("*/checkpoint.pt"), *(store.root / "done").glob("*/holder.json")]
    paths += [path for folder in ("claims", "failed") for path in (store.root / folder).glob(".*.json.*")]
    for path in paths if mend else []:
        path.unlink(missing_ok=True)
    return [f"{path}: left behind by a killed process" for path in paths]
