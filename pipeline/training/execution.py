"""How networks are executed, whatever they compute: blocks recomputed in the backward pass, parts compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.segnet import SegNet
from pipeline.training import ranks
from pipeline.training.method import Method


def prepare(method: Method, training: dict[str, Any]) -> None:
    """Apply `recompute` to the networks that learn and `compile` to all of a method's networks."""
    if training["recompute"]:
        for network in method.networks():
            recompute_blocks(network)
    if training["compile"]:
        for network in [module for module in method.modules() if isinstance(module, SegNet)]:
            compile_parts(network)


def recompute_blocks(network: SegNet) -> None:
    """Keep the input of each block of the encoder alone; what is inside is computed again in the backward pass.

    Losses and gradients are the same to the last bit, and so are the statistics of batch norms, which are not
    followed a second time.
    """
    for block in blocks_of(network.encoder):
        block.forward = partial(_recomputed, block, run=block.forward)  # type: ignore[method-assign]


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """Return the composite modules that stand in a row (bottlenecks, inverted residuals), outer rows left out."""
    rows = [module for module in encoder.modules() if isinstance(module, nn.Sequential)]
    members = [member for row in rows for member in row.children()]
    return [
        member for member in members if not isinstance(member, nn.Sequential) and any(True for _ in member.children())
    ]


def _recomputed(block: nn.Module, x: Tensor, *, run: Callable[[Tensor], Tensor]) -> Tensor:
    if not block.training:
        return run(x)
    where = ranks.Spread.at
    return checkpoint(run, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block, where)))


@contextmanager
def _again(block: nn.Module, where: str) -> Iterator[None]:
    """Compute as in the forward pass, by statistics of all ranks' images where it did, but follow none of them."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # without statistics, other tensors would be saved
    ranks.Spread.at, outside = where, ranks.Spread.at
    try:
        yield
    finally:
        ranks.Spread.at = outside
        for norm, momentum, counted in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counted


def compile_parts(network: SegNet) -> None:
    """Let torch.compile make kernels for the encoder, the decoder and each head, when they are first called."""
    for part in (network.encoder, network.decoder, network.classifier, network.represent, network.auxiliary_head):
        if part is not None:
            part.compile()
