"""A random number of random colour operations, each of random strength (AugSeg's strong view, Zhao et al. 2023, 3.2).

Unlike RandAugment, whose strength is one tuned number on a discrete scale, every image draws how many operations it
gets (1 to `max_operations`), which ones (with replacement) and how strong each is, from a continuous range. Every
operation is computed for all images and the drawn one selected, since asking which was drawn would wait for the
device. Padding belongs to the image as far as its contrast and its histogram are concerned.
Written from the method's description; ranges as reported in it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.flat import tally
from pipeline.training.photometric import (
    BLUR_SIGMA,
    blend,
    blur,
    brightness,
    contrast,
    denormalise,
    hue,
    normalise,
    saturation,
    uniform,
)

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalise",
    "blur",
    "contrast",
    "brightness",
    "colour",
    "sharpness",
    "posterise",
    "solarise",
    "hue",
)
FACTOR = (0.05, 0.95)  # contrast, brightness, colour, sharpness: share of the image, the rest is what it fades to
POSTERISE_BITS = (4, 8)
SOLARISE_LEVEL = (1.0, 256.0)  # of 256; pixels from this level on are inverted
HUE_TURNS = (0.0, 0.5)
LEVELS = 256


def random_view(images: Tensor, *, max_operations: int) -> Tensor:
    """Return a strong view (B, 3, H, W) of normalised images (B, 3, H, W); no pixel moves."""
    values = denormalise(images)
    num_operations = draw(values, low=1, high=max_operations)
    for applied in range(max_operations):
        changed = select(operate(values), draw(values, low=0, high=len(OPERATIONS) - 1))
        values = torch.where(applied < num_operations, changed, values)
    return normalise(values)


def operate(values: Tensor) -> list[Tensor]:
    """Apply each of `OPERATIONS`, in order, to values 0–1, at strengths drawn per image."""
    return [
        values,
        autocontrast(values),
        equalise(values),
        blur(values, uniform(values, BLUR_SIGMA)),
        contrast(values, uniform(values, FACTOR)),
        brightness(values, uniform(values, FACTOR)),
        saturation(values, uniform(values, FACTOR)),
        sharpness(values, uniform(values, FACTOR)),
        posterise(values, draw(values, low=POSTERISE_BITS[0], high=POSTERISE_BITS[1])),
        solarise(values, uniform(values, SOLARISE_LEVEL)),
        hue(values, uniform(values, HUE_TURNS)),
    ]


def select(candidates: list[Tensor], drawn: Tensor) -> Tensor:
    """Take from each image the candidate whose index (B, 1, 1, 1) was drawn for it."""
    selected = candidates[0]
    for index, candidate in enumerate(candidates[1:], start=1):
        selected = torch.where(drawn == index, candidate, selected)
    return selected


def autocontrast(values: Tensor) -> Tensor:
    """Stretch each channel to 0–1; a channel of one value stays."""
    low, high = values.amin(dim=(2, 3), keepdim=True), values.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (values - low) / (high - low).clamp(min=1 / LEVELS**2), values)


def equalise(values: Tensor) -> Tensor:
    """Flatten each channel's histogram of 256 levels, as PIL does; a channel of one level stays."""
    levels = to_levels(values).flatten(2)  # (B, 3, H·W)
    histogram = tally(levels.flatten(0, 1), LEVELS, weights=torch.ones_like(levels)).view(*levels.shape[:2], LEVELS)
    brightest = histogram.gather(2, levels.amax(dim=2, keepdim=True))
    step = (levels.shape[2] - brightest) // (LEVELS - 1)  # (B, 3, 1)
    before = histogram.cumsum(dim=2) - histogram
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=LEVELS - 1)
    flat = from_levels(table.gather(2, levels)).view_as(values)
    return torch.where(step[..., None] > 0, flat, values)


def sharpness(values: Tensor, factor: Tensor) -> Tensor:
    """Blend values 0–1 with their 3 × 3 mean, the centre weighted 5; 0 is that mean, 1 the image."""
    around = functional.avg_pool2d(functional.pad(values, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return blend(values, (9 * around + 4 * values) / 13, factor=factor)


def posterise(values: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (B, 1, 1, 1) of eight bits."""
    step = 2 ** (8 - bits)
    return from_levels(to_levels(values) // step * step)


def solarise(values: Tensor, level: Tensor) -> Tensor:
    """Invert what is at or above a level (B, 1, 1, 1) of 256."""
    return torch.where(values * (LEVELS - 1) >= level, 1 - values, values)


def to_levels(values: Tensor) -> Tensor:
    """Return values 0–1 as integers 0–255."""
    return (values * (LEVELS - 1)).round().long()


def from_levels(levels: Tensor) -> Tensor:
    """Return integers 0–255 as values 0–1."""
    return levels / (LEVELS - 1)


def draw(values: Tensor, *, low: int, high: int) -> Tensor:
    """Draw one integer per image, both ends included, shaped (B, 1, 1, 1)."""
    return torch.randint(low, high + 1, (len(values), 1, 1, 1), device=values.device)
