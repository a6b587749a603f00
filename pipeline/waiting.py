"""Who waits for which cells: drivers leave a mark in the store, so that `cancel` spares what another table needs."""

from __future__ import annotations

import os
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from pipeline.files import modified
from pipeline.store import Store, read_json, write_json

BEAT_S = 20.0
STALE_S = 120.0
"""A mark that was not touched for so long, by the store's clock, is a dead driver's."""


class Waiting:
    """The mark of one driver that waits for a table, e.g. `embedded/table_7`, whose rows need the cells `keys`."""

    def __init__(self, store: Store, table: str, keys: Iterable[str]) -> None:
        self.store, self.value = store, {"table": table, "keys": sorted(keys)}
        self.path = store.root / "waiting" / f"{uuid.uuid4().hex}.json"
        self.next_beat = 0.0

    def __enter__(self) -> Self:
        """Leave the mark."""
        write_json(self.path, self.value)
        return self

    def beat(self) -> None:
        """Say now and then that this driver lives."""
        if time.monotonic() > self.next_beat:
            self.next_beat = time.monotonic() + BEAT_S
            try:
                os.utime(self.path)
            except FileNotFoundError:  # taken for a dead driver's while this one was suspended
                write_json(self.path, self.value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the mark away."""
        self.path.unlink(missing_ok=True)


def needed_by_table(store: Store) -> dict[str, set[str]]:
    """Return which cells each live table needs: one that a driver waits for, or that cells were claimed for.

    A table is not live where one of its cells is cancelled: it cannot be finished, and would keep others' for ever.
    """
    needed: dict[str, set[str]] = defaultdict(set)
    now, cancelled = store.now(), {path.stem for path in (store.root / "cancelled").glob("[!.]*.json")}
    for path in (store.root / "waiting").glob("[!.]*.json"):
        mark = read_json(path)
        if mark and now - (modified(path) or 0.0) < STALE_S:
            needed[mark["table"]] |= set(mark["keys"])
    owners = {store.owner(path.stem) for path in (store.root / "claims").glob("*.json")} - {None}
    for owner in owners:
        record = read_json(store.submissions / str(owner) / "submission.json") or {}
        for table, keys in record.get("tables", {}).items():
            needed[table] |= set(keys)
    return {table: keys for table, keys in needed.items() if not keys & cancelled}
