"""What the FixMatch family shares: labels of a weak view, a mixed strong view of the same images, and their loss."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from pipeline.data.images import IGNORED
from pipeline.training.losses import cross_entropy, sample_nearest
from pipeline.training.mixing import paste
from pipeline.training.teacher import confidence, pseudo_labels


class Weak(NamedTuple):
    """Labels (B, h, w) int64, 255 where nothing is known, and their confidence (B, h, w)."""

    labels: Tensor
    confidence: Tensor

    def paste(self, inside: Tensor, foreground: Weak) -> Weak:
        """Return what a mixed image shows: the foreground's inside the boxes (B, H, W), these outside."""
        return Weak(*(paste(inside, new, background=old) for new, old in zip(foreground, self, strict=True)))

    def reversed(self) -> Weak:
        """Return those of the batch in reverse order, so that each image meets another (but a middle one itself)."""
        return Weak(self.labels.flip(0), self.confidence.flip(0))


def weak_labels(logits: Tensor, valid: Tensor) -> Weak:
    """Label a weak view by logits (B, C, h, w); where `valid` (B, H, W) is false nothing is known."""
    logits = logits.detach()
    return Weak(pseudo_labels(logits, valid), confidence(logits))


def confident_loss(logits: Tensor, weak: Weak, *, threshold: float) -> Tensor:
    """Return the cross-entropy of logits (B, C, h, w) to the labels that are confident enough.

    It is summed over those and divided by the number of all that are known: fewer confident pixels, less loss.
    """
    weights = (weak.confidence >= threshold).float()
    return cross_entropy(logits, weak.labels, weights=weights, normaliser=(weak.labels != IGNORED).sum())


def certainty(logits: Tensor, valid: Tensor) -> Tensor:
    """Return how sure logits (B, C, h, w) are of each image (B,), 0–1: the mean of (1 - H / log C) · max p.

    The mean is over what is `valid` (B, H, W); an image without any valid pixel counts as unsure.
    """
    valid = sample_nearest(valid, logits.shape[-2:])
    log_probability = logits.detach().float().log_softmax(dim=1)
    probability = log_probability.exp()
    entropy = -(probability * log_probability).sum(dim=1)
    sure = (1 - entropy / math.log(logits.shape[1])) * probability.amax(dim=1)
    return (sure * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
