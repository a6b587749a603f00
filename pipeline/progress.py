"""What the terminal shows while a stage waits: cells done, running, left, and the time that is left."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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


class Lines:
    """What is printed where there is no terminal: now and then a line, with the minutes since the start before it."""

    def __init__(self) -> None:
        self.wanted = not sys.stderr.isatty()
        self.started = self.printed = time.monotonic()

    def say(self, text: str) -> None:
        """Print the line if one is due."""
        if self.wanted and time.monotonic() - self.printed > LINE_S:
            self.printed = time.monotonic()
            print(f"{(self.printed - self.started) / 60:.0f} min, {text}", file=sys.stderr, flush=True)


def follow(items: Iterable[Item], *, total: int, title: str) -> Iterator[Item]:
    """Yield what is made one after another, under a bar with the time left in a terminal; elsewhere a line a minute."""
    lines = Lines()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=lines.wanted) as bar:
        for done, item in enumerate(bar.track(items, total=total, description=title), start=1):
            lines.say(f"{title}: {done} of {total}")
            yield item


WORDS = {"missing": "not submitted"}
"""What a stage that waits calls a state otherwise than the store does."""


class Board:
    """A progress bar in a terminal; elsewhere one line a minute.

    Workers finish whole rows, table by table, so a stage may stand still while others' cells end: how many cells of all
    tables are left is shown too.
    """

    def __init__(self, store: Store, title: str) -> None:
        self.store, self.title = store, title
        self.lines, self.left, self.counted = Lines(), 0, -math.inf
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[states]}"),
        )
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
        self.task = self.bar.add_task(title, states="", total=None)

    def __enter__(self) -> Self:
        """Start the bar, if there is a terminal."""
        if not self.lines.wanted:
            self.bar.start()
        return self

    def show(self, states: Mapping[str, str]) -> None:
        """Show the states of the stage's cells by key."""
        counts = Counter(states.values())
        done = counts["done"] + counts["failed"] + counts["cancelled"]
        shown = ("running", "queued", "missing", "failed", "cancelled")
        parts = [f"{counts[state]} {WORDS.get(state, state)}" for state in shown if counts[state]]
        text = f"{', '.join(parts)} ({self._count_left() + counts['missing']} of all tables left)"
        self.bar.update(self.task, completed=done, total=len(states), states=text)
        self.lines.say(f"{self.title}: {done} of {len(states)} cells, {text}")

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
        if not self.lines.wanted:
            self.bar.stop()
