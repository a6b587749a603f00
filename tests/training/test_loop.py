"""What the loop does in a step, an epoch and a cell, one thing at a time; test_loop_record.py has the figures."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.cell import Cell
from pipeline.data.batch import Batch
from pipeline.data.open import open_validation
from pipeline.evaluation import cell as evaluation
from pipeline.methods import cutmix
from pipeline.models.segnet import Output
from pipeline.spool import curves
from pipeline.training import engine
from pipeline.training.engine import Run, start_run, step_seed, train_step
from pipeline.training.method import Progress
from pipeline.training.setting import build_optimiser, make_criterion
from tests.training.test_loop_record import cells_of, train

pytestmark = pytest.mark.usefixtures("one_thread")


class Watched(cutmix.Method):
    """CutMix, with a note of all that the loop asks of it."""

    made: ClassVar[list[Watched]] = []

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun: list[bool] = []
        self.seen: list[tuple[Progress, int, bool, bool]] = []
        self.stepped: list[int] = []
        self.made.append(self)

    def begin(self) -> None:
        """Note whether the teacher was the student before and is it afterwards."""
        self.begun = [*self.begun, same(self.teacher.net, self.student)]
        super().begin()

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Note the progress, torch's seed, and the modes."""
        self.seen.append((progress, torch.initial_seed(), self.student.training, self.teacher.net.training))
        return super().losses(batch, progress)

    def after_step(self, step: int) -> None:
        """Note the step."""
        self.stepped.append(step)
        super().after_step(step)


def same(left: nn.Module, right: nn.Module) -> bool:
    states = left.state_dict(), right.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """The methods of cells of CutMix, as they are made."""
    Watched.made.clear()
    monkeypatch.setattr(cutmix, "Method", Watched)
    return Watched.made


class Scores:
    """Stands for `measure`: gives a score after another, to the network the method deploys, and notes what it saw."""

    def __init__(self, *scores: float) -> None:
        self.scores, self.left = scores, list(scores)
        self.weights: list[dict[str, Tensor]] = []
        self.selecting: list[bool] = []

    def __call__(self, networks: dict[str, Any], *_: Any, selecting: bool = False, **__: Any) -> dict[str, Any]:
        self.selecting.append(selecting)
        teacher = networks["teacher"].state_dict()
        self.weights.append({name: value.clone() for name, value in teacher.items()})
        score, others = self.left.pop(0), {"padding_background": {"miou": 99.0}}
        return {
            "student": {"padding_ignored": {"miou": 100.0 - score}} | others,
            "teacher": {"padding_ignored": {"miou": score}} | others,
        }


def begun(cell: Cell, folder: Path, data_root: Path) -> Run:
    """The run of a cell before its first step."""
    return start_run(cell, data_root, upstream=[folder / key for key in cell.upstream], device="cpu")


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_group_for_each_factor_has_the_rate_decay_and_momentum_of_the_schedule(
    optimiser: str, tmp_path: Path, data_root: Path
) -> None:
    *_, cell, _ = cells_of("suponly", 0, optimiser=optimiser)
    run = begun(cell, tmp_path, data_root)
    groups = {group["lr_factor"]: group for group in run.optimiser.param_groups}
    assert sorted(groups) == [1, 10]
    network = run.method.student
    assert set(map(id, groups[1]["params"])) == set(map(id, network.encoder.parameters()))
    assert sum(len(group["params"]) for group in groups.values()) == len(list(network.parameters()))
    assert type(run.optimiser).__name__.lower() == optimiser
    for group in groups.values():
        assert group["weight_decay"] == 0.1
        assert "momentum" not in group if optimiser == "adamw" else group["momentum"] == 0.9
    for run.step in (0, 3, 7):
        train_step(run)
        rate = 0.0005 * 2 * (1 - run.step / 8) ** 0.9
        assert [groups[factor]["lr"] for factor in (1, 10)] == pytest.approx([rate, 10 * rate])


def test_what_learns_nothing_is_in_no_group(watched: list[Watched], tmp_path: Path, data_root: Path) -> None:
    *_, cell, _ = cells_of("cutmix", 0, warm_start_epochs=0)
    begun(cell, tmp_path, data_root)
    optimiser = build_optimiser(watched[0], cell.values["training"])
    learning = {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert learning == set(map(id, watched[0].student.parameters()))


def test_a_step_is_weighted_by_the_rate_the_decay_and_the_momentum(tmp_path: Path, data_root: Path) -> None:
    """Two steps on one parameter, by hand: v <- 0.9 v + g + 0.1 w; w <- w - rate v."""
    *_, cell, _ = cells_of("suponly", 0)
    run = begun(cell, tmp_path, data_root)
    weight = run.method.student.classifier[-1].weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for run.step in (0, 1):
        before = expected
        train_step(run)
        assert weight.grad is not None
        velocity = 0.9 * velocity + weight.grad + 0.1 * before
        expected = before - 0.01 * (1 - run.step / 8) ** 0.9 * velocity
        assert torch.allclose(weight, expected, rtol=1e-4, atol=1e-7)


def test_seeds_are_of_seed_and_step() -> None:
    seeds = {step_seed(seed, step) for seed in range(4) for step in range(-2, 50)}
    assert len(seeds) == 4 * 52


def test_torch_is_seeded_before_networks_are_made_and_before_each_step(
    watched: list[Watched], tmp_path: Path, data_root: Path
) -> None:
    networks = []
    for seed in (0, 0, 1):
        *_, cell, _ = cells_of("cutmix", seed, warm_start_epochs=0)
        torch.manual_seed(len(watched))  # whatever it was before
        run = begun(cell, tmp_path, data_root)
        networks.append(copy.deepcopy(run.method.student))
        for run.step in (0, 5):
            train_step(run)
        assert [seen for _, seen, *_ in watched[-1].seen] == [step_seed(seed, 0), step_seed(seed, 5)]
    assert [same(networks[0], network) for network in networks] == [True, True, False]


def test_the_method_is_told_where_it_stands_and_is_in_train_mode(
    watched: list[Watched], tmp_path: Path, data_root: Path
) -> None:
    *warm, cell, _ = cells_of("cutmix", 0)
    train(warm[0], tmp_path, data_root=data_root)
    run = begun(cell, tmp_path, data_root)
    assert (run.first_step, run.last_step, run.step) == (2, 8, 2)
    while run.step < run.last_step:
        run.method.eval()  # as whatever looks at the networks between two steps may leave it
        train_step(run)
        run.step += 1
    seen = watched[0].seen
    assert [progress for progress, *_ in seen] == [Progress(step, 8, step // 2, 4, 2) for step in range(2, 8)]
    assert [modes for _, _, *modes in seen] == [[True, False]] * 6
    assert watched[0].stepped == list(range(6))  # counted from the end of the warm start


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_run_takes_over_the_network_and_the_optimiser_of_its_warm_start(
    optimiser: str, watched: list[Watched], tmp_path: Path, data_root: Path
) -> None:
    *warm, cell, _ = cells_of("cutmix", 0, optimiser=optimiser)
    train(warm[0], tmp_path, data_root=data_root)
    saved = torch.load(tmp_path / warm[0].key / "weights.pt", weights_only=True)
    method = begun(cell, tmp_path, data_root).method
    assert method is watched[0]
    assert watched[0].begun == [False]  # once, and not before the student was loaded
    assert same(watched[0].teacher.net, watched[0].student)
    state = watched[0].student.state_dict()
    assert state.keys() == saved["network"].keys()
    assert all(torch.equal(state[name], value) for name, value in saved["network"].items())
    run = begun(cell, tmp_path, data_root)
    memory = ("momentum_buffer",) if optimiser == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    for name, parameter in run.method.student.named_parameters():
        for part in memory:
            kept = saved["optimiser"][name][part]
            assert torch.equal(run.optimiser.state[parameter][part], kept), f"{name} {part}"
    assert any(kept[memory[-1]].count_nonzero() for kept in saved["optimiser"].values())


@pytest.mark.parametrize(("every", "steps"), [(1, [4, 6, 8, 10]), (2, [4, 8, 10]), (3, [6, 10]), (9, [10])])
def test_networks_are_measured_every_so_many_epochs_and_at_the_end(
    every: int, steps: list[int], tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *warm, cell, _ = cells_of("cutmix", 0, epochs=5, evaluate_every_epochs=every)
    scores = Scores(*range(len(steps)))
    monkeypatch.setattr(engine, "measure", scores)
    monkeypatch.setattr(engine, "open_probe", lambda *_: None)
    for one in (*warm, cell):
        train(one, tmp_path, data_root=data_root)
    seen = curves(tmp_path / cell.key / "spool.jsonl")["val/teacher_miou"]
    assert seen == list(zip(steps, scores.scores, strict=True))
    assert scores.selecting == [True] * len(steps)


@pytest.mark.parametrize(
    ("scores", "best"), [((30, 30, 20, 10), 0), ((10, 20, 20, 15), 1), ((40, 30, 20, 50), 3), ((0, 0, 0, 0), 0)]
)
def test_the_best_epoch_is_the_first_in_which_the_deployed_network_is_best(
    scores: tuple[float, ...], best: int, tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, cell, _ = cells_of("cutmix", 0, warm_start_epochs=0, evaluate_every_epochs=1)
    given = Scores(*scores)
    monkeypatch.setattr(engine, "measure", given)
    result = train(cell, tmp_path, data_root=data_root)
    expected = {"best_miou": scores[best], "best_epoch": best + 1, "best_step": 2 * (best + 1), "steps": 8}
    assert expected.items() <= result.items()
    saved = torch.load(tmp_path / cell.key / "weights.pt", weights_only=True)
    for epoch, number in (("best", best), ("last", 3)):
        weights = saved[epoch]["teacher"]
        assert all(torch.equal(weights[name], value) for name, value in given.weights[number].items())
    assert any(not torch.equal(given.weights[0][name], given.weights[3][name]) for name in given.weights[0])


def test_best_and_last_are_measured_each_with_its_own_weights(tmp_path: Path, data_root: Path) -> None:
    """A network whose last bias is of one class alone says it everywhere."""
    *_, cell, evaluate = cells_of("cutmix", 0, warm_start_epochs=0)
    network = begun(cell, tmp_path, data_root).method.student
    bias = [name for name, _ in network.named_parameters() if name.startswith("classifier.")][-1]
    samples = open_validation(cell.values, data_root)
    present = {int(index) for _, mask in map(samples.__getitem__, range(len(samples))) for index in mask.flat} - {255}
    a, b, c, d, *_ = sorted(present)
    classes = {"best": {"student": a, "teacher": b}, "last": {"student": c, "teacher": d}}
    snapshots: dict[str, Any] = {}
    for epoch, chosen in classes.items():
        snapshots[epoch] = {}
        for name, index in chosen.items():
            state = {key: value.clone() for key, value in network.state_dict().items()}
            state[bias] = 1e6 * functional.one_hot(torch.tensor(index), 21).float()
            snapshots[epoch][name] = state
    torch.save(snapshots, tmp_path / "weights.pt")
    found = evaluation.evaluate_cell(evaluate.values, data_root=data_root, trained=tmp_path)["metrics"]
    for epoch, chosen in classes.items():
        for name, index in chosen.items():
            iou = found[name][epoch]["padding_ignored"]["iou"]
            assert [other for other, value in enumerate(iou) if value] == [index], (epoch, name)


@pytest.mark.parametrize(
    ("select_mode", "selecting", "mode"),
    [("whole", True, "whole"), ("whole", False, "centre"), (None, True, "centre"), (None, False, "centre")],
)
def test_the_best_epoch_is_chosen_in_a_mode_of_its_own(
    select_mode: str | None, selecting: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = cells_of("suponly", 0)[-1].values
    block = values["evaluation"] | {"select_mode": select_mode}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, evaluation, **__: evaluation.mode)
    assert block["mode"] == "centre"
    found: Any = evaluation.measure({}, [], values=values | {"evaluation": block}, device="cpu", selecting=selecting)
    assert found == mode


def test_the_auxiliary_head_has_its_weight_in_the_supervised_loss() -> None:
    training = cells_of("suponly", 0)[0].values["training"]
    torch.manual_seed(0)
    logits, auxiliary, mask = torch.randn(2, 21, 8, 8), torch.randn(2, 21, 4, 4), torch.randint(21, (2, 8, 8))
    criterion = make_criterion(training | {"loss_resolution": "full"})
    output = Output(logits=logits, representation=None, auxiliary=auxiliary)
    upsampled = functional.interpolate(auxiliary, (8, 8), mode="bilinear", align_corners=True)
    expected = functional.cross_entropy(logits, mask) + 0.4 * functional.cross_entropy(upsampled, mask)
    assert torch.allclose(criterion(output, mask), expected, rtol=1e-5)
    assert replace(criterion, auxiliary_weight=0.0)(output, mask) < expected - 0.5
