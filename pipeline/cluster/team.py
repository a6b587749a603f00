"""Several tasks of one job, on one node or more, that train one cell together: the first is the worker.

The first takes cells, tells the others which, and alone writes to the store. A rank that fails says why and ends its
process, which the others notice by the broken connection; the cell is then failed. Where one died without a word, as
for want of memory, the cell is taken up again, as with one process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import submitit
from submitit.helpers import TorchDistributedEnvironment

from pipeline.cluster.stopping import StoppedError
from pipeline.files import read_json, write_json
from pipeline.store import Store

LAST_WORDS = "last-words.json"
"""Why a rank failed and its traceback, beside the checkpoint of its cell."""


class RankError(RuntimeError):
    """Another rank of the cell failed, with the error that is told."""


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
        sys.modules["pipeline.training.ranks"].from_first_rank(lambda: cell)


def follow_first_rank(store: Store, run: Callable[[dict[str, Any], Path], Any]) -> None:
    """Do every cell that the first rank announces with `run(cell, folder)`, in folders that are thrown away.

    A failure that began on this rank is written down in the cell's own folder, where the first one reads it.
    """
    from pipeline.training import ranks

    while (cell := ranks.from_first_rank(lambda: None)) is not None:
        with TemporaryDirectory(prefix="rank-") as folder, contextlib.suppress(StoppedError):
            try:
                run(cell, Path(folder))
            except StoppedError:
                raise
            except Exception as error:
                if not _is_of_connection(error):
                    said = f"rank {ranks.rank()}: {type(error).__name__}: {error}"
                    write_json(
                        store.work(cell["key"]) / LAST_WORDS, {"said": said, "traceback": traceback.format_exc()}
                    )
                raise


def explain(error: Exception, work: Path) -> Exception | None:
    """Return why a cell failed on the first rank; None where that is another's end, which said nothing."""
    if team_size() == 1 or not _is_of_connection(error):
        return error
    return last_words(work)


def last_words(work: Path) -> RankError | None:
    """Return what another rank said as it failed, its traceback as a note; None where none said anything."""
    words = read_json(work / LAST_WORDS)
    if words is None:
        return None
    cause = RankError(words["said"])
    cause.add_note(words["traceback"])
    return cause


def _is_of_connection(error: Exception) -> bool:
    """Tell whether an error says that another rank does not answer; gloo's name the place in its code."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo/transport" in str(error)
