"""When a worker leaves a cell: a signal asks it to, or somebody cancelled the cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FrameType

from pipeline.store import Store

DOZE_S = 0.2
"""How often a worker that waits looks whether it is asked to leave."""

CANCEL_S = 2.0
"""How often the worker of a cell looks whether somebody cancelled it."""


class Stop:
    """A flag that a signal sets and the engine reads every ten steps."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether to save and leave."""
        return self.signal is not None

    def set(self, signum: int, _frame: FrameType | None) -> None:
        """Remember the signal; nothing else is safe inside a handler."""
        self.signal = signum


def doze(seconds: float, stop: Stop) -> None:
    """Sleep until then or until the worker is asked to leave."""
    end = time.monotonic() + seconds
    while not stop() and (left_s := end - time.monotonic()) > 0:
        time.sleep(min(left_s, DOZE_S))


class StoppedError(RuntimeError):
    """The engine saved its checkpoint at a step boundary and left, as it was asked to."""


def or_cancelled(store: Store, key: str, *, stop: Stop) -> Callable[[], bool]:
    """Return a flag that is up where the worker is to leave or where the cell was cancelled; it looks now and then."""
    looked, cancelled = time.monotonic(), False

    def stopping() -> bool:
        nonlocal looked, cancelled
        if time.monotonic() - looked > CANCEL_S:
            looked, cancelled = time.monotonic(), store.cancelled(key) is not None
        return stop() or cancelled

    return stopping
