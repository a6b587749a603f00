"""Augmentations and loss that favour the classes doing badly (AEL, Hu et al. 2021, 3.3).

`chances` (C,) say how likely a class is to be drawn, `rates` (C,) what share of its pixels is trained on; both come
from the confidence bank.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.images import IGNORED
from pipeline.training.class_bank import draw_classes
from pipeline.training.losses import above_zero
from pipeline.training.regions import bounding_box, presence, random_region


def paste_classes(
    images: Tensor, mask: Tensor, *, chances: Tensor, num_pasted: int, probability: float, scale: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Paste `num_pasted` drawn classes of the labelled image before onto each, with `probability` per image.

    All pixels of those classes in the source come along, in images (B, 3, H, W) and mask (B, H, W). The source is
    first shrunk by a factor drawn from `scale`, on top of its own weak view (Ghiasi et al.'s large scale jitter).
    """
    num_images = len(images)
    source, source_mask = shrink(images.roll(1, 0), mask.roll(1, 0), scale=scale)
    drawn = draw_classes(chances, num_images, num_pasted)  # (B, K), with replacement
    happens = torch.rand(num_images, 1, device=images.device) < probability
    wanted = (drawn[:, :, None] == torch.arange(len(chances), device=images.device)).any(dim=1) & happens  # (B, C)
    classes = torch.where(source_mask == IGNORED, 0, source_mask).flatten(1)
    pasted = wanted.gather(1, classes).view_as(mask) & (source_mask != IGNORED)
    return torch.where(pasted[:, None], source, images), torch.where(pasted, source_mask, mask)


def shrink(images: Tensor, mask: Tensor, *, scale: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Shrink images and mask by a factor drawn per image, to a random place; around it nothing is labelled."""
    if scale == (1.0, 1.0):
        return images, mask
    factor = torch.empty(len(images), 1, device=images.device).uniform_(*scale)
    place = (2 * torch.rand(len(images), 2, device=images.device) - 1) * (1 - factor)  # of the centre, -1 to 1
    zoom = torch.eye(2, device=images.device) / factor[:, :, None]
    where = torch.cat([zoom, -(place / factor)[:, :, None]], dim=2)
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 tells few of 513 places apart
        grid = functional.affine_grid(where, list(images.shape), False)
    labels = (mask + 1)[:, None].float()  # outside, the grid reads 0
    labels = functional.grid_sample(labels, grid, mode="nearest", align_corners=False)[:, 0].long()
    return functional.grid_sample(images, grid, align_corners=False), torch.where(labels == 0, IGNORED, labels - 1)


def choose_partners(present: Tensor, classes: Tensor) -> Tensor:
    """Return for each image (B,) one of the batch to cut from: at random among the others where its class is present.

    `present` (B, C) says which classes an image has. Where no other has the class any other may be drawn; the only
    image of a batch is its own partner.
    """
    num_images = len(present)
    has_class = present[:, classes].T  # (B, B), row i asks for the class of image i
    is_other = ~torch.eye(num_images, dtype=torch.bool, device=present.device)
    score = torch.rand(num_images, num_images, device=present.device)
    return (score + (has_class & is_other) + is_other).argmax(dim=1)


def class_boxes(
    prediction: Tensor,
    valid: Tensor,
    *,
    chances: Tensor,
    size: tuple[int, int],
    presence_area: float,
    region_area: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a class for each image; return partners (B,), boxes (B, H, W) of `size`, and where (B,) a box was found.

    The box surrounds one region of the class in the partner's prediction (B, h, w). A class is present above a share
    `presence_area` of the image, a region counts above `region_area`.
    """
    present = presence(prediction, valid, num_classes=len(chances), area=presence_area)
    classes = draw_classes(chances, len(prediction))
    partners = choose_partners(present, classes)
    mask = (prediction[partners] == classes[:, None, None]) & valid[partners]
    boxes, found = bounding_box(random_region(mask, area=region_area), size)
    return partners, boxes, found


def pixel_weights(logits: Tensor, labels: Tensor, *, confidence: Tensor, rates: Tensor, gamma: float) -> Tensor:
    """Return what each pixel (B, h, w) of a consistency loss weighs (Eqs. 10 and 13).

    It is the teacher's confidence to the power gamma if the pixel is sampled, at the rate of the class that the
    student's logits (B, C, h, w) predict there, else nothing; nothing either where the label (B, h, w) is unknown.
    """
    rate = rates[logits.detach().argmax(dim=1)]
    sampled = (torch.rand_like(rate) < rate) & (labels != IGNORED)
    return confidence.float() ** gamma * sampled


def balanced_loss(logits: Tensor, labels: Tensor, *, weights: Tensor, learnt: Tensor, normaliser: str) -> Tensor:
    """Return the weighted mean cross-entropy of logits (B, C, h, w) to labels (B, h, w) (Eq. 12).

    The mean is over each `image` and then over images (Eq. 12), or over the `batch` (released). What is not `learnt`,
    where the teacher is below a threshold, costs nothing but still weighs, as released.
    """
    cost = functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
    cost = weights * torch.where(learnt, cost, 0.0)
    over = (1, 2) if normaliser == "image" else (0, 1, 2)
    return (cost.sum(dim=over) / above_zero(weights.sum(dim=over))).mean()
