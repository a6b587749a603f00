"""Contrast of a pixel's embedding with those of other pixels, negatives drawn on the device.

A fixed number of pixels is drawn from every image, invalid ones only where valid ones run out; those carry no weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.training.flat import flat, pick
from pipeline.training.losses import weighted_mean


class DrawnPixels(NamedTuple):
    """Pixels drawn from a batch of maps."""

    embedding: Tensor  # (N, D), of length one
    distribution: Tensor  # (N, C), predicted class probabilities
    image: Tensor  # (N,) int64
    place: Tensor  # (N,) int64, within the image
    valid: Tensor  # (N,) bool


def draw_places(valid: Tensor, num_each: int) -> Tensor:
    """Draw different places from every image of `valid` (B, h, w), as many as there are at most: (B, n) int64."""
    order = torch.rand(valid.flatten(1).shape, device=valid.device) + valid.flatten(1)
    return order.topk(min(num_each, order.shape[1]), dim=1).indices


def take(maps: Tensor, places: Tensor) -> Tensor:
    """Return what maps (B, F, h, w) hold at places (B, n), as (B n, F)."""
    rows = maps.flatten(2).transpose(1, 2).flatten(0, 1)  # (B h w, F)
    return rows.index_select(0, flat(places, maps.shape[2] * maps.shape[3]))


def pixels(embedding: Tensor, distribution: Tensor, *, valid: Tensor, places: Tensor) -> DrawnPixels:
    """Describe the drawn places by their embeddings (B n, D), class distributions (B, C, h, w) and validity."""
    image = torch.arange(len(places), device=places.device)[:, None].expand_as(places)
    at_places = take(distribution.detach(), places), image.flatten(), places.flatten()
    return DrawnPixels(embedding, *at_places, take(valid[:, None], places)[:, 0])


def negative_weights(anchors: DrawnPixels, candidates: DrawnPixels, *, different_image: bool, debiased: bool) -> Tensor:
    """Return how likely each candidate is drawn as a negative of each anchor (N, P), up to a factor.

    Never an invalid one or the anchor's own pixel, nor one of its own image with `different_image`. With `debiased`
    in proportion to 1 - q_i · q_n, the probability that their classes differ; else all alike.
    """
    allowed = anchors.image[:, None] != candidates.image  # (N, P)
    if not different_image:
        allowed = allowed | (anchors.place[:, None] != candidates.place)
    allowed = allowed & candidates.valid
    if not debiased:
        return allowed.float()
    with torch.autocast(allowed.device.type, enabled=False):
        same_class = anchors.distribution @ candidates.distribution.mT
    return allowed * (1 - same_class).clamp(min=0)


def info_nce(
    anchors: DrawnPixels,
    positive: Tensor,
    *,
    candidates: DrawnPixels,
    weights: Tensor,
    num_negatives: int,
    temperature: float,
) -> Tensor:
    """Return the mean over valid anchors of -log(e^{z·z⁺/τ} / (e^{z·z⁺/τ} + Σ_n e^{z·z_n/τ})).

    `positive` (N, D); the negatives are drawn without replacement from the candidates by `weights` (N, P), fewer
    where fewer have a weight (Gumbel top-k). An anchor without negatives has no loss.
    """
    with torch.autocast(positive.device.type, enabled=False):
        noise = torch.empty_like(weights).exponential_().log()
        drawn = (weights.log() - noise).topk(min(num_negatives, weights.shape[1]), dim=1)
        similarity = anchors.embedding.float() @ candidates.embedding.float().mT / temperature  # (N, P)
        negative = pick(similarity, drawn.indices).masked_fill(drawn.values == -torch.inf, -torch.inf)
        own = (anchors.embedding.float() * positive.float()).sum(dim=1, keepdim=True) / temperature
        losses = torch.cat([own, negative], dim=1).logsumexp(dim=1) - own[:, 0]
    return weighted_mean(losses, anchors.valid)
