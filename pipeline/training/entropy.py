"""Which pixels of the unlabelled images are reliable: the entropy percentile of U2PL (Section 3.2, Eqs. 6 and 7)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BAND_ROWS = 16
"""Rows of a band on a CPU, where several passes over few pixels stay in its cache."""


class Reliability(NamedTuple):
    """Masks (B, H, W) bool over the valid pixels. A pixel exactly at the threshold is neither of the first two."""

    reliable: Tensor  # H < γ, the lower 1 - α
    unreliable: Tensor  # H > γ, the upper α
    lowest: Tensor  # H <= the α-th percentile: the most certain α
    threshold: Tensor  # γ, a scalar in nats


def unreliable_share(alpha0: float, epoch_fraction: float, *, dynamic: bool) -> float:
    """Return α_t, 0–1: α_0 (1 - t/T) under dynamic partition adjustment (Eq. 7), else α_0."""
    return alpha0 * (1 - epoch_fraction) if dynamic else alpha0


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """Return -Σ_c p_c log p_c in nats (B, H, W) of the softmax of logits (B, C, H, W). No gradient is kept.

    Band by band on a CPU, image by image elsewhere, where launches cost more: more at a time would at full size be the
    largest thing of a step outside the networks.
    """
    rows = BAND_ROWS if logits.device.type == "cpu" else logits.shape[2]
    bands = [band for image in logits.split(1) for band in image.split(rows, dim=2)]
    return torch.cat([_entropy(band) for band in bands], dim=1).view(len(logits), *logits.shape[2:])


def _entropy(logits: Tensor) -> Tensor:
    # In bits, log2 Σ 2^s - Σ s 2^s / Σ 2^s: powers of 2 take a CPU half as long as those of e, and sums over classes a
    # fraction where the pixels of a class, not the classes of a pixel, lie side by side.
    scores = logits.float().contiguous(memory_format=torch.contiguous_format)  # (B, C, rows, W)
    scores = (scores - scores.amax(dim=1, keepdim=True)).mul_(1 / math.log(2))
    powers = scores.exp2()
    total = powers.sum(dim=1)
    return (total.log2() - powers.mul_(scores).sum(dim=1) / total).mul_(math.log(2))


def reliability(values: Tensor, valid: Tensor, *, share: float) -> Reliability:
    """Divide the valid pixels by their entropy `values` (B, H, W); `share` is α_t, 0–1.

    With nothing to drop (0) every valid pixel is reliable and the threshold is infinite.
    """
    if share == 0:
        nothing = torch.zeros_like(valid)
        return Reliability(valid, nothing, nothing, torch.full((), torch.inf, device=values.device))
    threshold, low = percentiles(values, valid, percents=(100 * (1 - share), 100 * share))
    return Reliability(valid & (values < threshold), valid & (values > threshold), valid & (values <= low), threshold)


def percentiles(values: Tensor, valid: Tensor, *, percents: tuple[float, ...]) -> list[Tensor]:
    """Return percentiles of the valid values, interpolated as `numpy.percentile` does; inf where none is valid.

    Values are float32 and at least 0; below, as rounding leaves entropies, they count as 0. NaN is above all others.
    """
    last = (valid.sum() - 1).clamp(min=0)
    # Scalars, since a list made a tensor on the device would have the host wait for the copy.
    positions = torch.stack([last.double() * (percent / 100) for percent in percents])
    below = positions.floor().long()
    # Invalid values come last, so that no data-dependent shape is needed; abs takes the sign of -0 and of NaN.
    ordered = values.clamp(min=0).abs().masked_fill(~valid, torch.inf)
    low, high = order_statistics(ordered, torch.cat([below, torch.minimum(below + 1, last)])).chunk(2)
    between = torch.lerp(low, high, (positions - below).float())
    return list(torch.where(valid.any(), between, torch.inf))


def order_statistics(values: Tensor, places: Tensor) -> Tensor:
    """Return the values at `places` (K,) int64, counted from 0, of `values` in ascending order; float32, no sign set.

    Non-negative floats are ordered as their bits are. So a count of all upper halves, 16 bits each, finds the upper
    half of each value sought, and a count of the lower halves beside it the rest: exact, and nothing is sorted.
    Accelerators sort instead: millions of numbers are little for them, and counting in a fixed order is slow there.
    """
    if values.device.type != "cpu":
        return values.flatten().sort().values[places]
    bits = values.flatten().view(torch.int32)
    upper, lower = bits >> 16, bits & 0xFFFF
    up_to = counts(upper, 1 << 16).cumsum(0)
    half = torch.searchsorted(up_to, places, right=True)  # (K,)
    rest = places - torch.where(half > 0, up_to[(half - 1).clamp(min=0)], 0)
    # Upper half -> which of those sought it is; all others are K.
    table = upper.new_full((1 << 16,), len(places))
    table[half] = torch.arange(len(places), dtype=torch.int32)
    beside = counts((table.index_select(0, upper) << 16) | lower, (len(places) + 1) << 16).view(-1, 1 << 16)
    among = beside[table[half].long()].cumsum(1)  # (K, 2^16)
    other = torch.searchsorted(among, rest[:, None], right=True)[:, 0]
    return ((half << 16) | other).int().view(torch.float32)


def counts(bins: Tensor, num: int) -> Tensor:
    """Return how many of `bins` (n,) int32 are each of 0 to `num` - 1; no shape depends on data."""
    return bins.new_zeros(num).index_add_(0, bins, torch.ones_like(bins))
