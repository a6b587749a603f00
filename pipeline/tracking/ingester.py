"""The process that brings MLflow up to the store while cells run. One for each store; it outlives the driver."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from pipeline.cluster.liveness import release_dead
from pipeline.files import try_lock
from pipeline.store import Store

IDLE_S = 20.0
"""An ingester ends when nothing was under way for so long."""

RELEASE_S = 60.0
"""How often an ingester lets go of what died: where the drivers were killed too, nobody else does."""

PATIENCE_S = 120.0
"""How long the last stage waits for it; what it has not done by then it does afterwards."""


def start_ingester(store: Store, root: Path) -> None:
    """Start the ingester in a session of its own, unless one runs."""
    lock = _lock(store)
    if lock is None:
        return
    lock.close()
    command = [sys.executable, "-m", "pipeline", "track", "--follow"]
    with (store.root / "tracking" / "ingester.log").open("ab") as log:
        subprocess.Popen(command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def follow_until_idle(store: Store, root: Path) -> None:
    """Ingest every few seconds until nothing is under way; return at once where another ingester runs."""
    import pipeline.cluster.team  # noqa: F401  now: an experiment's folder, and its code, may be gone later
    from pipeline.listings import entries
    from pipeline.tracking.sending import ingest_until

    lock = _lock(store)
    if lock is None:
        return
    busy = looked = time.monotonic()

    def idle() -> bool:
        nonlocal busy, looked
        if time.monotonic() - looked > RELEASE_S:
            looked = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk, say
                release_dead(store)
        if any((store.root / "claims").glob("*.json")):
            busy = time.monotonic()
            return False
        return (store.root / "tracking" / "finish").exists() or time.monotonic() - busy > IDLE_S

    ingest_until(store.root, entries(root), stop=idle)
    lock.close()


def wait_for_ingester(store: Store, root: Path) -> None:
    """Let MLflow catch up with the store: ask the ingester that runs to finish, or do one pass here.

    Where it cannot, as where its server is down, that is said and no more: results need none.
    """
    (store.root / "tracking").mkdir(parents=True, exist_ok=True)
    (store.root / "tracking" / "finish").touch()
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        lock = _lock(store)
        if lock is not None:
            lock.close()
            break
        time.sleep(0.2)
    (store.root / "tracking" / "finish").unlink(missing_ok=True)
    command = [sys.executable, "-m", "pipeline", "track"]
    result = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if result.returncode != 0:
        fault = (result.stderr.strip().splitlines() or ["no word"])[-1]
        print(f"MLflow is behind the store: {fault}", file=sys.stderr)


def _lock(store: Store) -> IO[str] | None:
    """Return the open lock file of this store's ingester, or None where another process holds it."""
    return try_lock(store.root / "tracking" / "ingester.lock")
