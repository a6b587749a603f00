"""What could still be saved in U2PL's own part, measured beside it: `python -m tests.benchmarks.prototypes`.

Inputs are those of `losses`. Each line is a replacement that gives the same numbers, beside what is there now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.contrast import similarities
from pipeline.training.contrast_sets import ranks, rows
from pipeline.training.entropy import entropy, percentiles
from tests.benchmarks.losses import CHANNELS, CLASSES, SHARE, Ours, make_step, parameters
from tests.benchmarks.report import Figure, figures, rounds, write


def main() -> None:
    """Compare, measure and write the section."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hyper, step = parameters(), make_step()
    values = entropy(step.logits)
    valid = torch.ones_like(values, dtype=torch.bool)
    percents = (100 * (1 - SHARE), 100 * SHARE)
    probability = rows(step.probability)
    anchors, positives = torch.randn(CLASSES, hyper.num_anchors, CHANNELS), torch.randn(CLASSES, CHANNELS)
    memory = Ours(hyper).contrast.memory
    assert memory is not None
    negatives = memory.sample(hyper.num_anchors * hyper.num_negatives).unflatten(1, (hyper.num_anchors, -1))
    assert torch.allclose(values, entropy_by_rows(step.logits), atol=1e-5)
    assert torch.equal(*map(torch.stack, (percentiles(values, valid, percents), selected(values, valid, percents))))
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "entropy: softmax over rows of pixels": (
            lambda: entropy_by_rows(step.logits),
            lambda: entropy(step.logits),
        ),
        "percentiles: selected by their bits, no sort": (
            lambda: selected(values, valid, percents),
            lambda: percentiles(values, valid, percents),
        ),
        "ranks: 8-bit places": (lambda: small_ranks(probability), lambda: ranks(probability)),
        "similarities: negatives taken as unit": (
            lambda: unit_similarities(anchors, positives, negatives),
            lambda: similarities(anchors, positives, negatives, 0.5),
        ),
    }
    lines = []
    for name, (new, old) in pairs.items():
        taken_s = rounds({"new": new, "old": old}, num=5)
        lines.append(Figure(name, 1e3 * taken_s["new"], 1e3 * taken_s["old"], unit="ms"))
    write("prototypes", "What could still be saved in the losses", figures(lines))


def entropy_by_rows(logits: Tensor) -> Tensor:
    """Return the entropy (B, H, W) without a copy to planes, where logits are channels-last."""
    log_probability = logits.float().permute(0, 2, 3, 1).log_softmax(dim=3)
    return -(log_probability.exp() * log_probability).sum(dim=3)


def selected(values: Tensor, valid: Tensor, percents: tuple[float, ...]) -> list[Tensor]:
    """Return percentiles as `percentiles` does, from two histograms of 2^15 and 2^16 bins over a float's bits.

    Non-negative floats are ordered as their bits are, so the k-th value is found exactly and nothing is sorted.
    """
    bits = values.clamp(min=0).masked_fill(~valid, torch.inf).flatten().view(torch.int32)
    upper, lower = bits >> 16, bits & 0xFFFF
    ones = torch.ones((), dtype=torch.int64, device=bits.device)
    by_upper = values.new_zeros(1 << 15, dtype=torch.int64).index_add_(0, upper, ones.expand(len(bits))).cumsum(0)
    last = (valid.sum() - 1).clamp(min=0)
    result = []
    for percent in percents:
        position = last.double() * (percent / 100)
        low = position.floor().long()
        found = []
        for place in (low, torch.minimum(low + 1, last)):
            bin_ = torch.searchsorted(by_upper, place, right=True)
            before = torch.where(bin_ > 0, by_upper[(bin_ - 1).clamp(min=0)[None]][0], 0)
            inside = (upper == bin_).long()
            by_lower = values.new_zeros(1 << 16, dtype=torch.int64).index_add_(0, lower, inside).cumsum(0)
            rest = torch.searchsorted(by_lower, place - before, right=True)
            found.append(((bin_ << 16) | rest).to(torch.int32).view(torch.float32))
        between = torch.lerp(*found, (position - low).float())
        result.append(torch.where(valid.any(), between, torch.inf))
    return result


def small_ranks(probability: Tensor) -> Tensor:
    """Return `ranks` as uint8, an eighth of the memory."""
    order = probability.sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(probability.shape[1], dtype=torch.uint8, device=probability.device).expand_as(order)
    return torch.empty(order.shape, dtype=torch.uint8, device=order.device).scatter_(1, order, places)


def unit_similarities(anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Return `similarities` where negatives come from the memory bank, which keeps them at unit length."""
    anchors = functional.normalize(anchors, dim=2) / 0.5
    positive = (anchors @ functional.normalize(positives, dim=1)[:, :, None])[:, :, 0]
    return positive, (negatives @ anchors[:, :, :, None])[:, :, :, 0]


if __name__ == "__main__":
    main()
