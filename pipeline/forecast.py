"""What a scale will cost before any of it runs: operations, memory and GPU-hours of its cells, counted without a GPU.

A step of every kind of cell is done once on fake tensors, which have shapes and no values. Operations are those of
convolutions and matrix products; memory is all tensors alive at once, so it lacks the libraries' workspaces and the
allocator's waste, and it is of one process that holds the whole batch.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pipeline.cell import digest
from pipeline.data.batch import Batch
from pipeline.labels import PUBLISHED_COUNTS, TRAINING_IMAGES
from pipeline.store import read_json
from pipeline.training.engine import Run, train_step
from pipeline.training.setting import build_optimiser, make_setting


@dataclass(frozen=True)
class StepCost:
    """One training step: multiplications and additions, and the most bytes of tensors that live at once."""

    flop: int
    peak_bytes: int


@dataclass(frozen=True)
class Forecast:
    """The trainings that a table adds to those before it. `peak_bytes` is the largest step's."""

    table: str
    trainings: int
    steps: int
    flop: float
    peak_bytes: int


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


def step_cost(row: dict[str, Any]) -> StepCost:
    """Return what one step of a resolved row costs at its true sizes: forward, backward, optimiser, teacher."""
    mode = FakeTensorMode()
    run = synthetic_run(row, mode)
    known = [*run.method.parameters(), *run.method.buffers(), *vars(run.batches(run.step)).values()]
    with mode, FlopCounterMode(display=False) as counter, LiveBytes(known) as memory:
        for _ in range(2):  # the optimiser's own state lives from the first step on
            train_step(run)
    return StepCost(counter.get_total_flops() // 2, memory.peak)


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
    if mode is not None:
        _pretend(method, mode)
    with mode or contextlib.nullcontext():
        batches: Any = OneBatch(random_batch(training, row["data"]["num_classes"]))
    last = training["epochs"]
    return Run(method, build_optimiser(method, training), batches, None, values, 0, last, last, step=last - 1)


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


def num_steps(row: dict[str, Any], data_root: Path | None = None) -> int:
    """Return how many steps a row trains, its warm start included.

    From the sizes of its lists below `data_root`, or before they are there from the published ones. Raises ValueError
    for lists of one's own that are not there, where the schedule needs their sizes.
    """
    training = row["training"]
    if training["steps_per_epoch"]:
        return training["epochs"] * training["steps_per_epoch"]
    labelled, unlabelled = _list_sizes(row, data_root)
    if training["epoch_over"] == "labelled":
        return training["epochs"] * math.ceil(labelled / training["labelled_batch"])
    return training["epochs"] * ((unlabelled or labelled) // training["unlabelled_batch"])


def _list_sizes(row: dict[str, Any], data_root: Path | None) -> tuple[int, int]:
    dataset, partition = row["dataset"], row["partition"]
    summary = data_root and read_json(data_root / "partitions" / dataset / "summary.json")
    if summary:
        sizes = summary["partitions"][partition]
        return sizes["labelled"], sizes["unlabelled"]
    if dataset not in PUBLISHED_COUNTS:
        raise ValueError(f"the lists of {dataset} are not there yet, and nobody published their sizes")
    labelled = PUBLISHED_COUNTS[dataset][partition]
    return labelled, TRAINING_IMAGES[dataset] - labelled


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
        steps, flop, peak = 0, 0.0, 0
        for row in rows.values():
            kind = digest([row[part] for part in ("method", "model", "training", "parameters", "data")])
            if kind not in costs:
                costs[kind] = step_cost(row)
            num = num_steps(row, data_root)
            steps += num
            flop += num * costs[kind].flop
            peak = max(peak, costs[kind].peak_bytes)
        found.append(Forecast(table, len(rows), steps, flop, peak))
    return found


def total(lines: list[Forecast]) -> Forecast:
    """Return the sum of the lines; the memory is the largest."""
    flop, peak = sum(line.flop for line in lines), max(line.peak_bytes for line in lines)
    return Forecast("all", sum(line.trainings for line in lines), sum(line.steps for line in lines), flop, peak)
