"""Which pixels are anchors, positives and negatives of which class (U2PL, Section 3.3, Eqs. 9–16).

Everything is a mask over (class, pixel), class by class in memory, as samples are drawn; nothing is sampled here, and
there is no loop over classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.images import IGNORED
from pipeline.training.contrast_parameters import ContrastParameters


class Pixels(NamedTuple):
    """What is known of every pixel of the stride-4 grid: the labelled images first, then the unlabelled ones."""

    labels: Tensor  # (2B, h, w) int64, true or pseudo-, 255 ignored
    probability: Tensor  # (2B, C, h, w), the teacher's
    anchorable: Tensor  # (2B, h, w) bool: labelled, or reliable
    negatable: Tensor  # (2B, h, w) bool: labelled, or unreliable
    num_labelled: int


class Sets(NamedTuple):
    """Pixels of each class, bool (C, n); `candidates` are its anchorable ones, sure or not."""

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    candidates: Tensor

    @property
    def present(self) -> Tensor:
        """The classes (C,) bool that any anchorable pixel is of."""
        return self.candidates.any(dim=1)


def find_sets(pixels: Pixels, hyper: ContrastParameters) -> Sets:
    """Return anchors (Eqs. 9–11), positives (Eq. 12) and negatives (Eqs. 13–16) of every class.

    Anchors: label c, anchorable, and the teacher's probability of c above δ_p. Positives: the same pixels. Negatives:
    labelled pixels of another class with c among the `rank_low` most likely, and negatable unlabelled ones
    with c's rank (0 is the most likely) in [rank_low, rank_high).
    """
    num = pixels.num_labelled
    member = one_hot(
        pixels.labels, num, num_classes=pixels.probability.shape[1], released=hyper.defect_one_hot
    )  # (C, n)
    probability = rows(pixels.probability)  # (n, C)
    negatable = pixels.negatable.flatten()
    candidates = member & pixels.anchorable.flatten()
    anchors = candidates & (probability > hyper.anchor_threshold).t()
    likely = most_likely(probability, hyper.rank_low)
    split = num * pixels.labels[0].numel()  # the labelled images' pixels come first
    labelled = ~member[:, :split] & likely[:, :split] & negatable[:split]
    too_likely = likely[:, split:] if hyper.prt else most_likely(probability[split:], 1)
    unlabelled = most_likely(probability[split:], hyper.rank_high) & ~too_likely & negatable[split:]
    if hyper.defect_labelled_negatives:
        labelled = torch.zeros_like(labelled)
    if hyper.defect_unlabelled_negatives:
        unlabelled = unlabelled & member[:, split:]
    positives = anchors if hyper.positives == "anchors" else candidates
    return Sets(anchors, positives, torch.cat([labelled, unlabelled], dim=1), candidates)


def one_hot(labels: Tensor, num_labelled: int, *, num_classes: int, released: bool) -> Tensor:
    """Return which class each pixel of `labels` (2B, h, w) is of, (C, n) bool; ignored pixels are of none.

    `released` is the released code's defect: within each half all images' labels land in its first image, as a
    union in which ignored pixels of the others count as class 0, and the other images have no label at all.
    """
    classes = torch.arange(num_classes, device=labels.device)[:, None, None, None]
    if not released:
        return (labels == classes).flatten(1)
    filled = torch.where(labels == IGNORED, 0, labels) == classes  # (C, 2B, h, w)
    member = torch.zeros_like(filled)
    for first, half in ((0, filled[:, :num_labelled]), (num_labelled, filled[:, num_labelled:])):
        member[:, first] = half.any(dim=1) & (labels[first] != IGNORED)
    return member.flatten(1)


def most_likely(probability: Tensor, num: int) -> Tensor:
    """Return which classes are among the `num` most likely of their pixel (n, C), (C, n) bool; of equal ones any.

    Ranks are asked about in this way alone, and to sort all classes takes twice as long. All but the least likely,
    which rank 20 bounds on VOC, are found by a minimum in a fifth of the time.
    """
    num_pixels, num_classes = probability.shape
    among = torch.full((num_classes, num_pixels), num >= num_classes - 1, device=probability.device)
    if num >= num_classes:
        return among
    few = num < num_classes - 1
    found = probability.topk(num, dim=1, sorted=False).indices if few else probability.min(dim=1).indices[:, None]
    places = found * num_pixels + torch.arange(num_pixels, device=probability.device)[:, None]  # in the flattened map
    among.view(-1).index_fill_(0, places.flatten(), few)
    return among


def rows(maps: Tensor) -> Tensor:
    """Return maps (B, F, h, w) as one row per pixel, (B h w, F)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
