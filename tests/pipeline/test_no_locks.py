"""A store on a file system without locks, as NFS without its lock daemon: all goes on, by locks of the machine."""

from __future__ import annotations

import errno
import fcntl
import tempfile
from pathlib import Path
from typing import IO, Any

import pytest

from pipeline.files import append_line, read_lines, try_lock
from pipeline.tracking.database import locked


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def shared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files cannot be locked, beside a temporary one where that works."""
    flock, folder, temporary = fcntl.flock, tmp_path / "shared", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()

    def refuse(file: IO[Any], mode: int) -> None:
        if Path(file.name).parent == folder:
            raise OSError(request.param, "no locks here")
        flock(file, mode)

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder


def test_lines_are_appended_and_locks_keep_others_out_all_the_same(shared: Path) -> None:
    append_line(shared / "log", {"key": "a"})
    append_line(shared / "log", {"key": "b"})
    assert [line["key"] for line in read_lines(shared / "log")] == ["a", "b"]
    with locked(shared / "lock") as file:
        file.write("what an ingester leaves for the next")
        assert try_lock(shared / "lock") is None
    assert (shared / "lock").read_text() == "what an ingester leaves for the next"
    held = try_lock(shared / "lock")
    assert held is not None
    held.close()


def test_another_fault_of_a_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="broken"):
        append_line(tmp_path / "log", {"key": "a"})
