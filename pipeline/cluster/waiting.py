"""Who waits for which cells: drivers leave a mark in the store, so that `cancel` spares what another table needs."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from types import TracebackType
from typing import Self, cast

from pipeline.files import modified, read_json, write_json
from pipeline.records import Mark
from pipeline.store import Store

BEAT_S = 20.0
STALE_S = 120.0
"""A mark that was not touched for so long, by the store's clock, is a dead driver's."""


class Waiting:
    """The mark of one driver that waits for a table, e.g. `embedded/table_7`, whose rows need the cells `keys`."""

    def __init__(self, store: Store, table: str, *, keys: Iterable[str]) -> None:
        self.value: Mark = {"table": table, "keys": sorted(keys)}
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


def needs(store: Store) -> list[tuple[str, frozenset[str]]]:
    """Return which cells are needed for a table, by every driver that waits and every submission that has claims.

    Experiments with other parameters are tables of one name.
    """
    found: set[tuple[str, frozenset[str]]] = set()
    now = store.now()
    for path in (store.root / "waiting").glob("[!.]*.json"):
        mark = cast(Mark | None, read_json(path))
        if mark and now - (modified(path) or 0.0) < STALE_S:
            found.add((mark["table"], frozenset(mark["keys"])))
    owners = {store.owner(path.stem) for path in (store.root / "claims").glob("*.json")}
    for owner in filter(None, owners):
        record = store.submission(owner)
        for table, keys in record.get("tables", {}).items() if record else ():
            found.add((table, frozenset(keys)))
    return sorted(found, key=lambda need: (need[0], sorted(need[1])))


def live_needs(store: Store) -> list[tuple[str, frozenset[str]]]:
    """Return the needs of which no cell is cancelled: a table that cannot be finished would keep others' for ever."""
    cancelled = {path.stem for path in (store.root / "cancelled").glob("[!.]*.json")}
    return [(table, keys) for table, keys in needs(store) if not keys & cancelled]
