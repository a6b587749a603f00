"""Boxes and areas drawn on the device, and pasting one map into another.

All masks are bool (B, H, W), true inside the box, or where the image gives way. Nothing here reads a value on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.images import IGNORED
from pipeline.training.losses import sample_nearest

MIXES = ("cutmix", "cutout", "classmix")
NUM_TRIES = 32
"""Boxes drawn at once by `aspect_boxes`; the first one that fits is taken (in 1e-7 of cases none does)."""


def paste(inside: Tensor, foreground: Tensor, *, background: Tensor) -> Tensor:
    """Return `foreground` inside the boxes and `background` outside: images (B, F, H, W) or maps (B, H, W).

    A mask of another size is nearest-sampled at theirs, so that the maps of `loss_resolution: network` mix alike.
    """
    inside = sample_nearest(inside, background.shape[-2:])
    return torch.where(inside if background.dim() == 3 else inside[:, None], foreground, background)


def mix_with_next(inside: Tensor, *maps: Tensor) -> list[Tensor]:
    """Fill the box of image i from image i + 1 (the last one's from the first), in every map alike.

    Maps are images (B, F, H, W), labels, confidences or validity (B, H, W), at any resolution. A batch of one mixes
    with itself: nothing changes.
    """
    return [paste(inside, values.roll(-1, dims=0), background=values) for values in maps]


def mix(images: Tensor, labels: Tensor, *, way: str, probability: float, num_classes: int) -> list[Tensor]:
    """Return an area (B, H, W) of each image (B, F, H, W), and images and labels (B, H, W) in which it gave way.

    To the next image or, cut out, to nothing: zeros, which are the mean colour, and ignored. `way` is one of MIXES.
    With 1 - `probability` nothing gives way.
    """
    if way == "classmix":
        inside = class_areas(labels, num_classes=num_classes, probability=probability)
    else:
        inside = half_area_boxes(images, probability=probability)
    if way == "cutout":
        emptied = paste(inside, torch.zeros_like(images), background=images)
        return [inside, emptied, paste(inside, torch.full_like(labels, IGNORED), background=labels)]
    return [inside, *mix_with_next(inside, images, labels)]


def half_area_boxes(images: Tensor, *, probability: float) -> Tensor:
    """Draw CutMix boxes as the released U2PL does: one per image (B, F, H, W), half of its area.

    The width is a uniform integer in [⌊W/2⌋ + 1, W), the height the rounded HW / (2 · width), the position uniform. One
    coin for the whole batch: with 1 - `probability` no image has a box at all.
    """
    num, (height, width) = len(images), images.shape[-2:]
    device = images.device
    if min(height, width) < 4:
        raise ValueError(f"images of {height} x {width} pixels are too small for half-area boxes; allowed: 4 and more")
    widths = torch.randint(width // 2 + 1, width, (num, 1), device=device)
    heights = (height * width / 2 / widths).round().long().clamp(max=height)
    boxes = rectangles(heights, widths, size=(height, width))
    return boxes & (torch.rand((), device=device) < probability)


def class_areas(labels: Tensor, *, num_classes: int, probability: float) -> Tensor:
    """Draw ClassMix's areas as the released U2PL does: where an image keeps nothing, (B, H, W).

    Of the k classes among the labels (B, H, W) of an image, ⌊k/2⌋ random ones stay; ignored pixels do not. One coin for
    the whole batch: with 1 - `probability` every image stays whole.
    """
    classes = torch.arange(num_classes, device=labels.device)
    present = (labels[..., None] == classes).flatten(1, 2).any(dim=1)  # (B, C)
    lot = torch.rand(present.shape, device=labels.device).masked_fill(~present, 2.0)
    place = lot.argsort(dim=1).argsort(dim=1)  # absent classes come last
    stays = functional.pad(place < present.sum(dim=1, keepdim=True) // 2, (0, 1))  # (B, C + 1), the last for ignored
    kept = stays.gather(1, labels.clamp(max=num_classes).flatten(1)).view_as(labels)
    return ~kept & (torch.rand((), device=labels.device) < probability)


def spread_boxes(images: Tensor, *, area: tuple[float, float], num_boxes: int) -> Tensor:
    """Draw boxes as CutMix-Seg and CPS do: log-uniform aspect, always inside; several are combined by XOR.

    `area` is the range of the uniform share of the image, of which each box covers one `num_boxes`-th: (0.5, 0.5) with
    one box in CutMix-Seg (French et al. 2020), (0.25, 0.5) with three in CPS.
    """
    height, width = images.shape[-2:]
    share = uniform((len(images), num_boxes), area, like=images)
    tall = share ** torch.rand_like(share)  # the side's share of the image's: exp(U log area), from area to 1
    scale = num_boxes**-0.5  # of each side, as released
    heights = (tall * scale * height).round().long()
    widths = (share / tall * scale * width).round().long()
    return rectangles(heights, widths, size=(height, width))


def aspect_boxes(
    images: Tensor, *, area: tuple[float, float], aspect: tuple[float, float], probability: float
) -> Tensor:
    """Draw one box per image as UniMatch does: uniform area share and aspect (height / width), uniform corner.

    A box that leaves the image is drawn again. Each image has one with `probability` (a coin per image).
    """
    num, (height, width) = len(images), images.shape[-2:]
    tries = (num, NUM_TRIES)
    pixels = uniform(tries, area, like=images) * height * width
    ratio = uniform(tries, aspect, like=images)
    heights, widths = (pixels * ratio).sqrt().long(), (pixels / ratio).sqrt().long()
    tops = torch.randint(0, height, tries, device=images.device)
    lefts = torch.randint(0, width, tries, device=images.device)
    fits = (tops + heights <= height) & (lefts + widths <= width)
    chosen = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    tops, lefts, heights, widths = (values.gather(1, chosen) for values in (tops, lefts, heights, widths))
    coin = torch.rand((num, 1), device=images.device) < probability
    inside = rasterise(tops, lefts, heights=heights, widths=widths, size=(height, width))
    return inside & (coin & fits.any(dim=1, keepdim=True))[:, :, None]


def rectangles(heights: Tensor, widths: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Place boxes of the given heights and widths (B, boxes), int64 pixels, uniformly inside images of `size`.

    Where an image has several, a pixel is inside if an odd number of them covers it (XOR).
    """
    tops = random_below(size[0] - heights + 1)
    lefts = random_below(size[1] - widths + 1)
    return rasterise(tops, lefts, heights=heights, widths=widths, size=size)


def rasterise(tops: Tensor, lefts: Tensor, *, heights: Tensor, widths: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mask (B, H, W) of boxes (B, boxes), combined by XOR."""
    rows = torch.arange(size[0], device=tops.device)
    columns = torch.arange(size[1], device=tops.device)
    in_rows = (rows >= tops[:, :, None]) & (rows < (tops + heights)[:, :, None])  # (B, boxes, H)
    in_columns = (columns >= lefts[:, :, None]) & (columns < (lefts + widths)[:, :, None])  # (B, boxes, W)
    covered = (in_rows[:, :, :, None] & in_columns[:, :, None, :]).sum(dim=1)  # (B, H, W)
    return covered % 2 == 1


def random_below(limits: Tensor) -> Tensor:
    """Draw a uniform integer in [0, limit) for each positive int64 limit."""
    drawn = (torch.rand(limits.shape, device=limits.device) * limits).long()
    return torch.minimum(drawn, limits - 1)  # rounding may reach the limit itself


def uniform(shape: tuple[int, ...], limits: tuple[float, float], *, like: Tensor) -> Tensor:
    """Draw float32 values, uniform between `limits`, on the device of `like`."""
    low, high = limits
    return low + (high - low) * torch.rand(shape, device=like.device)
