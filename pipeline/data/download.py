"""Files from the network or a mirror: gone on with where they stopped, verified, never half there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.published import Remote

if TYPE_CHECKING:
    from rich.progress import Progress

CHUNK_BYTES = 1 << 20
TRIES = 4  # of each address
FIRST_PAUSE_S = 1.0  # doubled after every failed try
TIMEOUT_S = 60.0
FAILURES = (OSError, http.client.HTTPException)  # URLError and HTTPError are among the former
GONE = (401, 403, 404, 410)  # answers that another try does not change
AGENT = "Mozilla/5.0 (compatible; u2pl-pipeline)"  # some hosts refuse Python's own


def fetch(remote: Remote, folder: Path) -> Path:
    """Return `folder`/`remote.name`, downloaded and verified unless it is there already.

    The environment variable DATA_MIRROR, a folder or an address, takes the place of the published addresses. What an
    interruption leaves is kept as `.part` and gone on with. A damaged file is named and fetched once more. Of several
    processes that want one file one fetches it and the others wait. Raises ValueError if the content is still not the
    published one, OSError where it cannot be had.
    """
    target = Path(folder) / remote.name
    if is_intact(target, remote):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with alone(target):
        return target if is_intact(target, remote) else _fetch_alone(remote, target)


def _fetch_alone(remote: Remote, target: Path) -> Path:
    part = target.with_name(target.name + ".part")
    for _ in range(2):
        _obtain(remote, part)
        if file_matches(part, remote.checksum):
            part.replace(target)
            return target
        size = part.stat().st_size
        part.unlink()
        print(f"{remote.name} is damaged ({size} bytes, not of {remote.checksum}): it was removed", flush=True)
    source = os.environ.get("DATA_MIRROR") or remote.urls[0]
    raise ValueError(
        f"{remote.name} from {source} is not the published file: its {size} bytes do not match {remote.checksum};"
        " set DATA_MIRROR to a folder or address that has it"
    )


@contextlib.contextmanager
def alone(target: Path) -> Iterator[None]:
    """Wait until no other process fetches this file: two that wrote one `.part` would spoil it for each other."""
    path, waited = target.with_name(f".{target.name}.lock"), False
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    print(f"{target.name} is being fetched by another process: waiting for it", flush=True)
                waited = True
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file.fileno()):  # who had it removed it, and somebody may have made the next
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def is_intact(path: Path, remote: Remote) -> bool:
    """Return whether a file is there and as published; one that is there and is not is named and removed."""
    if not path.exists():
        return False
    if file_matches(path, remote.checksum):
        return True
    print(f"{path} is damaged (not of {remote.checksum}): it is fetched again", flush=True)
    path.unlink()
    return False


def file_matches(path: Path, checksum: str) -> bool:
    """Return whether a file has the checksum `<algorithm>:<its first hexadecimal digits>`; with none, any file does."""
    if not checksum:
        return True
    algorithm, _, digits = checksum.partition(":")
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest().startswith(digits)


def _obtain(remote: Remote, part: Path) -> None:
    """Bring the whole of `remote` into `part`, from the mirror or else from the first address that has it."""
    mirror = os.environ.get("DATA_MIRROR", "")
    if mirror and "://" not in mirror:
        return _copy(Path(mirror) / remote.name, part)
    failures = []
    for url in (f"{mirror.rstrip('/')}/{remote.name}",) if mirror else remote.urls:
        try:
            return _download(url, part)
        except FAILURES as error:
            failures.append(f"{url}: {error}")
    kept = f"; {part.stat().st_size} bytes are kept, run again to go on" if part.exists() else ""
    raise OSError(
        f"{remote.name} could not be fetched{kept}, or set DATA_MIRROR to a folder or address that has it.\n"
        + "\n".join(failures)
    )


def _copy(source: Path, part: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"{source} is not there; DATA_MIRROR must hold it")
    shutil.copyfile(source, part)


def _download(url: str, part: Path) -> None:
    """Download in as many tries as needed, each going on where the last one stopped."""
    for attempt in range(TRIES):
        try:
            _go_on(url, part)
        except FAILURES as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code in GONE
            if final or attempt == TRIES - 1:
                raise
        else:
            return
        time.sleep(FIRST_PAUSE_S * 2**attempt)


def _go_on(url: str, part: Path) -> None:
    """Append what is missing of `url` to `part`, or start over where the server cannot go on."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": AGENT} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing; the checksum will tell
            return
        raise
    resumed = answer.status == 206
    length = answer.headers.get("Content-Length")
    expected = None if length is None else int(length) + (have if resumed else 0)
    with answer, part.open("ab" if resumed else "wb") as file, _bar(part.stem, expected) as bar:
        received = have if resumed else 0
        while chunk := answer.read(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
            bar.update(bar.task_ids[0], completed=received)
    if expected is not None and received < expected:
        raise OSError(f"the connection was closed after {received} of {expected} bytes")


def _bar(name: str, total: int | None) -> Progress:
    """Return a progress bar, drawn on terminals only."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    bar.add_task(name, total=total)
    return bar
