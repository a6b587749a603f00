"""Losses that methods share. All arithmetic is float32, ignored pixels never count, and no pixel at all gives zero."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.images import IGNORED
from pipeline.models.resize import resize
from pipeline.models.segnet import Output
from pipeline.training.entropy import order_statistics


@dataclass(frozen=True)
class Criterion:
    """The supervised loss of the protocol: main + `auxiliary_weight` · auxiliary, each cross-entropy or OHEM.

    `kind` is `ce` or `ohem`; `ohem_min_kept` counts pixels of the batch it is given. Logits are upsampled to the mask
    where `loss_resolution` is `full`; the mask is sampled at the logits where it is `network`.
    """

    kind: str
    _: KW_ONLY
    ohem_threshold: float
    ohem_min_kept: int
    auxiliary_weight: float
    loss_resolution: str

    def __post_init__(self) -> None:
        allowed = {"kind": ("ce", "ohem"), "loss_resolution": ("full", "network")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(values)}")
        if not 0 <= self.ohem_threshold <= 1:
            raise ValueError(f"ohem_threshold is {self.ohem_threshold}; allowed: a probability, 0 to 1")
        if self.ohem_min_kept < 1:
            raise ValueError(f"ohem_min_kept is {self.ohem_min_kept}; allowed: a positive number of pixels")

    def __call__(self, output: Output, mask: Tensor) -> Tensor:
        """Return the loss of a labelled batch; `mask` (B, H, W) is int64 with 255 ignored."""
        loss = self.of(output.logits, mask)
        if output.auxiliary is not None:
            loss = loss + self.auxiliary_weight * self.of(output.auxiliary, mask)
        return loss

    def of(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of one map of logits."""
        if self.loss_resolution == "full":
            logits = resize(logits, mask.shape[-2:])
        else:
            mask = sample_nearest(mask, logits.shape[-2:])
        if self.kind == "ohem":
            return ohem(logits, mask, threshold=self.ohem_threshold, min_kept=self.ohem_min_kept)
        return cross_entropy(logits, mask)


def cross_entropy(
    logits: Tensor, labels: Tensor, *, weights: Tensor | None = None, normaliser: Tensor | None = None
) -> Tensor:
    """Return Σ w · CE / `normaliser` over the pixels that are not ignored; zero, but attached, where none is left.

    `logits` (B, C, H, W); `labels` (B, H, W) int64, 255 ignored; `weights` (B, H, W) at least 0, one where absent.
    `normaliser` is a scalar tensor: Σ w over the pixels not ignored where absent, the count of valid pixels for
    methods that average over those a threshold dropped too.
    """
    labelled = labels != IGNORED
    if weights is None:
        total = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        weight_sum = labelled.sum()
    else:
        weights = torch.where(labelled, weights.float(), 0.0)
        losses = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
        total = (losses * weights).sum()
        weight_sum = weights.sum()
    return total / above_zero(weight_sum if normaliser is None else normaliser)


def ohem(logits: Tensor, labels: Tensor, *, threshold: float, min_kept: int) -> Tensor:
    """Return the mean cross-entropy over hard pixels (online hard example mining).

    Hard is a probability of the true class of at most max(`threshold`, the `min_kept`-th smallest such probability);
    with fewer valid pixels than `min_kept`, all are. Shapes as in `cross_entropy`.
    """
    ignored = labels == IGNORED
    with torch.no_grad():
        true = torch.where(ignored, 0, labels)[:, None]
        # Ignored pixels count as certain, so that they come last.
        probability = logits.float().softmax(dim=1).gather(1, true)[:, 0].masked_fill(ignored, 1.0)
        kth = min(min_kept, probability.numel())
        place = torch.full((1,), kth - 1, device=logits.device)
        limit = order_statistics(probability.abs(), place).clamp(min=threshold)  # NaN may have a sign
        hard = torch.where(probability > limit, IGNORED, labels)  # so that NaN stays, and is seen
    return cross_entropy(logits, hard)


def soft_cross_entropy(logits: Tensor, target: Tensor, *, weights: Tensor, normaliser: Tensor) -> Tensor:
    """Return Σ w · (-Σ_c q_c log p_c) / `normaliser`, a scalar, of probabilities q (B, C, H, W), weights (B, H, W)."""
    losses = -(target.float() * logits.float().log_softmax(dim=1)).sum(dim=1)  # (B, H, W)
    return (losses * weights.float()).sum() / above_zero(normaliser)


def probability_mse(probability: Tensor, target: Tensor, *, weights: Tensor) -> Tensor:
    """Return the weighted mean over pixels of the mean over classes of (p - q)², maps (B, C, H, W), weights (B, H, W).

    Methods that sum over classes multiply by C.
    """
    losses = (probability.float() - target.float()).square().mean(dim=1)  # (B, H, W)
    return weighted_mean(losses, weights)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return Σ w · v / Σ w, zero where all weights are zero; bool weights are a mask."""
    weights = weights.float()
    return (values * weights).sum() / above_zero(weights.sum())


def above_zero(total: Tensor) -> Tensor:
    """Return a divisor: `total`, or one where it is zero (what it divides is zero then)."""
    return torch.where(total > 0, total, 1)


def sample_nearest(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Nearest-sample a map (B, H, W) of any dtype at `size`."""
    if labels.shape[-2:] == size:
        return labels
    places = [_nearest(*lengths, device=labels.device) for lengths in zip(labels.shape[-2:], size, strict=True)]
    return labels.index_select(1, places[0]).index_select(2, places[1])


def _nearest(length: int, num: int, *, device: torch.device) -> Tensor:
    """Return which of `length` places each of `num` takes (num,), as `interpolate` counts in its mode `nearest`."""
    places = torch.arange(length, dtype=torch.float32, device=device)
    return functional.interpolate(places[None, None], num, mode="nearest")[0, 0].long()
