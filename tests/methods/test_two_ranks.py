"""Two processes give the losses and gradients of one, where that is defined.

It is where no norm sees the batch, each half has as many counted pixels, and nothing is drawn: the supervised loss of
every method, and both losses of Mean Teacher. Percentiles, queues and coins are each process's own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing


def halves(batch: Any) -> list[Any]:
    """Split a batch of four into two of two."""
    fields = [field.name for field in dataclasses.fields(batch)]
    return [type(batch)(**{key: getattr(batch, key)[part] for key in fields}) for part in (slice(0, 2), slice(2, 4))]


def gradients(tiny: Any, name: str, batch: Any) -> tuple[dict[str, float], list[torch.Tensor]]:
    torch.manual_seed(0)
    method = tiny.make_method(name, pointwise=True)
    values = tiny.losses(method, batch)
    tiny.total(values).backward()
    found = [p.grad for p in method.parameters() if p.grad is not None]
    return {key: value.item() for key, value in values.items()}, found


def work(rank: int, cases: dict[str, Any], folder: str) -> None:
    """Do one rank's half of each case; save losses and gradients averaged, as DistributedDataParallel averages them."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    import tiny

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for name, batch in cases.items():
        values, found = gradients(tiny, name, halves(batch)[rank])
        tensors = [torch.tensor(list(values.values())), *found]
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor.div_(2)
        results[name] = tensors
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_give_the_losses_and_gradients_of_one(tiny: Any, tmp_path: Path) -> None:
    """U2PL's ranks get the same images here: each rank's contrast has weight λ_c, whatever their number."""
    batch, half = tiny.make_batch(num=4), tiny.make_batch(num=2)
    twice = type(half)(**{f.name: torch.cat([getattr(half, f.name)] * 2) for f in dataclasses.fields(half)})
    cases = {"suponly": batch, "mean_teacher": batch, "u2pl": twice}
    multiprocessing.spawn(work, args=(cases, str(tmp_path)), nprocs=2)
    results = torch.load(tmp_path / "results.pt")
    for name, whole in (cases | {"u2pl": half}).items():
        values, expected = gradients(tiny, name, whole)
        losses, *found = results[name]
        assert losses.tolist() == pytest.approx(list(values.values()), rel=1e-5)
        for left, right in zip(found, expected, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
