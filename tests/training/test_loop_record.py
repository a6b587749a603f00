"""Whole cells, by the loop that trains them, against the figures on record: where they change, results change.

tests/methods/test_golden.py holds the losses that a method gives a loop of its own; here the loop is the product's:
its learning rates and groups, its optimiser, seeds, warm start, auxiliary head, and when it measures. A change that
is meant to change them rewrites the record, and says so in its commit:

    PYTHONPATH=. python tests/training/test_loop_record.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cell import Cell, chain
from pipeline.params import resolve_table
from pipeline.spool import curves
from pipeline.training import engine
from pipeline.training.engine import train_cell
from tests.params import project_params

RECORD = Path(__file__).with_name("loop.json")
pytestmark = pytest.mark.usefixtures("one_thread")
WARM_START_EPOCHS = {"suponly": 0, "cutmix": 1, "u2pl": 0}
CASES = [(method, seed) for method in WARM_START_EPOCHS for seed in (0, 1)]
TRAINING: dict[str, Any] = {
    "unlabelled_batch": 2,
    "crop": 32,
    "epochs": 4,
    "epoch_over": "unlabelled",
    "steps_per_epoch": 2,
    "optimiser": "sgd",
    "lr": 0.0005,
    "lr_factor": 2,
    "head_lr_factor": 10,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "power": 0.9,
    "auxiliary_weight": 0.4,
    "precision": "float32",
    "evaluate_every_epochs": 2,
}
"""Every value differs from the one that would hide it: a factor from 1, a decay from 0, an interval from 1."""

KEPT = ("loss/", "lr", "val/")
LOSSES = 3e-3
"""Relative. Other CPUs round otherwise, which eight steps let grow to 1e-3 where a maximum goes the other way."""

MIOU = 0.5
"""Absolute, in percent: a pixel whose two best classes are all but equal goes either way."""


def cells_of(method: str, seed: int, **training: Any) -> list[Cell]:
    """The chain of a tiny cell with an auxiliary head, by default of four epochs of two steps."""
    (row,) = resolve_table(project_params(method=method, seed=seed), "experiment")
    row["training"] |= TRAINING | {"warm_start_epochs": WARM_START_EPOCHS.get(method, 1)} | training
    row["model"] |= {"auxiliary": True}
    row["evaluation"] |= {"precision": "float32"}
    return chain(row)


def train(cell: Cell, folder: Path, *, data_root: Path) -> dict[str, Any]:
    """Train a cell in its own folder below `folder`, where those before it are, and return its result."""
    work = folder / cell.key
    work.mkdir()
    upstream = [folder / key for key in cell.upstream]
    return train_cell(cell, work, data_root=data_root, upstream=upstream, stop=lambda: False)


def figures(cells: list[Cell], folder: Path, *, data_root: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Train a chain and return the curves of each of its cells: name -> [[step, value]]."""
    found = {}
    for cell in cells[:-1]:
        train(cell, folder, data_root=data_root)
        read = curves(folder / cell.key / "spool.jsonl")
        found[cell.kind] = {name: [list(point) for point in read[name]] for name in read if name.startswith(KEPT)}
    return found


@pytest.mark.parametrize(("method", "seed"), CASES)
def test_a_cell_gives_the_figures_on_record(
    method: str, seed: int, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads(RECORD.read_text(encoding="utf-8"))[f"{method} {seed}"]
    monkeypatch.setattr(engine, "LOG_EVERY_STEPS", 1)
    found = figures(cells_of(method, seed), tmp_path, data_root=data_root)
    assert found.keys() == expected.keys()
    for kind, recorded in expected.items():
        assert found[kind].keys() == recorded.keys()
        for name, points in recorded.items():
            tolerance = {"abs": MIOU} if name.startswith("val/") else {"rel": LOSSES, "abs": 1e-7}
            assert [step for step, _ in found[kind][name]] == [step for step, _ in points], f"{kind} {name}"
            values = [value for _, value in found[kind][name]]
            assert values == pytest.approx([value for _, value in points], **tolerance), f"{kind} {name}"


def test_the_figures_on_record_are_of_two_seeds_that_differ() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    for method in WARM_START_EPOCHS:
        one, other = (record[f"{method} {seed}"]["train"] for seed in (0, 1))
        assert one["lr"] == other["lr"]
        first, second = (losses["loss/supervised"][0][1] for losses in (one, other))
        assert first != pytest.approx(second, rel=3 * LOSSES)


def rewrite() -> None:
    """Write the figures of all cases into the record."""
    from tests.conftest import make_data

    engine.LOG_EVERY_STEPS = 1
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, record = make_data(Path(folder) / "data"), {}
        for method, seed in CASES:
            work = Path(folder) / f"{method}{seed}"
            work.mkdir()
            record[f"{method} {seed}"] = figures(cells_of(method, seed), work, data_root=root)
    rounded = json.loads(json.dumps(record), parse_float=lambda text: round(float(text), 7))
    RECORD.write_text(json.dumps(rounded, sort_keys=True).replace('{"', '{\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite()
