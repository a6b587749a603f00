"""Sampling members of each class from a mask (C, n), all classes at once, without reading a number on the host.

A uniform number is looked up in the running count of a class's members.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.training.mixing import random_below


def sample_members(members: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Draw `num` members of each class, uniformly with replacement: rows (C, num), and how many there are (C,).

    What is drawn of a class without members means nothing.
    """
    running = members.cumsum(dim=1, dtype=torch.int32)  # (C, n)
    counts = running[:, -1].long()
    nth = random_below(counts.clamp(min=1)[:, None].expand(-1, num)) + 1
    return nth_members(running, nth), counts


def spread_members(members: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Choose up to `num` different members of each class, each as likely as any other: rows (C, num), how many (C,).

    Where a class has more, every (count / num)-th is taken from a random start, so they are spread over the batch.
    What stands after the first `counts[c]` rows of a class means nothing.
    """
    running = members.cumsum(dim=1, dtype=torch.int32)  # (C, n)
    counts = running[:, -1:].long()
    stride = counts.clamp(min=num)  # in units of 1 / num members
    nth = (torch.arange(num, device=members.device) * stride + random_below(stride)) // num + 1
    return nth_members(running, nth), counts[:, 0].clamp(max=num)


def nth_members(running: Tensor, nth: Tensor) -> Tensor:
    """Return the row of the `nth` member (C, num), counted from 1, by running counts (C, n)."""
    return torch.searchsorted(running, nth.int()).clamp(max=running.shape[1] - 1)
