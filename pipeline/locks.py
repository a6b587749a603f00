"""DVC's own files that a kill leaves broken: a torn dvc.lock, and locks whose process is dead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.adopt import LOADER, LOCKS, stage_is_whole
from pipeline.files import write_bytes, write_json
from pipeline.provenance import git

NOT_MENDED = "not mended"
"""How a finding of `doctor` ends that needs somebody."""


def keep_lock(root: Path) -> None:
    """Keep copies of all dvc.lock while nobody writes them: DVC rewrites them in place, so a kill can tear one."""
    for lock in _all_locks(root):
        if lock_is_whole(lock):
            write_bytes(_kept(root, lock), lock.read_bytes())


def lock_is_whole(lock: Path) -> bool:
    """Tell whether dvc.lock reads as DVC wrote it, to the end of its last line."""
    try:
        text = lock.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    if not isinstance(content, dict) or "schema" not in content or not text.endswith("\n"):
        return False
    return all(stage_is_whole(name, stage) for name, stage in (content.get("stages") or {}).items())


def torn_locks(root: Path, *, mend: bool) -> list[str]:
    """Find dvc.lock files that were torn; with `mend` restore the last whole copy, else git's, or drop them.

    While a `dvc` of this host works in the project, one may be half written: it is left alone.
    """
    findings, runs = [], _dvc_runs(root)  # asked first: what a `dvc` that ends meanwhile wrote is whole
    for lock in _all_locks(root):
        if lock_is_whole(lock):
            continue
        if runs:
            findings.append(f"{lock}: torn, or written just now; while a `dvc` runs here {NOT_MENDED}")
            continue
        name, kept = lock.relative_to(root).as_posix(), _kept(root, lock)
        committed = git(root, "show", f"HEAD:./{name}")  # without `./` from git's root, which may lie above
        source = "the last whole copy" if kept.exists() else "git" if committed else None
        if mend and kept.exists():
            shutil.copyfile(kept, lock)
        elif mend and source:
            lock.write_bytes(committed)
        elif mend:
            lock.unlink()
        restored = f"restored from {source}" if source else "dropped: there is no copy"
        findings.append(f"{lock}: torn; {restored if mend else 'to be ' + restored}")
    return findings


def stale_locks(root: Path, *, mend: bool) -> list[str]:
    """Find what processes of this host that died hold of DVC's locks; with `mend` let go of it.

    The plain `lock` is the kernel's and dies with its process. With `core.hardlink_lock` it is a file that stays; it
    does not say whose it is, so it is stale where no `dvc` of this host works in the project.
    """
    folder, findings = root / ".dvc" / "tmp", []
    for path in (folder / "lock", folder / "rwlock.lock"):
        owner = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
        if owner and not owner.isdigit() and not _dvc_runs(root):
            findings.append(f"{path}: the lock of a dead process; {'removed' if mend else 'to be removed'}")
            if mend:
                path.unlink()
    rwlock = folder / "rwlock"
    if rwlock.exists():
        findings += _stale_readers_and_writers(rwlock, mend=mend)
    return findings


def _stale_readers_and_writers(rwlock: Path, *, mend: bool) -> list[str]:
    """Take dead processes out of DVC's list of who reads and writes which path; drop a list that was torn."""
    try:
        held: dict[str, dict[str, Any]] = json.loads(rwlock.read_text(encoding="utf-8"))
    except ValueError:
        if mend:
            rwlock.unlink()
        return [f"{rwlock}: torn; {'removed' if mend else 'to be removed'}"]
    living: dict[str, dict[str, Any]] = {}
    for mode, paths in held.items():
        for path, found in paths.items():
            stays = [one for one in (found if mode == "read" else [found]) if psutil.pid_exists(one["pid"])]
            if stays:
                living.setdefault(mode, {})[path] = stays if mode == "read" else stays[0]
    if living == {mode: paths for mode, paths in held.items() if paths}:
        return []
    if mend:
        write_json(rwlock, living)
    return [f"{rwlock}: held by dead processes; {'let go of' if mend else 'to be let go of'}"]


def _dvc_runs(root: Path) -> bool:
    for process in psutil.process_iter():
        try:
            is_dvc = any(Path(word).name == "dvc" for word in process.cmdline()[:3])
            if is_dvc and Path(process.cwd()).is_relative_to(root):
                return True
        except psutil.Error:
            continue
    return False


def _all_locks(root: Path) -> Iterator[Path]:
    for pattern in LOCKS:
        yield from sorted(root.glob(pattern))


def _kept(root: Path, lock: Path) -> Path:
    return root / ".dvc" / "tmp" / f"{lock.relative_to(root).as_posix().replace('/', '__')}.whole"
