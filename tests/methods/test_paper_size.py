"""Every method at the paper's own sizes: forward and losses on a CUDA device that need not exist.

A read on the host, or an operation across devices, raises there; what is copied there from the host is noticed.
Without gradients: autograd's backward pass asks for a device's context and a fused optimiser for its driver, also
under fakes. Whole steps, backward and optimiser among them, are done under fakes of the CPU in
`tests/training/test_no_sync.py`.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.data.batch import Batch
from pipeline.params import resolve_table
from pipeline.training.method import Progress
from pipeline.training.setting import make_setting
from tests.params import project_params


class Copies(TorchDispatchMode):
    """Notes what takes a tensor of the host and gives one of the device: the host waits for it.

    Where there is a device, fakes of `torch.tensor(…, device="cuda")` may go by unseen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "cpu" in devices(args) and "cuda" in devices(result):
            self.seen.append(str(func))
        return result


def devices(tree: Any) -> set[str]:
    return {one.device.type for one in tree_leaves(tree) if isinstance(one, Tensor)}


@cache
def rows() -> dict[str, dict[str, Any]]:
    """One row of each method and data set at scale `paper`, weights left out."""
    params = project_params("paper")
    found: dict[str, dict[str, Any]] = {}
    for table in ("table_x3", "table_3"):
        for row in resolve_table(params, table):
            found.setdefault(f"{row['dataset']} {row['method']}", row | {"model": row["model"] | {"weights": None}})
    return found


def batch_of(row: dict[str, Any]) -> Batch:
    """Images of the paper's batch and crop, on the device that need not exist."""
    training, num_classes = row["training"], row["data"]["num_classes"]
    labelled, unlabelled, crop = (training[key] for key in ("labelled_batch", "unlabelled_batch", "crop"))
    with torch.device("cuda"):
        return Batch(
            labelled=torch.randn(labelled, 3, crop, crop),
            mask=torch.randint(num_classes, (labelled, crop, crop)),
            unlabelled=torch.randn(unlabelled, 3, crop, crop),
            valid=torch.ones(unlabelled, crop, crop, dtype=torch.bool),
            presence=torch.ones(unlabelled, num_classes, dtype=torch.bool),
        )


@pytest.mark.slow
@pytest.mark.parametrize("which", sorted(rows()))
def test_forward_and_losses_run_on_the_device_at_the_papers_sizes(tiny: Any, which: str) -> None:
    row = rows()[which]
    module = importlib.import_module(f"pipeline.methods.{row['method']}")
    method = module.Method(make_setting(row), module.Parameters(**row["parameters"])).train()
    method.begin()
    total = row["training"]["epochs"]
    with FakeTensorMode() as mode, torch.no_grad(), Copies() as copies:
        tiny.pretend_cuda(method, mode)
        copies.seen.clear()
        batch = batch_of(row)
        assert batch.labelled.shape[-1] == {"voc_blender": 513, "cityscapes": 769}[row["dataset"]]
        values = method.losses(batch, Progress(total - 1, total, total - 1, total))
        method.after_step(total - 1)
    assert values
    assert copies.seen == []
    assert all(value.device.type == "cuda" and value.dtype == torch.float32 for value in values.values())
