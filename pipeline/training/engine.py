"""The one training loop. A method says what the loss of a batch is; everything else is here.

A run is a pure function of its cell: the batch of a step, and torch's random state before it, follow from (seed,
step) alone. So a resumed run continues to the last bit with nothing but networks, optimiser and step count saved.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.loader import Batches
from pipeline.data.open import open_batches, open_validation
from pipeline.data.samples import Samples
from pipeline.evaluation.cell import measure
from pipeline.spool import Spool
from pipeline.training import ranks
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.cost import begin_peak, count_step, peak_memory_mib
from pipeline.training.execution import prepare
from pipeline.training.method import Method, Progress
from pipeline.training.probe import open_probe, probe
from pipeline.training.schedule import poly
from pipeline.training.setting import build_optimiser, make_setting
from pipeline.training.warm_start import WarmStart, load_warm_start, warm_start_state

LOG_EVERY_STEPS = 10
CHECKPOINT_S = 60.0
SAVING_SHARE = 0.02
"""Seconds between checkpoints, more where saving would take a larger share of the time. They change no result."""


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop; its checkpoint is saved and it goes on from there."""


@dataclass
class Run:
    """One cell under way: what is trained, on what, and what was seen so far."""

    method: Method
    optimiser: torch.optim.Optimizer
    batches: Batches
    validation: Samples | None
    probe: Samples | None
    values: dict[str, Any]
    first_step: int
    last_step: int
    total_steps: int
    step: int
    trained_s: float = 0.0
    history: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> dict[str, Any]:
        """The schedule's block of the cell."""
        return self.values["training"]

    @property
    def steps_per_epoch(self) -> int:
        """How many steps count as an epoch: as many as the schedule says, else one pass over the list."""
        return self.training["steps_per_epoch"] or self.batches.steps_per_epoch

    @property
    def progress(self) -> Progress:
        """Where the run stands before its next step."""
        epoch, epochs = self.step // self.steps_per_epoch, self.training["epochs"]
        return Progress(self.step, self.total_steps, epoch, epochs, self.first_step)


def train_cell(
    cell: Any, work: Path, *, data_root: Path, upstream: list[Path], stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train a `warm_start` or `train` cell in its work folder, from its checkpoint if there is one.

    Writes `weights.pt` there and returns the result record: state `done` or `diverged`, steps, seconds, best epoch.
    Raises Interrupted after saving where `stop()` became true. Of several ranks each calls it, all but the first with
    a work folder nobody looks at.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    begin_peak(device)
    run = start_run(cell, data_root, upstream=upstream, device=device)
    checkpoint, spool = work / "checkpoint.pt", Spool(work / "spool.jsonl")
    saved = ranks.from_first_rank(lambda: checkpoint.resolve() if checkpoint.exists() else None)
    if saved is not None:
        _resume(run, load_checkpoint(saved, cell.key))
    diverged = _loop(run, spool, save=lambda: _checkpoint(run, cell.key, path=checkpoint, spool=spool), stop=stop)
    if diverged and cell.kind == "train" and not run.snapshots:
        _evaluate(run, spool)  # nothing finite was ever measured: what stands is what the broken networks say
    spool.sync()
    if cell.kind == "warm_start":
        state = warm_start_state(run.method.networks()[0], run.optimiser)
        _save(work / "weights.pt", state | {"steps": run.step})
    else:
        _save(work / "weights.pt", run.snapshots)
    ended: dict[str, Any] = {"state": "done"} if diverged is None else {"state": "diverged", "diverged": diverged}
    cost = {"train_s": round(run.trained_s, 2), "peak_memory_mib": peak_memory_mib(device)}
    return ended | {"steps": run.step} | cost | run.history


def start_run(cell: Any, data_root: Path, *, upstream: list[Path], device: str) -> Run:
    """Build everything a cell trains, before its first step."""
    values, training = cell.values, cell.values["training"]
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a tenth of a step
    setting = make_setting(values)
    if cell.kind == "warm_start":
        torch.manual_seed(step_seed(values["seed"], -1 - values["initialisation"]))
        method: Method = WarmStart(setting, values["representation"]).to(device)
        validation, probed = None, None
    else:
        torch.manual_seed(step_seed(values["seed"], -1))
        module = importlib.import_module(f"pipeline.methods.{values['method']}")
        method = module.Method(setting, module.Parameters(**values["parameters"])).to(device)
        validation, probed = open_validation(values, data_root), open_probe(values, data_root)
    place = {"rank": ranks.rank(), "ranks": ranks.size()}
    batches = open_batches(values, data_root, device=device, reads=method.reads, **place)
    steps_per_epoch = training["steps_per_epoch"] or batches.steps_per_epoch
    warm_steps, total_steps = (training[key] * steps_per_epoch for key in ("warm_start_epochs", "epochs"))
    first, last = (warm_steps if upstream else 0), (warm_steps if cell.kind == "warm_start" else total_steps)
    if training["channels_last"]:
        method = method.to(memory_format=torch.channels_last)
    if ranks.size() > 1:
        ranks.spread(method)
    prepare(method, training)
    optimiser = build_optimiser(method, training)
    if upstream:
        load_warm_start(
            method, optimiser, states=[load_checkpoint(folder / "weights.pt", device=device) for folder in upstream]
        )
    if cell.kind == "train":
        method.begin()
    return Run(method, optimiser, batches, validation, probed, values, first, last, total_steps, step=first)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of torch's generators before a step, on every rank: a well-mixed function of its arguments."""
    value = (seed * 1_000_003 + step) * 1_000_003
    value = (value ^ (value >> 31)) * 0x9E3779B97F4A7C15
    return (value ^ (value >> 29)) & 0x7FFF_FFFF_FFFF_FFFF


def _loop(run: Run, spool: Spool, *, save: Callable[[], None], stop: Callable[[], bool]) -> dict[str, Any] | None:
    """Train to the last step; return where the loss ceased to be finite, or None."""
    last, pending, due = run.last_step, [], time.monotonic() + CHECKPOINT_S
    while run.step < last:
        began = time.monotonic()
        pending.append(_counted_step(run) if run.step == run.first_step else train_step(run))
        run.step += 1
        epoch_ends = run.step % run.steps_per_epoch == 0
        if epoch_ends or run.step == last or len(pending) == LOG_EVERY_STEPS:
            diverged = _log(run, spool, pending=pending)
            if diverged:
                return diverged
            pending = []
        if run.probe is not None and (epoch_ends or run.step == last):
            spool.append(run.step, probe(run.method.deployed, run.probe, values=run.values))
        if run.validation is not None and (run.step == last or (epoch_ends and _evaluation_due(run))):
            _evaluate(run, spool)
        run.trained_s += time.monotonic() - began
        if pending or run.step == last:
            continue
        stopping = ranks.any_rank(stop())
        if stopping or time.monotonic() > due:
            began = time.monotonic()
            save()
            due = time.monotonic() + max(CHECKPOINT_S, (time.monotonic() - began) / SAVING_SHARE)
        if stopping:
            raise Interrupted
    return None


def _counted_step(run: Run) -> dict[str, Tensor]:
    """Do the first step and note what each step costs, all ranks together."""
    losses, units = count_step(lambda: train_step(run), run.values)
    run.history["cost_units"] = units * ranks.size()
    return losses


def train_step(run: Run) -> dict[str, Tensor]:
    """Do one step and return its losses, detached, on the device."""
    training = run.training
    lr = training["lr"] * training["lr_factor"] * poly(run.step, run.total_steps, power=training["power"])
    for group in run.optimiser.param_groups:
        group["lr"] = lr * group["lr_factor"]
    batch = ranks.whole_batch(run.batches(run.step))
    torch.manual_seed(step_seed(run.values["seed"], run.step))
    run.method.train()
    run.optimiser.zero_grad(set_to_none=True)  # before the forward, which then has their memory
    parts = [backward(run.method, part, run=run) for part in batch.parts(training["accumulate"])]
    ranks.average_gradients(run.method)
    run.optimiser.step()
    run.method.after_step(run.step - run.first_step)
    return {name: torch.stack([losses[name] for losses in parts]).sum(dim=0) for name in parts[0]}


def backward(method: Method, batch: Batch, *, run: Run) -> dict[str, Tensor]:
    """Add a batch's gradient to the parameters' and return its losses, detached: both over the batches of a step.

    With several (`accumulate`) batch norm, percentiles, OHEM, mixing and random draws are each batch's own, and what a
    method keeps of the batches it saw, such as AEL's confidences, moves with each.
    """
    training = run.training
    precision = torch.autocast(batch.labelled.device.type, torch.bfloat16, enabled=training["precision"] == "bfloat16")
    with precision, ranks.spreading():
        losses = method.losses(batch, run.progress)
    losses = {name: loss / training["accumulate"] for name, loss in losses.items()}
    torch.stack(list(losses.values())).sum().backward()
    return {name: loss.detach() for name, loss in losses.items()}


def _log(run: Run, spool: Spool, *, pending: list[dict[str, Tensor]]) -> dict[str, Any] | None:
    """Read the last steps' losses in one transfer, spool their mean, and say where they ceased to be finite."""
    names = list(pending[0])
    table = torch.stack([torch.stack([losses[name].float() for name in names]) for losses in pending]).tolist()
    first = run.step - len(pending)
    for offset, losses in enumerate(table):
        if not all(map(math.isfinite, losses)):
            return {
                "step": first + offset,
                "losses": {name: str(value) for name, value in zip(names, losses, strict=True)},
            }
    means = {
        f"loss/{name}": sum(column) / len(table) for name, column in zip(names, zip(*table, strict=True), strict=True)
    }
    group = run.optimiser.param_groups[0]
    means["lr"] = group["lr"] / group["lr_factor"]
    monitors = run.method.monitors()
    if monitors:
        means |= zip(monitors, torch.stack([value.float() for value in monitors.values()]).tolist(), strict=True)
    spool.append(run.step, means)
    if run.step % run.steps_per_epoch == 0:
        print(f"step {run.step} of {run.last_step}:", ", ".join(f"{name} {value:.4g}" for name, value in means.items()))
    return None


def _evaluation_due(run: Run) -> bool:
    return (run.step // run.steps_per_epoch) % run.training["evaluate_every_epochs"] == 0


def _evaluate(run: Run, spool: Spool) -> None:
    """Measure every predictor on val and keep the networks, if the deployed one is the best so far."""
    assert run.validation is not None
    predictors = run.method.predictors()
    device = next(run.method.parameters()).device
    measured = measure(predictors, run.validation, values=run.values, device=str(device), selecting=True)
    select = run.values["evaluation"]["select"]
    scores: dict[str, Any] = {name: measured[name][select]["miou"] for name in predictors}
    spool.append(run.step, {f"val/{name}_miou": score for name, score in scores.items()})
    print(f"step {run.step}: mIoU", ", ".join(f"{name} {score:.2f} %" for name, score in scores.items()))
    weights = {
        name: {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
        for name, network in predictors.items()
    }
    run.snapshots["last"] = weights
    deployed = scores[list(predictors)[-1]]
    if deployed > run.history.get("best_miou", -math.inf):
        epoch = run.step // run.steps_per_epoch
        run.history |= {"best_miou": deployed, "best_epoch": epoch, "best_step": run.step}
        run.snapshots["best"] = weights


def _checkpoint(run: Run, key: str, *, path: Path, spool: Spool) -> None:
    spool.sync()
    state = {
        "key": key,
        "step": run.step,
        "trained_s": run.trained_s,
        "method": run.method.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "history": run.history,
        "snapshots": run.snapshots,
    }
    _save(path, state)


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write what the first rank has; the others have the same, and nobody looks at their folders."""
    if ranks.rank() == 0:
        save_checkpoint(path, state)


def _resume(run: Run, state: dict[str, Any]) -> None:
    run.method.load_state_dict(state["method"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.step, run.trained_s = state["step"], state["trained_s"]
    run.history, run.snapshots = state["history"], state["snapshots"]
