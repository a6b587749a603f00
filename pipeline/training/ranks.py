"""One cell on several GPUs: networks see each rank's share of the batch, losses see all of it.

Every rank runs the same cell. In a training step a network called with the whole batch takes this rank's images alone
and its outputs are gathered, so that each rank computes the losses of the whole batch: percentiles, queues, prototypes
and random draws are those of one process, and no method knows of ranks. Batch norms use the statistics of all ranks and
dropout masks are drawn for the whole batch, so a loss does not depend on the number of ranks but by rounding. What is
outside the networks is computed on every rank alike.

Gradients: outside the networks every rank has the gradient that one process has. What flows back into a rank's share
is multiplied by the number of ranks, and `average_gradients` takes the mean: a parameter used on shares gets the sum of
its parts, one used on the whole batch what one process gives it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function

from pipeline.data.batch import Batch
from pipeline.models.segnet import Output, SegNet

WAIT = timedelta(days=30)
"""How long a rank waits for the first one to find work; SLURM's own time limit comes before."""


class Spread:
    """Where a step stands: `whole` outside the networks, `share` inside one, `off` everywhere else."""

    at: ClassVar[str] = "off"
    control: ClassVar[Any] = None  # a group on CPUs for words between ranks


def size() -> int:
    """Return how many ranks run this cell."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Return the number of this process among the ranks of its cell."""
    return distributed.get_rank() if size() > 1 else 0


def join() -> None:
    """Join the other ranks of this job, which the environment names as torch expects it (RANK, WORLD_SIZE, …)."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    Spread.control = distributed.new_group(backend="gloo", timeout=WAIT)
    found: list[Any] = [None] * size()
    distributed.all_gather_object(found, processor(), group=Spread.control)
    if len(set(found)) > 1:
        raise RuntimeError(
            f"the ranks have {', '.join(sorted(set(found)))}, which draw other random numbers from one seed; all must"
            " have the same: a constraint such as [a100|h100] in slurm/<site>.yaml chooses one kind"
        )


def processor() -> str:
    """Return what this rank computes on: its GPU's name, or CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def from_first_rank(make: Callable[[], Any]) -> Any:
    """Return what `make()` gives on the first rank; it is called there alone."""
    if size() == 1:
        return make()
    said = [make() if rank() == 0 else None]
    distributed.broadcast_object_list(said, src=0, group=Spread.control)
    return said[0]


def any_rank(flag: bool) -> bool:
    """Return whether any rank says so; all must ask."""
    if size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    distributed.all_reduce(votes, distributed.ReduceOp.MAX, group=Spread.control)
    return bool(votes.item())


def spread(method: nn.Module) -> None:
    """Let a method's networks work on shares of the batch. Raises ValueError where one has layers that cannot."""
    for network in [module for module in method.modules() if isinstance(module, SegNet)]:
        for name, layer in network.named_modules():
            if type(layer) in SPREADABLE:
                layer.__class__ = SPREADABLE[type(layer)]
            elif isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
                raise ValueError(f"{name} is a {type(layer).__name__}, which cannot work on shares: use one rank")
        network.__class__ = SpreadNet


@contextlib.contextmanager
def spreading() -> Iterator[None]:
    """Let networks work on shares for one training step; nothing changes with one rank."""
    Spread.at = "whole" if size() > 1 else "off"
    try:
        yield
    finally:
        Spread.at = "off"


def whole_batch(part: Batch) -> Batch:
    """Return the batch of all ranks from this rank's part."""
    if size() == 1:
        return part
    gathered = {}
    for field in fields(part):
        value = getattr(part, field.name)
        wire = value.to(torch.uint8) if value.dtype == torch.bool else value  # gloo knows no truth values
        gathered[field.name] = _from_all(wire).to(value.dtype)
    return Batch(**gathered)


def average_gradients(module: nn.Module) -> None:
    """Replace each gradient by its mean over the ranks, many at a time."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(old) for part, old in zip(parts, gradients, strict=True)])


def _from_all(part: Tensor) -> Tensor:
    """Return all ranks' parts (n, …) in a row, (R n, …)."""
    whole = part.new_empty(size() * len(part), *part.shape[1:])
    distributed.all_gather_into_tensor(whole, part.contiguous())
    return whole


class _Gather(Function):
    """All ranks' parts (n, …) as one tensor (R n, …), for a loss that every rank computes alike."""

    @staticmethod
    def forward(_context: Any, part: Tensor) -> Tensor:
        return _from_all(part)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return size() * gradient.chunk(size())[rank()]


class _Share(Function):
    """This rank's part (n, …) of a tensor (R n, …) that every rank has."""

    @staticmethod
    def forward(_context: Any, batch: Tensor) -> Tensor:
        return batch.chunk(size())[rank()].clone()

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _from_all(gradient) / size()


class _Statistics(Function):
    """All ranks' rows (1, …) as (R, …), for uses that differ from rank to rank: their gradients are summed."""

    @staticmethod
    def forward(_context: Any, row: Tensor) -> Tensor:
        return _from_all(row)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient[rank()][None]


def _on_share(run: Callable[..., Any], batch: Any, **options: Any) -> Any:
    """Call a part of a network with this rank's images of `batch`, a tensor or a list of them; gather what it gives."""
    if Spread.at != "whole":
        return run(batch, **options)
    Spread.at = "share"
    try:
        made = run([_share(one) for one in batch] if isinstance(batch, list) else _share(batch), **options)
    finally:
        Spread.at = "whole"
    if isinstance(made, Output):
        return Output._make([None if one is None else _Gather.apply(one) for one in made])
    return [_Gather.apply(one) for one in made] if isinstance(made, list) else _Gather.apply(made)


def _share(batch: Tensor) -> Tensor:
    if len(batch) % size():
        raise ValueError(f"a network is given {len(batch)} images, which {size()} ranks cannot share equally")
    return _Share.apply(batch)


class SpreadNet(SegNet):
    """A network that sees this rank's share of the batch; its parts called alone do likewise."""

    def forward(self, image: Tensor, **wanted: bool) -> Output:  # noqa: D102
        return _on_share(super().forward, image, **wanted)

    def predict(self, image: Tensor) -> Tensor:  # noqa: D102
        return _on_share(super().predict, image)

    def features(self, image: Tensor) -> list[Tensor]:  # noqa: D102
        return _on_share(super().features, image)

    def fuse(self, features: list[Tensor]) -> Tensor:  # noqa: D102
        return _on_share(super().fuse, features)

    def classify(self, fused: Tensor) -> Tensor:  # noqa: D102
        return _on_share(super().classify, fused)


class SpreadBatchNorm(nn.BatchNorm2d):
    """Normalises a share with the mean and variance of the whole batch, on CPUs too (nn.SyncBatchNorm cannot)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if Spread.at != "share" or not self.training:
            return super().forward(x)
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        own = torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])  # (2, C)
        means, variances = _Statistics.apply(own[None]).unbind(1)  # (R, C) each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        if self.num_batches_tracked is not None:  # not where a block is computed again for its gradient
            self._follow(mean.detach(), variance.detach(), count=size() * x.numel() // x.shape[1])
        scale = self.weight * (variance + self.eps).rsqrt()
        shifted = values * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
        return shifted.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, *, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)


class SpreadDropout2d(nn.Dropout2d):
    """Draws the channels to drop for the whole batch, as one process does, and takes this rank's."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if Spread.at != "share" or not self.training or self.p == 0:
            return super().forward(x)
        noise = x.new_empty(size() * len(x), x.shape[1], 1, 1).bernoulli_(1 - self.p).div_(1 - self.p)
        return x * noise.chunk(size())[rank()]


SPREADABLE: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SpreadBatchNorm,
    nn.Dropout2d: SpreadDropout2d,
}
"""Layers that mix or draw over the batch -> what takes their place."""
