"""The spool: the metrics of one cell as JSON lines, written by training and read by MLflow's ingester and by figures.

    {"step": 40, "time_ms": 1768000000000, "metrics": {"loss/supervised": 1.25, "lr": 0.01}}

A node needs no network and no database: it appends, and whoever sees the file reads. The file only grows. A resumed
training repeats the steps after its checkpoint, with equal values, since resuming is exact; the spool leaves out what
it holds already, so each value stands once, with the time of its first writing, and a reader that was ahead of the
checkpoint sees nothing twice. A checkpoint therefore needs no offset: `sync()` before it, and nothing on resume.

Names are `group/name` (`loss/supervised`, `val/student_miou`): MLflow makes a section of each group.
Non-finite values stand as NaN, Infinity and -Infinity, as Python's `json` reads and writes them.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.files import write_whole

NAME = re.compile(r"[\w.\- :]+(/[\w.\- :]+)*", re.ASCII)
"""What MLflow accepts as the name of a metric."""


class Record(NamedTuple):
    """One line of a spool, and where the next one begins (bytes)."""

    step: int
    time_ms: int
    metrics: dict[str, float]
    end: int


class Spool:
    """The spool at `path` for writing. One process at a time writes; any number may read meanwhile.

    The file is open only during a call: there is nothing to close, and on NFS closing is what shows a line elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(_complete_bytes(path))
        self._last: dict[str, int] = {}
        for record in read(path):
            fresh(record, self._last)

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step, less those that the spool holds for this step or a later one.

        The line outlives this process at once, and a power cut with `sync`. Raises ValueError on a name that MLflow
        would refuse, OSError where the disk is full (no half line stays).
        """
        for name in metrics:
            if NAME.fullmatch(name) is None:
                raise ValueError(f"metric {name!r} at step {step}: allowed is group/name of letters, digits, `_ . - :`")
        new = {name: float(value) for name, value in metrics.items() if step > self._last.get(name, -1)}
        if not new:
            return
        record = {"step": int(step), "time_ms": time.time_ns() // 1_000_000, "metrics": new}
        with self.path.open("ab", buffering=0) as file:
            write_whole(file, json.dumps(record).encode() + b"\n")
        self._last |= dict.fromkeys(new, int(step))

    def sync(self) -> int:
        """Bring the spool to the disk; return its length in bytes. To be called before a checkpoint is written."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()


def read(path: Path, *, start: int = 0) -> Iterator[Record]:
    """Yield the complete lines from byte `start` on; an incomplete last line is left for the next reading.

    Where no line begins at `start`, the file is another than the one that was read before (a power cut took its end):
    everything is read again. A line that is no record (zeros after a power cut) is left out with a warning in the log.
    """
    with path.open("rb") as file:
        file.seek(max(start - 1, 0))
        end = start if start and file.read(1) == b"\n" else file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            try:
                record = json.loads(line)
                yield Record(record["step"], record["time_ms"], record["metrics"], end)
            except (ValueError, KeyError, TypeError):
                logging.getLogger(__name__).warning("%s: no record before byte %d; left out", path, end)


def fresh(record: Record, last: dict[str, int]) -> dict[str, float]:
    """Return the metrics of a record that come after `last` (name -> step), and move `last` on.

    Two lives of one job may have written side by side for a moment; this leaves the first value of each step.
    """
    new = {name: value for name, value in record.metrics.items() if record.step > last.get(name, -1)}
    last |= dict.fromkeys(new, record.step)
    return new


def curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return each metric of a spool as (step, value) pairs in the order of steps, each step once."""
    found: dict[str, list[tuple[int, float]]] = {}
    last: dict[str, int] = {}
    for record in read(path):
        for name, value in fresh(record, last).items():
            found.setdefault(name, []).append((record.step, value))
    return found


def _complete_bytes(path: Path) -> int:
    """Return the length of the file up to the end of its last complete line."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while size > 0:
            start = max(0, size - 65536)
            file.seek(start)
            newline = file.read(size - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            size = start
    return 0
