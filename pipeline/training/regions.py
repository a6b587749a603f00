"""Connected regions of a predicted class, and boxes around them, found without waiting for the device (AEL 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.flat import tally

ROUNDS = 12  # a spiral of 193 × 193 takes 8; a region that took more would be seen as several


def presence(prediction: Tensor, valid: Tensor, *, num_classes: int, area: float) -> Tensor:
    """Return which classes (B, C) cover more than a share `area` of the prediction (B, h, w) where it is valid."""
    classes = torch.where(valid, prediction, num_classes).flatten(1)
    counts = tally(classes, num_classes + 1, weights=torch.ones_like(classes, dtype=torch.float32))
    return counts[:, :num_classes] > area * classes.shape[1]


def random_region(mask: Tensor, *, area: float) -> Tensor:
    """Return one 8-connected region (B, h, w) of each mask (B, h, w), drawn from those above a share `area`.

    Nothing is returned of a mask that has none.
    """
    regions = connected(mask).flatten(1)  # (B, h·w)
    num_pixels = regions.shape[1]
    sizes = tally(regions, num_pixels + 1, weights=torch.ones_like(regions, dtype=torch.float32))[:, 1:]
    large = sizes > area * num_pixels
    drawn = torch.where(large, 1 - torch.rand_like(sizes), 0).argmax(dim=1, keepdim=True)
    drawn = torch.where(large.any(dim=1, keepdim=True), drawn + 1, -1)
    return (regions == drawn).view_as(mask)


def connected(mask: Tensor) -> Tensor:
    """Number the 8-connected regions of masks (B, h, w) by their last pixel, counted from 1; 0 is outside.

    Every pixel points at a pixel of its region. In each round, the pixel pointed at takes over the best pointer among
    the neighbours of those that point at it, and pointers are followed, so that paths halve instead of shrinking by
    one: regions become one in about log2 of their length.
    """
    num_images, height, width = mask.shape
    places = torch.arange(1, height * width + 1, device=mask.device).expand(num_images, -1)
    inside = functional.pad(mask.flatten(1), (1, 0))  # (B, 1 + h·w), the first is the outside
    pointers = functional.pad(places, (1, 0)) * inside
    for _ in range(ROUNDS):
        best = pointers[:, 1:].view(num_images, 1, height, width).float()
        best = functional.max_pool2d(best, 3, stride=1, padding=1).long().flatten(1)
        best = functional.pad(best, (1, 0)) * inside
        pointers = torch.maximum(best, pointers.scatter_reduce(1, pointers, best, "amax"))
        pointers = pointers.gather(1, pointers)
        pointers = pointers.gather(1, pointers)
    return pointers[:, 1:].view_as(mask)


def bounding_box(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the box around each mask (B, h, w) as a mask (B, H, W) of `size`, and where (B,) there is any."""
    sides = []
    for across, length in ((2, size[0]), (1, size[1])):
        occupied = mask.any(dim=across)  # (B, h) or (B, w)
        step = length / occupied.shape[1]
        first = occupied.int().argmax(dim=1, keepdim=True)
        last = occupied.shape[1] - occupied.flip(1).int().argmax(dim=1, keepdim=True)
        centres = torch.arange(length, device=mask.device) + 0.5
        sides.append((centres >= first * step) & (centres < last * step))
    found = mask.flatten(1).any(dim=1)
    return sides[0][:, :, None] & sides[1][:, None, :] & found[:, None, None], found
