"""DVC's own order of the stages: all data come before the first cell stage, which submits the cells of all tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro

PROJECT = Path(__file__).parents[2]
DATA, CELL_STAGES = ("download", "partitions"), ("warm_start", "train", "evaluate", "reliability")
KEYS_NEED = (*DATA, "cells")


@pytest.mark.parametrize("path", ["dvc.yaml", *(f"reports/{name}/dvc.yaml" for name in ("extra", "coco", "own"))])
def test_data_and_cells_precede_the_first_cell_stage(path: str) -> None:
    with Repo(str(PROJECT)) as repo:
        wanted = [stage for stage in repo.index.stages if stage.path_in_repo == path]
        order = [stage.name.split("@")[0] for stage in plan_repro(repo.index.graph, wanted)]
    places = {name: [place for place, found in enumerate(order) if found == name] for name in set(order)}
    before = [place for name in KEYS_NEED for place in places.get(name, [])]
    cells = [place for name in CELL_STAGES for place in places.get(name, [])]
    assert before
    assert cells
    assert max(before) < min(cells)
