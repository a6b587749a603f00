"""What a scale will cost before any of it runs: operations, memory and GPU-hours of its cells, counted without a GPU.

A step of every kind of cell is done once on fake tensors, which have shapes and no values. Operations are those of
convolutions and matrix products; memory is all tensors alive at once, so it lacks the libraries' workspaces and the
allocator's waste. Of several ranks each holds its share of what the networks keep for their gradients, and all else,
the losses of the whole batch among it, whole.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cell import digest
from pipeline.commands.measuring import evaluation_flop
from pipeline.commands.steps import num_steps
from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training.engine import Run, train_step
from pipeline.training.execution import prepare
from pipeline.training.setting import build_optimiser, make_setting

RANKS = (1, 2, 4, 8)
"""Of how many GPUs to one cell the memory is given."""

PARTS = ("forward", "predict", "features", "fuse", "classify")
"""What methods call of a network, and ranks share out (`training/ranks.py`)."""


@dataclass(frozen=True)
class StepCost:
    """One training step: multiplications and additions, and the most bytes of tensors that live at once.

    `network_bytes` of these are kept inside networks for the backward pass: ranks share them. `predictors` is how many
    networks are measured.
    """

    flop: int
    peak_bytes: int
    network_bytes: int = 0
    predictors: int = 1

    def rank_bytes(self, ranks: int) -> int:
        """Return the peak of each of several ranks."""
        return self.peak_bytes - self.network_bytes + self.network_bytes // ranks


@dataclass(frozen=True)
class Forecast:
    """The trainings that a table adds to those before it. `peak_bytes` is the largest step's in one process.

    `rank_bytes` are those of each rank where so many hold one cell; `evaluation_flop` is what measuring costs beside.
    """

    table: str
    trainings: int
    steps: int
    flop: float
    peak_bytes: int
    evaluation_flop: float = 0.0
    rank_bytes: dict[int, int] = field(default_factory=dict)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, as long as they live."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        for tensor in known:
            self._see(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._seen:
            self._seen.add(storage)
            weakref.finalize(storage, self._gone, storage.nbytes())
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def _gone(self, num_bytes: int) -> None:
        self.live -= num_bytes


class OneBatch:
    """Every step's batch, in an epoch of one step."""

    steps_per_epoch = 1

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __call__(self, step: int) -> Batch:  # noqa: D102
        return self.batch


class NetworkBytes:
    """Counts the bytes that a method's networks keep beside their outputs when they run with gradients.

    Networks are called whole or in parts; a part that another calls is counted with it, once.
    """

    def __init__(self, method: nn.Module, memory: LiveBytes) -> None:
        self.kept = 0
        self._memory, self._inside = memory, False
        for network in (module for module in method.modules() if isinstance(module, SegNet)):
            for name in PARTS:
                setattr(network, name, self._counted(getattr(network, name)))

    def _counted(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*inputs: Any, **options: Any) -> Any:
            if self._inside or not torch.is_grad_enabled():
                return run(*inputs, **options)
            self._inside, before = True, self._memory.live
            try:
                output = run(*inputs, **options)
            finally:
                self._inside = False
            made = sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
            self.kept += self._memory.live - before - made
            return output

        return counted


def step_cost(row: dict[str, Any]) -> StepCost:
    """Return what one step of a resolved row costs at its true sizes: forward, backward, optimiser, teacher."""
    mode = FakeTensorMode()
    run = synthetic_run(row, mode)
    momenta = [tensor for state in run.optimiser.state.values() for tensor in state.values()]
    known = [*run.method.parameters(), *run.method.buffers(), *vars(run.batches(run.step)).values(), *momenta]
    with mode, LiveBytes(known) as memory:
        with FlopCounterMode(display=False) as counter:
            train_step(run)  # the optimiser's own state lives from here on
        gc.collect()  # of recomputed blocks the counter leaves cycles
        memory.peak, inside = memory.live, NetworkBytes(run.method, memory)
        train_step(run)
    return StepCost(counter.get_total_flops(), memory.peak, inside.kept, len(run.method.predictors()))


def synthetic_run(row: dict[str, Any], mode: FakeTensorMode | None = None) -> Run:
    """Return the run of a resolved row on random images, before its last epoch, when every loss is on.

    An epoch is one step. With a `mode` all tensors are its fakes; to be called outside of it.
    """
    training = row["training"] | {"steps_per_epoch": 1}
    values = row | {"model": row["model"] | {"weights": None}, "training": training}
    module = importlib.import_module(f"pipeline.methods.{row['method']}")
    method = module.Method(make_setting(values), module.Parameters(**row["parameters"])).train()
    method.begin()
    if training["channels_last"]:
        method = method.to(memory_format=torch.channels_last)
    prepare(method, training | {"compile": training["compile"] and mode is None})
    if mode is not None:
        _pretend(method, mode)
    with mode or contextlib.nullcontext():
        read = training if method.reads != "nothing" else training | {"unlabelled_batch": 0}
        batches: Any = OneBatch(random_batch(read, row["data"]["num_classes"]))
    last = training["epochs"]
    return Run(
        method,
        build_optimiser(method, training),
        batches=batches,
        validation=None,
        probe=None,
        values=values,
        first_step=0,
        last_step=last,
        total_steps=last,
        step=last - 1,
    )


def _pretend(method: nn.Module, mode: FakeTensorMode) -> None:
    """Replace every parameter and buffer by a fake one."""
    for module in method.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            fake = nn.Parameter(mode.from_tensor(parameter).detach(), requires_grad=parameter.requires_grad)
            setattr(module, key, fake)
        for key, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, key, mode.from_tensor(buffer))


def random_batch(training: dict[str, Any], num_classes: int) -> Batch:
    """Return images of noise and random labels, all pixels valid, at the sizes of a schedule."""
    labelled, unlabelled, crop = (training[key] for key in ("labelled_batch", "unlabelled_batch", "crop"))
    return Batch(
        labelled=torch.randn(labelled, 3, crop, crop),
        mask=torch.randint(num_classes, (labelled, crop, crop)),
        unlabelled=torch.randn(unlabelled, 3, crop, crop),
        valid=torch.ones(unlabelled, crop, crop, dtype=torch.bool),
        presence=torch.ones(unlabelled, num_classes, dtype=torch.bool),
    )


def forecast(tables: dict[str, list[tuple[str, dict[str, Any]]]], data_root: Path | None = None) -> list[Forecast]:
    """Return the cost of each table's trainings that no table before it has.

    `tables` holds each table's rows behind the keys of their train cells. Shared warm starts are counted with each
    row, so the sum is an upper bound.
    """
    costs: dict[str, StepCost] = {}
    seen: set[str] = set()
    found = []
    for table, keyed in tables.items():
        rows = {key: row for key, row in keyed if key not in seen}
        seen |= set(rows)
        line = Forecast(
            table, len(rows), steps=0, flop=0.0, peak_bytes=0, evaluation_flop=0.0, rank_bytes=dict.fromkeys(RANKS, 0)
        )
        for row in rows.values():
            kind = _kind(row)
            if kind not in costs:
                costs[kind] = step_cost(row)
            line = _with(line, costs[kind], steps=num_steps(row, data_root))
            measuring = evaluation_flop(row, costs[kind].predictors, data_root=data_root)
            line = replace(line, evaluation_flop=line.evaluation_flop + measuring)
        found.append(line)
    return found


def _kind(row: dict[str, Any]) -> str:
    """Return what rows of equal cost have in common: of a rate, weight, threshold only whether it is zero."""

    def sizes(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sizes(inner) for key, inner in value.items() if key not in ("rank_low", "rank_high")}
        return bool(value) if isinstance(value, float) else value

    return digest(
        [row["data"]["num_classes"], *(sizes(row[part]) for part in ("method", "model", "training", "parameters"))]
    )


def _with(line: Forecast, cost: StepCost, *, steps: int) -> Forecast:
    """Add a training to a line."""
    return replace(
        line,
        steps=line.steps + steps,
        flop=line.flop + steps * cost.flop,
        peak_bytes=max(line.peak_bytes, cost.peak_bytes),
        rank_bytes={ranks: max(known, cost.rank_bytes(ranks)) for ranks, known in line.rank_bytes.items()},
    )


def total(lines: list[Forecast]) -> Forecast:
    """Return the sum of the lines; the memory is the largest."""
    return Forecast(
        "all",
        trainings=sum(line.trainings for line in lines),
        steps=sum(line.steps for line in lines),
        flop=sum(line.flop for line in lines),
        peak_bytes=max(line.peak_bytes for line in lines),
        evaluation_flop=sum(line.evaluation_flop for line in lines),
        rank_bytes={ranks: max(line.rank_bytes.get(ranks, 0) for line in lines) for ranks in RANKS},
    )
