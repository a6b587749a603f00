"""The example sites ask for what the kept plan says a training needs (reports/paper/plan.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cell import chain
from pipeline.cluster.site import resources
from pipeline.commands.forecast import RANKS
from pipeline.params import resolve_table
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
CARD_GIB = 80e9 / 2**30
RESERVE = 1.2  # for workspaces of libraries and the allocator's waste, which the plan does not count
FITS_NOT = {
    "table_3": "GCT on Cityscapes",
}
"""The tables whose largest step fits no card of the examples, and whose step that is, as their comments say."""


def kept_plan() -> dict[str, dict[int, float]]:
    """GiB of each rank by table and number of ranks."""
    lines = [line.split("|")[1:-1] for line in (PROJECT / "reports/paper/plan.md").read_text().splitlines()]
    rows = [[cell.strip() for cell in line] for line in lines if line and line[0].strip().startswith("table_")]
    return {row[0]: dict(zip(RANKS, map(float, row[-len(RANKS) :]), strict=True)) for row in rows}


def most_asked(site: dict[str, Any], table: str) -> float:
    """The GiB of a rank of this table's trainings, for the number of ranks that the site gives them."""
    params, gib = project_params("paper"), kept_plan()[table]
    cells = [chain(row)[-2] for row in resolve_table(params, table)]
    asked = [resources(site, cell) for cell in cells]
    return max(gib[one.get("nodes", 1) * one.get("tasks_per_node", 1)] for one in asked)


@pytest.mark.parametrize("name", ["example", "example_multinode"])
def test_every_training_fits_its_cards_or_the_example_says_which_does_not(name: str) -> None:
    text = (PROJECT / "slurm" / f"{name}.yaml").read_text()
    site = yaml.safe_load(text)
    assert "80 GB" in text
    too_large = {table for table in kept_plan() if RESERVE * most_asked(site, table) > CARD_GIB}
    assert too_large == set(FITS_NOT)
    assert all(method in text for method in FITS_NOT.values())
    assert "recompute" in text
    assert "accumulate" in text
