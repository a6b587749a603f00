"""Strong colour views of normalised images, made on the device the images are on.

A strong view changes colours only, so every pixel keeps its place and its label. All functions draw or take one
strength per image, and copy no constant to the device (that would wait for it). `colour_view` and `cut_out` work on
normalised images; the single operations on values 0–1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.data.normalise import MEAN, STD

IMAGENET_MEAN, IMAGENET_STD = (tuple(value / 255 for value in values) for values in (MEAN, STD))
GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2 luma, as PIL converts
BLUR_SIGMA = (0.1, 2.0)  # pixels, the range of SimCLR, MoCo v2 and UniMatch
BLUR_RADIUS = math.ceil(3 * BLUR_SIGMA[1])


def colour_view(
    images: Tensor,
    *,
    jitter: tuple[float, float, float, float],
    jitter_probability: float,
    grey_probability: float = 0.0,
    blur_probability: float = 0.0,
) -> Tensor:
    """Return a strong view (B, 3, H, W) of normalised images (B, 3, H, W).

    `jitter` is the strength of brightness, contrast, saturation (factors from max(0, 1 - s) to 1 + s) and hue (turns,
    at most 0.5). Each probability is per image. The order of the four is fixed; PIL pipelines draw it.
    """
    values = colour_jitter(denormalise(images), jitter=jitter, probability=jitter_probability)
    if grey_probability > 0:
        values = torch.where(happens(values, grey_probability), luma(values), values)
    if blur_probability > 0:
        sigma = uniform(values, BLUR_SIGMA)
        values = torch.where(happens(values, blur_probability), blur(values, sigma), values)
    return normalise(values)


def unimatch_view(images: Tensor) -> Tensor:
    """Return UniMatch's strong colours (its Table of augmentations; released `transform.py`)."""
    strengths = (0.5, 0.5, 0.5, 0.25)
    return colour_view(images, jitter=strengths, jitter_probability=0.8, grey_probability=0.2, blur_probability=0.5)


def cut_view(
    images: Tensor, *, jitter: tuple[float, float, float, float], cutout_share: float
) -> tuple[Tensor, Tensor]:
    """Return PseudoSeg's strong view, jitter on every image and one square cut out, and what is kept (B, H, W)."""
    return cut_out(colour_view(images, jitter=jitter, jitter_probability=1.0), cutout_share)


def cut_out(images: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Fill one square per image with the mean colour; return the images and what is kept (B, H, W) bool.

    `side` is the square's side as a share of the shorter image side, 0–1. Its centre is any pixel, so that squares
    at the border are cut (DeVries & Taylor 2017).
    """
    num_images, _, height, width = images.shape
    half = side * min(height, width) / 2
    inside = []
    for length in (height, width):
        centre = torch.rand(num_images, 1, device=images.device) * length
        positions = torch.arange(length, device=images.device) + 0.5
        inside.append((positions - centre).abs() < half)  # (B, length)
    kept = ~(inside[0][:, :, None] & inside[1][:, None, :])  # (B, H, W)
    return images * kept[:, None], kept


def check_jitter(jitter: tuple[float, ...]) -> None:
    """Refuse anything but four strengths of at least 0, the last (hue) at most half a turn."""
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise ValueError(f"jitter is {list(jitter)}; allowed: four strengths from 0, the last (hue) up to 0.5")


def colour_jitter(values: Tensor, *, jitter: tuple[float, float, float, float], probability: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of values 0–1 at random, with `probability` per image."""
    by_brightness, by_contrast, by_saturation, by_hue = jitter
    jittered = values
    for operation, strength in ((brightness, by_brightness), (contrast, by_contrast), (saturation, by_saturation)):
        if strength > 0:
            jittered = operation(jittered, uniform(values, (max(0.0, 1 - strength), 1 + strength)))
    if by_hue > 0:
        jittered = hue(jittered, uniform(values, (-by_hue, by_hue)))
    return jittered if probability >= 1 else torch.where(happens(values, probability), jittered, values)


def brightness(values: Tensor, factor: Tensor) -> Tensor:
    """Scale values 0–1 (B, 3, H, W) by a factor (B, 1, 1, 1); 0 is black, 1 the image."""
    return (values * factor).clamp(0, 1)


def contrast(values: Tensor, factor: Tensor) -> Tensor:
    """Spread values 0–1 around the image's mean grey; 0 is that grey, 1 the image."""
    return blend(values, luma(values).mean(dim=(1, 2, 3), keepdim=True), factor=factor)


def saturation(values: Tensor, factor: Tensor) -> Tensor:
    """Blend values 0–1 with their grey; 0 is the grey image, 1 the image."""
    return blend(values, luma(values), factor=factor)


def hue(values: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of values 0–1 by a share of the colour circle (B, 1, 1, 1), in HSV space."""
    red, green, blue = values.unbind(1)
    value, highest = values.max(dim=1)
    chroma = value - values.amin(dim=1)
    over = chroma.clamp(min=torch.finfo(values.dtype).eps)
    from_red, from_green, from_blue = (green - blue) / over, (blue - red) / over + 2, (red - green) / over + 4
    sextant = torch.where(highest == 0, from_red, torch.where(highest == 1, from_green, from_blue))  # (B, H, W)
    offsets = 5 - 2 * torch.arange(3, device=values.device).view(1, 3, 1, 1)  # 5, 3, 1 for red, green, blue
    turned = torch.remainder(offsets + sextant[:, None] + 6 * turns, 6)  # (B, 3, H, W)
    return value[:, None] - chroma[:, None] * torch.minimum(turned, 4 - turned).clamp(0, 1)


def luma(values: Tensor) -> Tensor:
    """Return the grey (B, 3, H, W) of values, the same in every channel."""
    grey = GREY[0] * values[:, :1] + GREY[1] * values[:, 1:2] + GREY[2] * values[:, 2:3]
    return grey.expand_as(values)


def blur(values: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian of `sigma` pixels (B, 1, 1, 1), up to 2, cut at 6 pixels; the border is repeated."""
    num_images, channels, height, width = values.shape
    distances = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=values.device)
    kernels = torch.exp(-0.5 * (distances / sigma.view(-1, 1)) ** 2)
    kernels = kernels / kernels.sum(dim=1, keepdim=True)
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None]  # (3B, 1, taps)
    padding = (BLUR_RADIUS,) * 4
    planes = functional.pad(values.reshape(1, -1, height, width), padding, mode="replicate")
    with torch.autocast(values.device.type, enabled=False):
        planes = functional.conv2d(planes, kernels[:, :, None], groups=num_images * channels)
        planes = functional.conv2d(planes, kernels[:, :, :, None], groups=num_images * channels)
    return planes.view_as(values)


def blend(values: Tensor, other: Tensor, *, factor: Tensor) -> Tensor:
    """Go from `other` (factor 0) through `values` (factor 1) and beyond, within 0–1."""
    return (other + (values - other) * factor).clamp(0, 1)


def uniform(values: Tensor, limits: tuple[float, float]) -> Tensor:
    """Draw one number per image, shaped (B, 1, 1, 1)."""
    return torch.empty(len(values), 1, 1, 1, device=values.device).uniform_(*limits)


def happens(values: Tensor, probability: float) -> Tensor:
    """Draw one yes or no per image, shaped (B, 1, 1, 1)."""
    return torch.rand(len(values), 1, 1, 1, device=values.device) < probability


def denormalise(images: Tensor) -> Tensor:
    """Return values 0–1 of images normalised by ImageNet's mean and standard deviation."""
    channels = [images[:, i] * IMAGENET_STD[i] + IMAGENET_MEAN[i] for i in range(3)]
    return torch.stack(channels, dim=1).clamp(0, 1)


def normalise(values: Tensor) -> Tensor:
    """Normalise values 0–1 by ImageNet's mean and standard deviation."""
    return torch.stack([(values[:, i] - IMAGENET_MEAN[i]) / IMAGENET_STD[i] for i in range(3)], dim=1)
