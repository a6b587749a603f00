"""Small files that several processes and hosts share, and what each function guarantees, on NFS too.

    create                   makes a file that must not be there: of all that try, one succeeds (claims, holders)
    withdraw                 takes such a file away if it still is the one that is meant: of all that try, one succeeds
    write_json, write_bytes, written_whole
                             replace a file: a reader sees the old content or the new, never a part
    append_line              adds a line to a log, whole or not at all; for processes of one host
    lock, try_lock           hold a file until it is closed; where its process dies, the kernel lets go of it
    read_json                reads one, and takes what a power cut left empty for absent

A file whose name begins with a dot is being written. What a killed process left of that kind, `doctor` removes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that knows no locks: NFS without its lock daemon, Lustre mounted without `flock`."""


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a small JSON file, or None where it is absent, or empty, as a power cut leaves it.

    Writers replace files whole.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return json.loads(text) if text.strip("\0") else None


def modified(path: Path) -> float | None:
    """Return when a file was last written, or None where it is gone: temporary ones live for a moment."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file whole."""
    write_bytes(path, json.dumps(value, indent=1).encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give the place to write a file at, in its folder and with its suffix; at the end it takes the file's name.

    What fails leaves nothing there, and of two that write one file at once the later is kept, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def create(path: Path, value: dict[str, Any]) -> bool:
    """Create a small JSON file with its content in one step; False where it exists."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.link(temporary, path)  # exclusive and whole, also on NFS
    except FileExistsError:  # on NFS perhaps our own link, made again because the first answer was lost
        return temporary.stat().st_nlink == 2
    finally:
        temporary.unlink(missing_ok=True)
    return True


def withdraw(path: Path, name: str, *, value: str | None) -> bool:
    """Remove a small JSON file whose field `name` is `value` (None: that is empty); of several one is told True.

    The file is first renamed, which one process alone can do; one that came in its place meanwhile is put back.
    """
    if (read_json(path) or {}).get(name) != value:
        return False
    taken = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        path.rename(taken)
    except FileNotFoundError:
        return False
    found = read_json(taken) or {}
    mine = found.get(name) == value
    if found and not mine:
        with contextlib.suppress(FileNotFoundError):  # its folder is gone
            create(path, found)  # no link: it may be another user's
    taken.unlink(missing_ok=True)
    return mine


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where that may not be: across file systems, or (by default) of another user."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
        shutil.copy2(source, target)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append a JSON line, whole or not at all. Raises OSError where the disk is full.

    Processes of one host may append to one file; hosts may not, since NFS knows no appending.
    """
    with path.open("ab+", buffering=0) as file, lock(file):
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        torn = file.read(1) not in (b"", b"\n")  # a writer was killed: its part of a line stays alone
        write_whole(file, b"\n" * torn + json.dumps(value).encode() + b"\n")


def write_whole(file: io.FileIO, line: bytes) -> None:
    """Write to the end of an unbuffered file a whole line or nothing. Raises OSError where the disk is full."""
    end = os.fstat(file.fileno()).st_size
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError(f"{file.name!s}: {written} of {len(line)} bytes written; is the disk full?")
    except OSError:
        file.truncate(end)
        raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of a file; what is no record is left out with a warning in the log."""
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            lines.append(record | {"key": record["key"]})
        except (ValueError, TypeError, KeyError):
            logging.getLogger(__name__).warning("%s: line %d is no record; left out", path, number)
    return lines


def lock(file: IO[Any], mode: int = fcntl.LOCK_EX) -> IO[Any]:
    """Lock an open file; return the file that holds the lock until it is closed. Raises BlockingIOError as asked.

    Where the file system knows no locks that is one for this user in the machine's temporary folder: it keeps out the
    processes of this machine, which are those that append to one log; a database on several hosts needs a server.
    """
    try:
        fcntl.flock(file, mode)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        name = hashlib.sha256(os.path.realpath(file.name).encode(errors="surrogateescape")).hexdigest()[:16]
        file = (Path(tempfile.gettempdir()) / f"lock-{os.getuid()}-{name}").open("a")
        try:
            fcntl.flock(file, mode)
        except OSError:
            file.close()
            raise
    return file


def try_lock(path: Path) -> IO[str] | None:
    """Return the open lock file, locked until it is closed, or None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        held = lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    if held is not file:
        file.close()
    return held


def in_utf8(text: str) -> str:
    """Return text that any file, terminal and database takes: names of files need not be UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def fsync_folder(folder: Path) -> None:
    """Have what was renamed into a folder or out of it reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
