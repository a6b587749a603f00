"""Which pixels of the unlabelled images are reliable: the entropy percentile of U2PL (Section 3.2, Eqs. 6 and 7)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Reliability(NamedTuple):
    """Masks (B, H, W) bool over the valid pixels. A pixel exactly at the threshold is neither of the first two."""

    reliable: Tensor  # H < γ, the lower 1 - α
    unreliable: Tensor  # H > γ, the upper α
    lowest: Tensor  # H <= the α-th percentile: the most certain α
    threshold: Tensor  # γ, a scalar in nats


def unreliable_share(alpha0: float, epoch_fraction: float, *, dynamic: bool) -> float:
    """Return α_t, 0–1: α_0 (1 - t/T) under dynamic partition adjustment (Eq. 7), else α_0."""
    return alpha0 * (1 - epoch_fraction) if dynamic else alpha0


def entropy(logits: Tensor) -> Tensor:
    """Return -Σ_c p_c log p_c in nats (B, H, W) of the softmax of logits (B, C, H, W)."""
    log_probability = logits.float().log_softmax(dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1)


def reliability(values: Tensor, valid: Tensor, share: float) -> Reliability:
    """Divide the valid pixels by their entropy `values` (B, H, W); `share` is α_t, 0–1.

    With nothing to drop (0) every valid pixel is reliable and the threshold is infinite.
    """
    if share == 0:
        nothing = torch.zeros_like(valid)
        return Reliability(valid, nothing, nothing, torch.full((), torch.inf, device=values.device))
    threshold, low = percentiles(values, valid, (100 * (1 - share), 100 * share))
    return Reliability(valid & (values < threshold), valid & (values > threshold), valid & (values <= low), threshold)


def percentiles(values: Tensor, valid: Tensor, percents: tuple[float, ...]) -> list[Tensor]:
    """Return percentiles of the valid values, interpolated as `numpy.percentile` does; inf where none is valid."""
    # Invalid values are sorted to the end, so that no data-dependent shape is needed.
    ordered = values.masked_fill(~valid, torch.inf).flatten().sort().values
    last = (valid.sum() - 1).clamp(min=0)
    result = []
    for percent in percents:
        position = last.double() * (percent / 100)
        below = position.floor().long()
        above = torch.minimum(below + 1, last)
        low, high = ordered[below[None]][0], ordered[above[None]][0]
        between = torch.lerp(low, high, (position - below).to(low.dtype))
        result.append(torch.where(valid.any(), between, torch.inf))
    return result
