"""A folder of one's own, with a few masks and images without: every method takes a step on it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.cell import Cell
from pipeline.data.partition import write_partitions
from pipeline.params import resolve_table
from pipeline.training.engine import start_run, train_step
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (PROJECT / "pipeline" / "methods").glob("[a-z]*.py"))
DATA: dict[str, Any] = {
    "name": "own", "source": "mine", "layout": "folder", "num_classes": 4, "family": "seeded", "partition_seed": 0,
    "order": "nested", "absent": "refuse", "train": "images", "fine": "masked", "labelled_from": "masked", "val": 0.25,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (made / "mine" / folder).mkdir(parents=True)
    for number in range(12):
        size = (50 + number, 60)
        image = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(made / "mine" / "images" / f"{number:02}.jpg")
        if number < 4:
            mask = generator.integers(0, 4, size, dtype=np.uint8)
            Image.fromarray(mask).save(made / "mine" / "masks" / f"{number:02}.png")
    write_partitions(DATA | {"path": str(made / "mine")}, "folder", root=made, out=made / "partitions" / "folder")
    return made


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_a_step_where_unlabelled_images_have_no_mask(method: str, root: Path) -> None:
    params = project_params(method=method)
    (row,) = resolve_table(params, "experiment")
    row["parameters"] |= {"image_labels": True} if method == "pseudoseg" else {}
    row["training"]["warm_start_epochs"] = 0
    values = row | {"dataset": "folder", "partition": "full", "data": DATA}
    run = start_run(Cell("train", values, (), "0" * 64), root, upstream=[], device="cpu")
    losses = train_step(run)
    assert losses
    assert all(math.isfinite(float(loss)) for loss in losses.values())
