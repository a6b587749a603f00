"""SGD with momentum goes on from a warm start, also where parts of the method had no gradient in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.test_loop_record import cells_of, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ("cct", {"warm_start_epochs": 1}),
        ("pc2seg", {"warm_start_epochs": 1}),
        ("pseudoseg", {"warm_start_epochs": 1}),
        ("u2pl", {"warm_start_epochs": 1}),
        ("u2pl_ael", {"warm_start_epochs": 1}),
        ("u2pl_ael", {"warm_start_epochs": 0}),  # its contrast begins in a later epoch
    ],
    ids=str,
)
def test_what_learns_later_than_the_rest_of_its_group_is_trained(
    method: str, training: dict[str, Any], tmp_path: Path, data_root: Path
) -> None:
    for cell in cells_of(method, 0, **training)[:-1]:
        assert train(cell, tmp_path, data_root=data_root)["state"] == "done"
