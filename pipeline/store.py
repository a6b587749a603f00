"""The cell store: who computes a cell, what is finished, and the proof that nothing ran twice.

    claims/<key>.json      which submission owns the cell; made exclusively, so exactly one does
    work/<key>/            checkpoint, spool, log of a cell under way; `holder.json` names the worker that runs it
    done/<key>/            the immutable result; appears by one atomic rename
    failed/<key>.json      why a cell ended without a result
    submissions/<id>/      what was submitted together, and the jobs that carry it
    executions.jsonl       append-only: one line for each start, resume and end of a key's execution

Whether a cell is finished is asked here and nowhere else. The store lies beside the DVC cache, on one file system,
shared by clones, experiments and colleagues: where its folder is writable for the group, so is all that is put in it.

Clocks of hosts differ. `time` is always the clock of the file system that holds the store, which all hosts share; what
is compared with a host's own processes or spool is kept as `clock`, the time that host had.
"""

from __future__ import annotations

import configparser
import errno
import json
import os
import shutil
import stat
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any


class TakenOverError(RuntimeError):
    """Another worker holds the cell now; what this one computed is discarded."""


def find_store(root: Path | None = None) -> Path:
    """Return `<dvc cache dir>/cells` of the repository at `root` (default: the nearest folder above with a `.dvc`).

    The cache folder is read from DVC's own files, since asking DVC costs a second and 40 MB each time.
    """
    root = root or _dvc_root(Path.cwd())
    user = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "dvc" / "config"
    files = [Path("/etc/xdg/dvc/config"), user, root / ".dvc" / "config", root / ".dvc" / "config.local"]
    cache = root / ".dvc" / "cache"
    for file in files:
        config = configparser.ConfigParser(interpolation=None)
        config.read(file, encoding="utf-8")
        if config.has_option("cache", "dir"):
            cache = file.parent / config.get("cache", "dir")
    return Path(os.path.normpath(cache)) / "cells"


def _dvc_root(folder: Path) -> Path:
    for candidate in (folder, *folder.parents):
        if (candidate / ".dvc").is_dir():
            return candidate
    raise ValueError(f"{folder}: neither it nor a folder above holds `.dvc`; run inside the project")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a small JSON file, or None where it is absent. Writers replace files whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file whole: a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Store:
    """The cell store at `root` (an absolute path)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.submissions = root / "submissions"

    def now(self) -> float:
        """Return the time by the clock of the store's file system, in seconds since the epoch."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.root, prefix=".clock.") as file:
            file.write(b".")  # a server stamps what is written, a client what is only created
            file.flush()
            return Path(file.name).stat().st_mtime

    def share_with_group(self) -> None:
        """Let this process write for its group too, where the store's or the cache's folder is open to its group."""
        nearest = self.root if self.root.exists() else self.root.parent
        if nearest.exists() and nearest.stat().st_mode & stat.S_IWGRP:
            os.umask(0o002)

    def done(self, key: str) -> Path:
        """Return the folder of a finished cell, whether it exists or not."""
        return self.root / "done" / key

    def work(self, key: str) -> Path:
        """Return the folder of a cell under way, whether it exists or not."""
        return self.root / "work" / key

    def is_done(self, key: str) -> bool:
        """Return whether the cell's result is published."""
        return self.done(key).is_dir()

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return why the cell failed, or None."""
        return read_json(self.root / "failed" / f"{key}.json")

    def state(self, key: str) -> str:
        """Return `done`, `failed`, `running`, `queued` or `missing`."""
        if self.is_done(key):
            return "done"
        if (self.root / "failed" / f"{key}.json").exists():
            return "failed"
        if (self.work(key) / "holder.json").exists():
            return "running"
        return "queued" if (self.root / "claims" / f"{key}.json").exists() else "missing"

    def claim(self, key: str, submission: str) -> bool:
        """Make `submission` the one owner of a cell; False where another one is."""
        path = self.root / "claims" / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        return _create(path, {"submission": submission, "time": self.now()})

    def owner(self, key: str) -> str | None:
        """Return the submission that owns the cell."""
        claim = read_json(self.root / "claims" / f"{key}.json")
        return claim["submission"] if claim else None

    def release(self, key: str) -> None:
        """Give the cell up, so that it can be claimed again. Its checkpoint stays."""
        (self.work(key) / "holder.json").unlink(missing_ok=True)
        (self.root / "claims" / f"{key}.json").unlink(missing_ok=True)

    def retry(self, key: str) -> None:
        """Forget a failure and the claim behind it."""
        (self.root / "failed" / f"{key}.json").unlink(missing_ok=True)
        self.release(key)

    def hold(self, cell: dict[str, Any], holder: dict[str, Any]) -> str | None:
        """Take a claimed cell for one worker; return its token, or None where another worker has it."""
        work, token = self.work(cell["key"]), uuid.uuid4().hex
        work.mkdir(parents=True, exist_ok=True)
        holder = holder | {"token": token, "time": self.now(), "clock": time.time()}
        if not _create(work / "holder.json", holder):
            return None
        if self.is_done(cell["key"]):  # published between the caller's look and the taking
            shutil.rmtree(work)
            return None
        write_json(work / "cell.json", cell)
        resumed = (work / "checkpoint.pt").exists()
        self.log_execution(cell["key"], "resume" if resumed else "start", holder | {"kind": cell["kind"]})
        return token

    def holder(self, key: str) -> dict[str, Any] | None:
        """Return who runs the cell: host, pid, job, token."""
        return read_json(self.work(key) / "holder.json")

    def drop(self, key: str, token: str) -> None:
        """Let go of a cell that was not finished; it goes on from its checkpoint elsewhere."""
        self._own(key, token)
        (self.work(key) / "holder.json").unlink(missing_ok=True)

    def publish(self, key: str, token: str, result: dict[str, Any]) -> Path:
        """Make a cell's work folder its immutable result. Raises TakenOverError where the worker lost the cell."""
        work, done = self.work(key), self.done(key)
        write_json(work / "result.json", result)
        for path in work.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        done.parent.mkdir(parents=True, exist_ok=True)
        self._own(key, token)
        work.rename(done)
        _fsync_folder(done.parent)
        for leftover in ("checkpoint.pt", "holder.json"):
            (done / leftover).unlink(missing_ok=True)
        self.log_execution(key, "done", {"state": result["state"]})
        (self.root / "claims" / f"{key}.json").unlink(missing_ok=True)
        return done

    def adopt(self, cell: dict[str, Any], result: dict[str, Any], files: dict[str, Path]) -> bool:
        """Publish a result that was computed elsewhere under the same key; False where it is here by now."""
        temporary = self.root / "done" / f".{cell['key']}.{uuid.uuid4().hex[:8]}"
        write_json(temporary / "cell.json", cell)
        write_json(temporary / "result.json", result)
        for name, source in files.items():
            _link(source, temporary / name)
        try:
            temporary.rename(self.done(cell["key"]))
        except OSError:
            shutil.rmtree(temporary)
            return False
        self.log_execution(cell["key"], "adopted", {"kind": cell["kind"]})
        return True

    def fail(self, key: str, token: str | None, reason: dict[str, Any]) -> None:
        """Record why a cell ended without a result. Its work folder stays for a look and for `retry`."""
        if token is not None:
            self._own(key, token)
        write_json(self.root / "failed" / f"{key}.json", reason | {"time": time.time()})
        self.log_execution(key, "failed", {"reason": reason.get("reason", "")})
        self.release(key)

    def log_execution(self, key: str, event: str, facts: dict[str, Any]) -> None:
        """Append one line to the execution log (appends below 4 kB are atomic on local file systems)."""
        self.root.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "event": event, "time": time.time()} | facts) + "\n"
        descriptor = os.open(self.root / "executions.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def executions(self) -> list[dict[str, Any]]:
        """Return the execution log."""
        path = self.root / "executions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _own(self, key: str, token: str) -> None:
        holder = self.holder(key)
        if holder is None or holder["token"] != token:
            raise TakenOverError(f"{key}: held by {holder}, no longer by this worker")


def _create(path: Path, value: dict[str, Any]) -> bool:
    """Create a small JSON file with its content in one step; False where it exists."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    try:
        os.link(temporary, path)  # exclusive and whole, also on NFS
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where it lies on another file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
