"""What the terminal shows while a stage waits: cells done, running, left, and the time that is left."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.store import Store

LINE_S = 60.0
"""How often a line is printed where there is no terminal."""

LEFT_S = 10.0
"""How often the cells of all tables are counted."""

Item = TypeVar("Item")


def follow(items: Iterable[Item], *, total: int, title: str) -> Iterator[Item]:
    """Yield what is made one after another, under a bar with the time left in a terminal; elsewhere a line a minute."""
    live, started, printed = sys.stderr.isatty(), time.monotonic(), time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not live) as bar:
        for done, item in enumerate(bar.track(items, total=total, description=title), start=1):
            if not live and time.monotonic() - printed > LINE_S:
                printed = time.monotonic()
                minutes = (printed - started) / 60
                print(f"{minutes:.0f} min, {title}: {done} of {total}", file=sys.stderr, flush=True)
            yield item


class Board:
    """A progress bar in a terminal; elsewhere one line a minute.

    Workers finish whole rows, table by table, so a stage may stand still while others' cells end: how many cells of all
    tables are left is shown too.
    """

    def __init__(self, store: Store, title: str) -> None:
        self.store, self.title = store, title
        self.started = self.printed = time.monotonic()
        self.left, self.counted = 0, -math.inf
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[states]}"),
        )
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self.task = self.bar.add_task(title, states="", total=None)
        self.live = sys.stderr.isatty()

    def __enter__(self) -> Self:
        """Start the bar, if there is a terminal."""
        if self.live:
            self.bar.start()
        return self

    def show(self, states: dict[str, str]) -> None:
        """Show the states of the stage's cells by key."""
        counts = Counter(states.values())
        done = counts["done"] + counts["failed"] + counts["cancelled"]
        text = ", ".join(
            f"{counts[state]} {state}" for state in ("running", "queued", "failed", "cancelled") if counts[state]
        )
        text = f"{text} ({self._count_left()} of all tables left)"
        self.bar.update(self.task, completed=done, total=len(states), states=text)
        if not self.live and time.monotonic() - self.printed > LINE_S:
            self.printed = time.monotonic()
            minutes = (self.printed - self.started) / 60
            line = f"{minutes:.0f} min, {self.title}: {done} of {len(states)} cells, {text}"
            print(line, file=sys.stderr, flush=True)

    def _count_left(self) -> int:
        """Return how many cells of the store are claimed: those of all drivers that share it."""
        if time.monotonic() - self.counted > LEFT_S:
            self.left = sum(1 for _ in (self.store.root / "claims").glob("[!.]*.json"))
            self.counted = time.monotonic()
        return self.left

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self.live:
            self.bar.stop()
