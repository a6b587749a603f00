"""Jobs whose clocks are wrong by ten minutes, on SLURM: nothing runs twice or is called dead, no point is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.cell import Cell, chain
from pipeline.cluster import liveness
from pipeline.spool import curves
from pipeline.store import Store, find_store
from pipeline.tracking import sending
from tests.pipeline.conftest import Lab
from tests.slurm.driving import send, sleeper, slow_down, starts, u2pl_row

if TYPE_CHECKING:
    from .conftest import Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.filterwarnings(
        "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"  # MLflow's own use
    ),
]
SHIFT = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {0}
time.time_ns = lambda: now_ns() + {0} * 10**9
"""
"""What Python runs before anything else, where it lies in the path as `sitecustomize`."""


def test_with_clocks_ahead_and_behind_cells_run_once_and_every_point_arrives_once(
    make_site: Callable[..., Path], cluster: Cluster
) -> None:
    """The driver, whose clock is right, looks for the dead again and again; sleepers give it time to."""
    rows = [u2pl_row(steps_per_epoch=10, epochs=2, evaluate_every_epochs=1) | {"seed": seed} for seed in range(2)]
    cells: dict[int, list[Cell]] = {}
    site = make_site()
    slow_down(site, 0.1)
    for skew_s, row in zip((600, -600), rows, strict=True):
        folder = site / f"clock{skew_s}"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SHIFT.format(skew_s))
        make_site(setup=[f"export PYTHONPATH={folder}:$PYTHONPATH"])
        cells[skew_s] = [*chain(row), *(sleeper(number, 12.0, f"clock {skew_s}") for number in range(2))]
        send(site, cells[skew_s])
    store, every = Store(find_store(site)), [cell for ours in cells.values() for cell in ours]

    def all_done() -> bool:
        """Look as a driver and an ingester do. What is called dead here nobody begins again, and it is never done."""
        liveness.release_dead(store)
        sending.ingest(store.root)
        return all(store.is_done(cell.key) for cell in every)

    cluster.wait_for(all_done, seconds=240)
    assert starts(store) == sorted(cell.key for cell in every)
    assert {line["event"] for line in store.executions()} == {"start", "done"}
    begun = {line["key"]: line["clock"] - line["time"] for line in store.executions() if line["event"] == "start"}
    assert all(abs(begun[cell.key] - skew_s) < 60 for skew_s, ours in cells.items() for cell in ours)
    sending.ingest(store.root)
    lab = Lab(store.root.parent)
    for cell in (cell for cell in every if cell.kind in ("warm_start", "train")):
        wanted = curves(store.done(cell.key) / "spool.jsonl")
        assert wanted
        assert all(lab.points(cell.key, name) == points for name, points in wanted.items())
        assert lab.runs()[cell.key]["status"] == "FINISHED"
