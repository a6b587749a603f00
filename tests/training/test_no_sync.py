"""A whole step of the engine under fake tensors, where a read on the host raises; and how many launches it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.commands.forecast import synthetic_run
from pipeline.params import resolve_table
from pipeline.training.engine import train_step
from tests.benchmarks.counting import Tally, count, is_network
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
METHODS = sorted(path.stem for path in (PROJECT / "pipeline" / "methods").glob("[a-z]*.py"))


def row_of(method: str, *, num_classes: int = 21, **changes: Any) -> dict[str, Any]:
    params = project_params(method=method)
    (row,) = resolve_table(params, "experiment")
    parameters = row["parameters"] | changes
    return row | {"parameters": parameters, "data": row["data"] | {"num_classes": num_classes}}


class FlatScatters(TorchDispatchMode):
    """Refuses scatters over several dimensions, for which CUDA, asked for deterministic algorithms, lets the host wait.

    But for those that keep a maximum, which it does as they are.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("scatter", "scatter_", "scatter_add", "scatter_add_"):
            assert args[0].dim() == 1, f"{name} over {args[0].dim()} dimensions"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_nothing_on_the_host_and_scatters_over_one_dimension(method: str) -> None:
    mode = FakeTensorMode()
    run = synthetic_run(row_of(method), mode)
    with mode, FlatScatters():
        losses = train_step(run)
    assert losses


def test_a_scatter_over_two_dimensions_is_refused() -> None:
    rows = torch.rand(2, 3, requires_grad=True)
    with FlatScatters(), pytest.raises(AssertionError, match="over 2 dimensions"):
        rows.gather(1, torch.zeros(2, 1, dtype=torch.int64)).sum().backward()


def test_a_step_that_reads_on_the_host_is_refused() -> None:
    mode = FakeTensorMode()
    run = synthetic_run(row_of("suponly"), mode)
    batch = run.batches(0)
    run.method.after_step = lambda _: float(batch.labelled.sum())  # type: ignore[assignment, return-value]
    with mode, pytest.raises(DataDependentOutputException):
        train_step(run)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["u2pl", "u2pl_ael"])
def test_launches_do_not_depend_on_the_number_of_classes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what the contrast gathers, new features and negatives, some rows at a time: here all at once.

    From VOC's classes on: few classes may enqueue fewer features than there are pixels, which are divided otherwise.
    """
    monkeypatch.setattr("pipeline.training.memory.CPU_BYTES", 2**40)
    few, many = (added(row_of(method, num_classes=num, rank_low=1)) for num in (21, 150))
    assert few.launches == many.launches


def added(row: dict[str, Any]) -> Tally:
    """What a step costs beside its networks."""
    return count(row).total(lambda file: not is_network(file))
