"""Category-wise queues of negative features (U2PL, Section 3.3): first in, first out, one ring buffer per class.

All state is buffers, so that a resumed run goes on with the very same queues. Features are kept at unit length, since
only their directions are ever compared.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.mixing import random_below

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

CPU_BYTES, ACCELERATOR_BYTES = 2**23, 2**26
"""How much of the features is gathered at a time: what stays in a cache; where launches cost more, fewer of them."""


class MemoryBank(nn.Module):
    """`capacities[c]` features of `channels` values for each class c, allocated once."""

    features: Tensor  # (all capacities + 1, D); the last row takes what is not to be kept
    filled: Tensor  # (C,) int64, how many features a class has
    head: Tensor  # (C,) int64, where its next one goes
    capacity: Tensor  # (C,) int64
    offset: Tensor  # (C,) int64, its first row

    def __init__(self, capacities: list[int], *, channels: int, dtype: str) -> None:
        super().__init__()
        if min(capacities) < 1:
            raise ValueError(f"queue sizes are {capacities}; allowed: positive numbers of features")
        if dtype not in DTYPES:
            raise ValueError(f"queue_dtype is {dtype!r}; allowed: {', '.join(DTYPES)}")
        capacity = torch.tensor(capacities)
        self.register_buffer("features", torch.zeros(sum(capacities) + 1, channels, dtype=DTYPES[dtype]))
        self.register_buffer("filled", torch.zeros_like(capacity))
        self.register_buffer("head", torch.zeros_like(capacity))
        self.register_buffer("capacity", capacity, persistent=False)
        self.register_buffer("offset", capacity.cumsum(0) - capacity, persistent=False)

    @torch.no_grad()
    def enqueue(self, features: Tensor, chosen: Tensor, *, counts: Tensor) -> None:
        """Append to each queue c the first `counts[c]` of the rows `chosen[c]` (C, K) of `features` (n, D).

        The oldest make room. K must not exceed the smallest capacity.
        """
        order = torch.arange(chosen.shape[1], device=chosen.device)
        rows = self.offset[:, None] + (self.head[:, None] + order) % self.capacity[:, None]  # (C, K)
        rows = torch.where(order < counts[:, None], rows, len(self.features) - 1)
        num = rows_at_once(features)
        ahead = chosen.numel() > len(features)  # then each feature is divided once, and not each time it is taken
        if ahead:
            features = self.directions(features, num)
        for source, target in zip(chosen.flatten().split(num), rows.flatten().split(num), strict=True):
            taken = features.index_select(0, source)
            self.features.index_copy_(0, target, taken if ahead else self.directions(taken, num))
        self.features[-1].zero_()
        self.head.copy_((self.head + counts) % self.capacity)
        self.filled.copy_(torch.minimum(self.filled + counts, self.capacity))

    def directions(self, features: Tensor, num: int) -> Tensor:
        """Return features (n, D) at unit length in the bank's precision, `num` rows at a time."""
        found = torch.empty_like(features, dtype=self.features.dtype)
        for part, place in zip(features.split(num), found.split(num), strict=True):
            place.copy_(functional.normalize(part, dim=1))
        return found

    def shares_filled(self) -> dict[str, Tensor]:
        """Return how full each class's queue is, 0-1, as monitors."""
        return {f"queue/class_{index}": share for index, share in enumerate(self.filled / self.capacity)}

    def draw(self, num: int) -> Tensor:
        """Draw `num` rows (C, num) of `features` of each queue, uniformly with replacement; of an empty one, zeros."""
        limits = self.filled[:, None].expand(-1, num)
        rows = self.offset[:, None] + random_below(limits.clamp(min=1))
        return torch.where(limits > 0, rows, len(self.features) - 1)


def rows_at_once(features: Tensor) -> int:
    """Return how many rows of `features` (n, D) are gathered at a time, as float32."""
    room = CPU_BYTES if features.device.type == "cpu" else ACCELERATOR_BYTES
    return max(1, room // (4 * features.shape[1]))
