"""Extraction of what is wanted from tar and zip archives, and of nothing outside the folder that is named."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

DAMAGES = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


def extract(archive: Path, folder: Path, *, wanted: Callable[[str], str | None]) -> int:
    """Extract the regular files for which `wanted(name)` is a path below `folder`, and return how many.

    Raises ValueError for a damaged archive, naming it, and for a member or target that leads out of `folder`; links
    and devices are never extracted.
    """
    num = 0
    try:
        for name, file in _members(Path(archive), wanted):
            target = Path(folder) / safe(wanted(name) or "", archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
            num += 1
    except DAMAGES as error:
        raise ValueError(
            f"archive {archive} is damaged ({error}); remove it and run again to fetch it again"
        ) from error
    return num


def safe(name: str, archive: Path) -> PurePosixPath:
    """Return a member's name as a relative path without `..`."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"archive {archive} holds {name!r}, which leads out of its folder; nothing more is extracted")
    return path


def _members(archive: Path, wanted: Callable[[str], str | None]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each wanted regular file; every name is checked, wanted or not."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                safe(entry.filename, archive)
                link = (entry.external_attr >> 16) & 0o170000 == 0o120000
                if not entry.is_dir() and not link and wanted(entry.filename):
                    with zipped.open(entry) as file:
                        yield entry.filename, file
        return
    with tarfile.open(archive) as tarred:
        for member in tarred:
            safe(member.name, archive)
            if member.isreg() and wanted(member.name):
                content = tarred.extractfile(member)
                assert content is not None
                yield member.name, content
