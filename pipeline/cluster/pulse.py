"""How others know that the processes of one machine live: each worker touches its submission's file now and then.

SLURM says which jobs live, and a machine which of its processes do. Of another machine's a driver knows this alone.
Where the file was not touched for long, that machine is gone, or has another name by now, as laptops and containers do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline.files import modified
from pipeline.store import Store

BEAT_S = 20.0
SILENT_S = 300.0
"""A submission whose file was not touched for so long, by the store's clock, is dead."""


def begin_pulse(folder: Path) -> None:
    """Make the file in a submission's folder; its workers have SILENT_S to begin."""
    # With content: a server stamps what is written, a client what is only created.
    (folder / "pulse").write_text(".", encoding="utf-8")


@contextlib.contextmanager
def pulse(folder: Path) -> Iterator[None]:
    """Touch the file now and then while the block runs, whatever that computes meanwhile."""
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder / "pulse", ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(path)


def is_silent(store: Store, submission: str) -> bool:
    """Tell whether no worker of a submission has touched its file for long, or its folder is gone, as after `gc`.

    False where it never had such a file. Its folder is there before its first claim.
    """
    folder = store.submissions / submission
    touched = modified(folder / "pulse")
    return not folder.exists() if touched is None else store.now() - touched > SILENT_S
