"""The cell store: who computes a cell, what is finished, and the proof that nothing ran twice.

A claim is made exclusively, so exactly one submission owns a cell; a holder too, so exactly one worker runs it. A
result appears by one atomic rename and never changes. Whether a cell is finished is asked here and nowhere else. What
lies in each folder, and who writes it when, is listed in `pipeline/records.py`.

The store lies beside the DVC cache, on one file system, shared by clones, experiments and colleagues: where its folder
is writable for the group, so is all that is put in it.

Clocks of hosts differ. `time` is always the clock of the file system that holds the store, which all hosts share; what
is compared with a host's own processes or spool is kept as `clock`, the time that host had.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, cast

from configobj import ConfigObj

from pipeline.files import append_line, create, fsync_folder, link_or_copy, read_json, read_lines, withdraw, write_json
from pipeline.records import GIVEN_UP, Claim, Ending, Holder, Jobs, State, Submission, WorkerFacts

RESERVE, RESERVE_BYTES = "reserve", 32_768
"""Room that each cell under way keeps, so that on a full disk there is some to say why it failed."""

NOT_KEPT = ("checkpoint.pt", "holder.json", "restarts.json", RESERVE)
"""Files of a work folder that its result has no use for."""


class UnloggedError(OSError):
    """The result is published, but its end could not be written down: the disk is full."""


class TakenOverError(RuntimeError):
    """Another worker holds the cell now; what this one computed is discarded."""


def find_store(root: Path) -> Path:
    """Return `<dvc cache dir>/cells` of the project at `root`.

    The cache folder is read from DVC's own files, since asking DVC costs a second and 40 MB each time.
    """
    system = Path(os.environ.get("DVC_SYSTEM_CONFIG_DIR") or "/etc/xdg/dvc")
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dvc"
    folders = [system, Path(os.environ.get("DVC_GLOBAL_CONFIG_DIR") or own), root / ".dvc"]
    files = [*(folder / "config" for folder in folders), root / ".dvc" / "config.local"]
    cache = root / ".dvc" / "cache"
    for file in files:
        config = ConfigObj(str(file), encoding="utf-8", interpolation=False)  # as DVC reads it, quotes and comments too
        if folder := config.get("cache", {}).get("dir"):
            cache = file.parent / Path(folder).expanduser()
    return Path(os.path.normpath(cache)) / "cells"


def open_store(root: Path) -> Store:
    """Return the store of the project at `root`; what this process writes is for its group too, where the store is."""
    store = Store(find_store(root))
    store.share_with_group()
    return store


class Store:
    """The cell store at `root` (an absolute path)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.submissions = root / "submissions"

    def now(self) -> float:
        """Return the time by the clock of the store's file system, in seconds since the epoch."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.root, prefix=".clock.") as file:
                file.write(b".")  # a server stamps what is written, a client what is only created
                file.flush()
                return Path(file.name).stat().st_mtime
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):  # who may only look changes nothing by it
                return time.time()
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.root.exists():
                raise
            os.utime(self.root)  # needs no room
            return self.root.stat().st_mtime

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

    def failure(self, key: str) -> Ending | None:
        """Return why the cell failed, or None."""
        return cast(Ending | None, read_json(self.root / "failed" / f"{key}.json"))

    def cancelled(self, key: str) -> Ending | None:
        """Return who cancelled the cell and when, or None."""
        return cast(Ending | None, read_json(self.root / "cancelled" / f"{key}.json"))

    def submission(self, name: str) -> Submission | None:
        """Return what a launch wrote down before it submitted cells, or None where it did not come so far."""
        return cast(Submission | None, read_json(self.submissions / name / "submission.json"))

    def jobs(self, submission: str) -> Jobs | None:
        """Return the jobs of a submission, or None where they were not all submitted, or not written down."""
        return cast(Jobs | None, read_json(self.submissions / submission / "jobs.json"))

    def state(self, key: str) -> State:
        """Return how far a cell is."""
        if self.is_done(key):
            return "done"
        for state in GIVEN_UP:
            if (self.root / state / f"{key}.json").exists():
                return state
        if (self.work(key) / "holder.json").exists():
            return "running"
        return "queued" if self._claim(key).exists() else "missing"

    def claim(self, key: str, submission: str) -> bool:
        """Make `submission` the one owner of a cell; False where another one is."""
        path = self._claim(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        return create(path, {"submission": submission, "time": self.now()})

    def owner(self, key: str) -> str | None:
        """Return the submission that owns the cell."""
        claim = cast(Claim | None, read_json(self._claim(key)))
        return claim["submission"] if claim else None

    def unclaim(self, key: str, submission: str | None) -> bool:
        """Give up the claim of a submission on a cell, if it still has it; None: an empty one. Its checkpoint stays."""
        return withdraw(self._claim(key), "submission", value=submission)

    def retry(self, key: str) -> None:
        """Forget a failure or a cancelling, and the claim behind it; a worker that still holds the cell goes on."""
        self.log_execution(key, "retry", facts={})  # first: from this line on, losses are counted anew
        owner = self.owner(key)  # a driver that finds the failure gone may claim it anew at once
        for state in GIVEN_UP:
            (self.root / state / f"{key}.json").unlink(missing_ok=True)
        if owner is not None and self.holder(key) is None:
            self.unclaim(key, owner)

    def hold(self, cell: dict[str, Any], worker: WorkerFacts) -> str | None:
        """Take a claimed cell for one worker; return its token, or None where another worker has it."""
        key, work, token = cell["key"], self.work(cell["key"]), uuid.uuid4().hex
        work.mkdir(parents=True, exist_ok=True)
        resumed = (work / "checkpoint.pt").exists()
        restarts = (read_json(work / "restarts.json") or {"count": 0})["count"] + resumed
        holder = {**worker, "token": token, "restarts": restarts, "time": self.now(), "clock": time.time()}
        try:
            if not create(work / "holder.json", holder):
                return None
        except FileNotFoundError:  # published, and its work folder with it, while the clock was asked
            return None
        if self.is_done(key):  # published between the caller's look and the taking
            shutil.rmtree(work)
            return None
        try:
            write_json(work / "cell.json", cell)
            (work / RESERVE).write_bytes(bytes(RESERVE_BYTES))
            if resumed:
                write_json(work / "restarts.json", {"count": restarts})
            self.log_execution(key, "resume" if resumed else "start", facts=holder | {"kind": cell["kind"]})
        except OSError:  # the disk is full
            self.lose(key, token)
            raise
        return token

    def holder(self, key: str) -> Holder | None:
        """Return which worker runs the cell, or None."""
        return cast(Holder | None, read_json(self.work(key) / "holder.json"))

    def lose(self, key: str, token: str | None) -> bool:
        """Take the cell away from the worker with this token, or from nobody where its holder is empty.

        False where it holds it no longer, or another did so.
        """
        return withdraw(self.work(key) / "holder.json", "token", value=token)

    def drop(self, key: str, token: str) -> None:
        """Let go of a cell that was not finished; it goes on from its checkpoint elsewhere."""
        if not self.lose(key, token):
            raise TakenOverError(f"{key}: {_whose(self.holder(key))}, no longer this worker's")

    def publish(self, key: str, token: str, *, result: dict[str, Any]) -> Path:
        """Make a cell's work folder its immutable result.

        Raises TakenOverError where the worker lost the cell, UnloggedError where it is published but no line says so.
        """
        work, done = self.work(key), self.done(key)
        write_json(work / "result.json", result)
        for path in work.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        done.parent.mkdir(parents=True, exist_ok=True)
        self._own(key, token)
        work.rename(done)
        try:
            fsync_folder(done.parent)
            for leftover in (*(done / name for name in NOT_KEPT), *done.glob(".*")):  # those of killed writers
                leftover.unlink(missing_ok=True)
            self._claim(key).unlink(missing_ok=True)
            for state in GIVEN_UP:  # an evaluation ends all the same
                (self.root / state / f"{key}.json").unlink(missing_ok=True)
            self.log_execution(key, "done", facts={"state": result["state"]})
        except OSError as error:
            raise UnloggedError(*error.args) from error
        return done

    def adopt(self, cell: dict[str, Any], result: dict[str, Any], *, files: dict[str, Path]) -> bool:
        """Publish a result that was computed elsewhere under the same key; False where it is here by now."""
        temporary = self.root / "done" / f".{cell['key']}.{uuid.uuid4().hex[:8]}"
        write_json(temporary / "cell.json", cell)
        write_json(temporary / "result.json", result)
        for name, source in files.items():
            link_or_copy(source, temporary / name)
        try:
            temporary.rename(self.done(cell["key"]))
        except OSError:
            shutil.rmtree(temporary)
            return False
        self.log_execution(cell["key"], "adopted", facts={"kind": cell["kind"]})
        return True

    def make_room(self, key: str) -> None:
        """Give up the room that a cell under way keeps for saying why it failed."""
        (self.work(key) / RESERVE).unlink(missing_ok=True)

    def fail(self, key: str, token: str | None, *, reason: dict[str, Any]) -> None:
        """Record why a cell ended without a result. Its work folder stays for a look and for `retry`."""
        if token is not None:
            self._own(key, token)
        self.make_room(key)
        self._end(key, "failed", reason=reason)
        if token is not None:
            self.lose(key, token)

    def cancel(self, key: str, reason: dict[str, Any]) -> None:
        """Stop a cell until `retry`. The worker that holds it saves within ten steps and lets go of it."""
        self._end(key, "cancelled", reason=reason)
        if self.is_done(key):  # published between the caller's look and the mark
            (self.root / "cancelled" / f"{key}.json").unlink(missing_ok=True)

    def end_after(self, key: str, before: str, *, name: str) -> None:
        """End a cell as the one before it has ended: failed or cancelled."""
        reason, facts = "the cell before it {}: " + before, {"name": name, "before": before}
        if self.state(before) == "failed":
            self._end(key, "failed", reason=facts | {"reason": reason.format("failed")})
        else:
            self._end(key, "cancelled", reason=facts | {"reason": reason.format("was cancelled")})

    def _end(self, key: str, state: str, *, reason: dict[str, Any]) -> None:
        now = self.now()
        write_json(self.root / state / f"{key}.json", reason | {"time": now})
        self._claim(key).unlink(missing_ok=True)
        self.log_execution(key, state, facts={"reason": reason.get("reason", ""), "time": now})

    def log_execution(self, key: str, event: str, *, facts: dict[str, Any]) -> None:
        """Append one line to this host's part of the execution log. Raises OSError where the disk is full."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"executions.{socket.gethostname()}.jsonl"
        append_line(path, {"key": key, "event": event, "time": facts.get("time") or self.now()} | facts)

    def executions(self) -> list[dict[str, Any]]:
        """Return the execution log of all hosts in the order of time; unreadable lines are left out."""
        lines = [line for path in sorted(self.root.glob("executions*.jsonl")) for line in read_lines(path)]
        return sorted(lines, key=lambda line: line.get("time", 0.0))

    def _claim(self, key: str) -> Path:
        return self.root / "claims" / f"{key}.json"

    def _own(self, key: str, token: str) -> None:
        holder = self.holder(key)
        if holder is None or holder["token"] != token:
            raise TakenOverError(f"{key}: {_whose(holder)}, no longer this worker's")


def _whose(holder: Holder | None) -> str:
    """Say in whose hands a cell is."""
    return "nobody's" if holder is None else f"that of job {holder.get('job')} on {holder.get('host')}"
