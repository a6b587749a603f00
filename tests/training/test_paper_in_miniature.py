"""The paper's own schedule, optimiser, criterion, evaluation and variants, on few small images: it runs to its end.

At every other scale AdamW trains; what SGD, OHEM and the auxiliary head do together is met here first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import Cell, chain
from pipeline.evaluation.cell import evaluate_cell
from pipeline.labels import METHOD_LABELS
from pipeline.params import load_params, resolve_table
from pipeline.spool import curves
from tests.params import FILE, project_params
from tests.training.test_loop_record import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
SMALL = {"labelled_batch": 2, "unlabelled_batch": 2, "crop": 48, "epochs": 3, "steps_per_epoch": 2}
VARIANTS = [
    (name, variant)
    for name, block in load_params(FILE)["methods"].items()
    for variant in block.get("variants", {})
    if variant.startswith(("official", "released"))
]


def cells_of(method: str, dataset: str, variant: str = "default") -> list[Cell]:
    """The chain of a row of scale `paper`, with the images and the network of scale `smoke` in the place of its own."""
    where = {"dataset": dataset, "partition": "1-4", "method": method, "variant": variant}
    (row,) = resolve_table(project_params("paper", **where), "experiment")
    (small,) = resolve_table(project_params("smoke", **where | {"variant": "default"}), "experiment")
    kept = {name: row["model"][name] for name in ("output_stride", "aspp_rates", "auxiliary", "dropout")}
    schedule = SMALL | {"warm_start_epochs": min(row["training"]["warm_start_epochs"], 1), "ohem_min_kept": 100}
    row |= {"data": small["data"], "model": small["model"] | kept, "training": row["training"] | schedule}
    row["evaluation"] |= {"size": row["evaluation"]["size"] and 48}
    if "contrast_start_epoch" in row["parameters"]:
        row["parameters"]["contrast_start_epoch"] = 2
    return chain(row)


def run(cells: list[Cell], folder: Path, data_root: Path) -> dict[str, Any]:
    *trained, evaluation = cells
    for cell in trained:
        assert train(cell, folder, data_root=data_root)["state"] == "done"
    last = folder / trained[-1].key
    assert all(
        step > 0 for name, points in curves(last / "spool.jsonl").items() for step, _ in points if "loss/" in name
    )
    return evaluate_cell(evaluation.values, data_root=data_root, trained=last)


@pytest.mark.parametrize("dataset", ["voc_blender", "cityscapes"])
@pytest.mark.parametrize("method", METHOD_LABELS)
def test_a_row_of_every_method_is_trained_and_measured(
    method: str, dataset: str, tmp_path: Path, data_root: Path
) -> None:
    result = run(cells_of(method, dataset), tmp_path, data_root)
    assert result["state"] == "done"
    assert all(0 <= figure["miou"] <= 100 for figure in _figures(result["metrics"]))  # and no NaN


@pytest.mark.parametrize(("method", "variant"), VARIANTS)
def test_the_authors_own_settings_are_trained_and_measured(
    method: str, variant: str, tmp_path: Path, data_root: Path
) -> None:
    dataset = "cityscapes" if variant.endswith("cityscapes") else "voc_blender"
    assert run(cells_of(method, dataset, variant), tmp_path, data_root)["state"] == "done"


def _figures(metrics: Any) -> list[dict[str, Any]]:
    if "miou" in metrics:
        return [metrics]
    return [figure for inner in metrics.values() for figure in _figures(inner)]
