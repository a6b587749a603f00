"""How well each class is doing, and chances that favour the classes that do badly (AEL, Hu et al. 2021, 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.data.images import IGNORED
from pipeline.training.flat import tally


class ConfidenceBank(nn.Module):
    """The moving average, per class, of the probability the student gives to the true class (Eqs. 4 and 7).

    `absent_class` says what happens to a class without labelled pixels in the step: `keep` leaves it, `zero` averages
    a zero in, as released (which makes rare classes drift to 0). `mean` averages over pixels within an image and then
    over images (`image`, Eq. 4) or over all pixels (`pixel`, as released). `initial` is where every class starts, 0–1;
    null draws each class's start between 0 and 1, as released (the paper does not say).
    """

    confidence: Tensor  # (C,) float32

    def __init__(
        self, num_classes: int, *, momentum: float, absent_class: str, mean: str, initial: float | None
    ) -> None:
        super().__init__()
        self.momentum, self.absent_class, self.mean = momentum, absent_class, mean
        start = torch.rand(num_classes) if initial is None else torch.full((num_classes,), float(initial))
        self.register_buffer("confidence", start)

    @torch.no_grad()
    def update(self, logits: Tensor, mask: Tensor) -> None:
        """Average in what logits (B, C, H, W) say of the labelled mask (B, H, W)."""
        totals, counts = true_class_sums(logits, mask)  # (B, C)
        if self.mean == "image":
            totals, counts = totals / counts.clamp(min=1), (counts > 0).float()
        sums = torch.stack([totals.sum(dim=0), counts.sum(dim=0)])  # (2, C)
        observed, present = sums[0] / sums[1].clamp(min=1), sums[1] > 0
        moved = self.momentum * self.confidence + (1 - self.momentum) * observed
        kept = moved if self.absent_class == "zero" else self.confidence
        self.confidence.copy_(torch.where(present, moved, kept))

    def chances(self, *, power: float = 1.0, excluded: tuple[int, ...] = ()) -> Tensor:
        """Return the chance (C,) of each class to be drawn: softmax of (1 - confidence) ** power (Eq. 9)."""
        scores = (1 - self.confidence).clamp(min=0) ** power
        for class_index in excluded:
            scores = torch.where(one_class(scores, class_index), -torch.inf, scores)
        return scores.softmax(dim=0)

    def sampling_rates(self, beta: float) -> Tensor:
        """Return the share (C,) of each class's pixels to train on; 1 for the worst class (Eq. 10)."""
        lacking = (1 - self.confidence).clamp(min=0)
        return (lacking / lacking.max().clamp(min=1e-12)) ** beta


def true_class_sums(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return per image and class (B, C) the summed probability of the true class, and its number of pixels."""
    num_classes = logits.shape[1]
    labelled = mask != IGNORED
    classes = torch.where(labelled, mask, 0).flatten(1)  # (B, H·W)
    probability = logits.float().softmax(dim=1).flatten(2).gather(1, classes[:, None])[:, 0]
    weight = labelled.flatten(1).float()
    totals = tally(classes, num_classes, weights=probability * weight)
    return totals, tally(classes, num_classes, weights=weight)


def draw_classes(chances: Tensor, *shape: int) -> Tensor:
    """Draw class indices (`shape`) with replacement; unlike `torch.multinomial` it never waits for the device."""
    waits = torch.empty(*shape, len(chances), device=chances.device).exponential_()
    return (chances / waits).argmax(dim=-1)  # of exponential waiting times, the first comes with the wanted chance


def one_class(scores: Tensor, class_index: int) -> Tensor:
    """Return where (C,) a class stands, made on the device."""
    return torch.arange(len(scores), device=scores.device) == class_index
