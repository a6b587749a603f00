"""Counting and picking, row by row, by indices into the flattened rows.

Asked for deterministic algorithms, CUDA does a scatter over several dimensions, which the gradient of `gather` is too,
by way of an index for each of them, and has the host wait meanwhile; over a single dimension it does neither.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flat(places: Tensor, length: int) -> Tensor:
    """Return places (R, n) int64 within rows of `length` as places (R n,) in the flattened rows."""
    starts = torch.arange(len(places), device=places.device) * length
    return (places + starts[:, None]).flatten()


def tally(bins: Tensor, num: int, *, weights: Tensor) -> Tensor:
    """Return the summed `weights` (R, n), any dtype, of each of `num` bins in each row of `bins` (R, n): (R, num)."""
    sums = weights.new_zeros(len(bins) * num)
    return sums.index_add_(0, flat(bins, num), weights.flatten()).view(-1, num)


def pick(values: Tensor, places: Tensor) -> Tensor:
    """Return what rows (R, N) hold at `places` (R, n) int64, as `gather` does."""
    return values.flatten().index_select(0, flat(places, values.shape[1])).view_as(places)
