"""Several tasks of one job, on one node or more, that train one cell together: the first is the worker.

The first takes cells, tells the others which, and alone writes to the store. A rank that fails ends its process, which
the others notice by the broken connection; the cell is then failed, or taken up again, as with one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import submitit
from submitit.helpers import TorchDistributedEnvironment


def join_team() -> int:
    """Join the other tasks of this submitit job, if it has several; return this one's rank.

    They meet at the first node's name, or where a site's `setup` lines set MASTER_ADDR.
    """
    if submitit.JobEnvironment().num_tasks == 1:
        return 0
    meeting = TorchDistributedEnvironment()
    meeting.master_addr = os.environ.get("MASTER_ADDR", meeting.master_addr)
    meeting.export(set_cuda_visible_devices=False, overwrite=True)
    from pipeline.training import ranks  # imports torch

    ranks.join()
    return ranks.rank()


def team_size() -> int:
    """Return how many processes work on this worker's cells."""
    ranks = sys.modules.get("pipeline.training.ranks")  # absent where there is no team, and torch may be absent too
    return ranks.size() if ranks is not None else 1


def announce(cell: dict[str, Any] | None) -> None:
    """Tell the other ranks what comes next; None: nothing."""
    if team_size() > 1:
        sys.modules["pipeline.training.ranks"].told(lambda: cell)


def follow(run: Callable[[dict[str, Any], Path], Any], stopped: type[Exception]) -> None:
    """Do every cell the first rank announces with `run(cell, work)`, in work folders that are thrown away."""
    from pipeline.training import ranks

    while (cell := ranks.told(lambda: None)) is not None:
        with TemporaryDirectory(prefix="rank-") as work, contextlib.suppress(stopped):
            run(cell, Path(work))
