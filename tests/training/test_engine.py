"""The loop: exact resume of every method, shared warm starts, divergence as a result, foreign checkpoints refused."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cell import Cell, chain
from pipeline.evaluation.cell import evaluate_cell
from pipeline.params import resolve_table
from pipeline.spool import curves
from pipeline.training import engine
from pipeline.training.checkpoint import ForeignCheckpointError, load_checkpoint, save_checkpoint
from pipeline.training.engine import Interrupted, train_cell
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (PROJECT / "pipeline" / "methods").glob("*.py") if path.stem != "__init__")

UNLIKE = {"train_s": 0, "peak_memory_mib": 0}
"""Figures that no two runs share."""


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine, "LOG_EVERY_STEPS", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def cells_of(method: str, **training: Any) -> list[Cell]:
    """The chain of one tiny cell: 5 steps an epoch, of which the first is the warm start."""
    (row,) = resolve_table(project_params(method=method), "experiment")
    row["training"] |= {"unlabelled_batch": 6, "crop": 32, "epochs": 3} | training
    if row["training"]["epoch_over"] == "labelled":
        row["training"]["epochs"] *= 2
    return chain(row)


class Runner:
    """Runs chains in a folder, remembering where each cell's result lies."""

    def __init__(self, folder: Path, data_root: Path) -> None:
        self.folder, self.data_root = folder, data_root

    def work(self, cell: Cell) -> Path:
        work = self.folder / cell.key
        work.mkdir(parents=True, exist_ok=True)
        return work

    def train(self, cell: Cell, *, stop_after: int | None = None) -> dict[str, Any]:
        asked = iter(range(10**9))
        upstream = [self.folder / key for key in cell.upstream]
        return train_cell(
            cell,
            self.work(cell),
            data_root=self.data_root,
            upstream=upstream,
            stop=lambda: stop_after is not None and next(asked) >= stop_after,
        )

    def whole(self, cells: list[Cell]) -> dict[str, Any]:
        results = [self.train(cell) for cell in cells if cell.kind != "evaluate"]
        return results[-1]

    def weights(self, cell: Cell) -> dict[str, Any]:
        return torch.load(self.folder / cell.key / "weights.pt", weights_only=True)


def assert_same(left: Any, right: Any) -> None:
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_the_same_bits(method: str, tmp_path: Path, data_root: Path) -> None:
    assert_resumes(cells_of(method), tmp_path, data_root)


@pytest.mark.parametrize("training", [{"recompute": True}, {"accumulate": 2}, {"precision": "float32"}], ids=str)
def test_a_resumed_run_ends_with_the_same_bits_however_it_is_executed(
    training: dict[str, Any], tmp_path: Path, data_root: Path
) -> None:
    cells, plain = (cells_of("u2pl", **one) for one in (training, {}))
    assert cells[1].key != plain[1].key
    assert_resumes(cells, tmp_path, data_root)


def assert_resumes(cells: list[Cell], tmp_path: Path, data_root: Path) -> None:
    """A chain that is interrupted in every cell ends as one that is not."""
    *warm, train, _ = cells
    whole, broken = (Runner(tmp_path / name, data_root) for name in ("whole", "broken"))
    expected = whole.whole([*warm, train])
    for cell in warm:
        with pytest.raises(Interrupted):
            broken.train(cell, stop_after=1)
        broken.train(cell)
    for stop_after in (1, 2):
        with pytest.raises(Interrupted):
            broken.train(train, stop_after=stop_after)
    found = broken.train(train)
    assert_same(whole.weights(train), broken.weights(train))
    assert found | UNLIKE == expected | UNLIKE
    assert curves(whole.work(train) / "spool.jsonl") == curves(broken.work(train) / "spool.jsonl")


def test_the_checkpoint_of_another_cell_is_refused(tmp_path: Path, data_root: Path) -> None:
    cell, other = cells_of("suponly")[0], cells_of("suponly", lr=0.5)[0]
    runner = Runner(tmp_path, data_root)
    with pytest.raises(Interrupted):
        runner.train(other, stop_after=1)
    (runner.work(cell) / "checkpoint.pt").write_bytes((runner.work(other) / "checkpoint.pt").read_bytes())
    with pytest.raises(ForeignCheckpointError, match=f"belongs to cell {other.key}, not to {cell.key}"):
        runner.train(cell)


def test_a_torn_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"key": "k", "tensor": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"checkpoint.pt: torn or no checkpoint .*delete it to start"):
        load_checkpoint(path, "k")


def test_a_kill_while_saving_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"key": "k", "step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_checkpoint(path, {"key": "k", "step": 2})
    assert load_checkpoint(path, "k")["step"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("method", ["suponly", "u2pl", "u2pl_ael"])
def test_a_loss_that_is_not_finite_is_a_result_that_names_step_and_losses(
    tmp_path: Path, data_root: Path, method: str
) -> None:
    broken = {"lr": 1e30, "optimiser": "sgd", "precision": "float32", "warm_start_epochs": 0}
    *_, train, evaluate = cells_of(method, **broken)
    runner = Runner(tmp_path, data_root)
    result = runner.train(train)
    assert result["state"] == "diverged"
    assert result["diverged"]["step"] >= 1
    assert result["diverged"]["losses"]["supervised"] in ("nan", "inf")
    measured = evaluate_cell(evaluate.values, data_root=data_root, trained=runner.work(train))
    assert 0 <= measured["metrics"]["student"]["last"]["padding_ignored"]["miou"] <= 100


def test_methods_with_equal_networks_share_their_warm_start() -> None:
    keys = {method: [cell.key for cell in cells_of(method) if cell.kind == "warm_start"] for method in METHODS}
    assert keys["mean_teacher"] == keys["cutmix"] == keys["unimatch"]
    assert keys["cps"] == keys["gct"]
    assert keys["cps"][0] == keys["cutmix"][0]
    assert keys["u2pl"] == keys["u2pl_ael"] != keys["cutmix"]
    assert keys["suponly"] == []


def test_the_schedule_goes_on_where_the_warm_start_ended(tmp_path: Path, data_root: Path) -> None:
    warm, train, _ = cells_of("cutmix")
    runner = Runner(tmp_path, data_root)
    runner.whole([warm, train])
    first, last = (curves(runner.work(cell) / "spool.jsonl")["lr"] for cell in (warm, train))
    assert first[-1][0] < last[0][0]
    assert first[-1][1] > last[0][1] > last[-1][1]


def test_best_and_last_are_measured_for_student_and_teacher(tmp_path: Path, data_root: Path) -> None:
    warm, train, evaluate = cells_of("cutmix")
    runner = Runner(tmp_path, data_root)
    result = runner.whole([warm, train])
    measured = evaluate_cell(evaluate.values, data_root=data_root, trained=runner.work(train))["metrics"]
    assert set(measured) == {"student", "teacher"}
    assert measured["teacher"]["best"]["padding_ignored"]["miou"] == pytest.approx(result["best_miou"])
    seen = curves(runner.work(train) / "spool.jsonl")
    for name, by_epoch in measured.items():
        points = dict(seen[f"val/{name}_miou"])
        for epoch, at in (("best", result["best_step"]), ("last", result["steps"])):
            assert by_epoch[epoch]["padding_ignored"]["miou"] == pytest.approx(points[at]), (name, epoch)


def test_the_key_of_a_cell_changes_with_what_it_reads_and_with_nothing_else() -> None:
    (row,) = resolve_table(project_params(), "experiment")
    warm, train, evaluate = chain(row)
    renamed = copy.deepcopy(row) | {"table": "table_x9", "row": {"other": "label"}, "column": "?"}
    assert chain(renamed) == [warm, train, evaluate]
    changed = copy.deepcopy(row)
    changed["parameters"]["alpha0"] = 0.3
    assert chain(changed)[0] == warm
    assert chain(changed)[1].key != train.key
    changed["seed"] = 1
    assert chain(changed)[0].key != warm.key


@pytest.mark.parametrize(
    ("method", "least", "most"), [("suponly", 1, 1), ("mean_teacher", 4.95, 5.05), ("cps", 9.9, 10.1), ("u2pl", 6.5, 9)]
)
def test_a_steps_cost_is_that_of_its_forwards_and_backwards(
    tmp_path: Path, data_root: Path, method: str, least: float, most: float
) -> None:
    """Of 2 labelled and 6 unlabelled images a student costs 4, predicting the 6 costs 1; U2PL has a head more."""
    result = Runner(tmp_path, data_root).whole(cells_of(method))
    assert least <= result["cost_units"] <= most
    assert 100 < result["peak_memory_mib"] < 50_000


def test_counting_changes_no_bit(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, plain = (Runner(tmp_path / name, data_root) for name in ("counted", "plain"))
    *_, train, _ = cells = cells_of("u2pl")
    counted.whole(cells)
    monkeypatch.setattr(engine, "count_step", lambda step, values: (step(), 0.0))
    plain.whole(cells)
    assert_same(counted.weights(train), plain.weights(train))
