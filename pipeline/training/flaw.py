"""GCT's flaw maps (Ke et al. 2020): where a prediction is wrong, and a detector that learns to tell.

A flaw map (B, 1, H, W) is 0 where a prediction is right and 1 where it is worst. Blur sizes follow the map's size
and their deviation the usual rule 0.3((k - 1)/2 - 1) + 0.8, both as released.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.resize import resize

LEAST_FLAW = 0.1  # released: a map that stays below has no flaw at all
DETECTOR_WIDTHS = (1, 2, 2, 4, 4, 8, 8)  # times `width`, which is 64 as published
DETECTOR_STRIDES = (2, 2, 1, 2, 1, 2, 1)


class FlawDetector(nn.Module):
    """Predict the flaw map of class probabilities seen beside their image.

    Seven 4 x 4 convolutions with half batch, half instance normalisation, and one to a single channel; the published
    strides are 2, 2, 1, 2, 1, 2, 1, 2. With `at_stride_4`, what comes in is already four times smaller than the
    image, so the first two are 1. Strides of 1 keep the size, where the released code loses a pixel each.

    The last layer's weights are stored times the root of their number, with which the output is divided: the same
    function from the same start, but SGD, under which the plain one diverges, can train it (the reference has Adam).
    """

    def __init__(self, num_classes: int, *, width: int, at_stride_4: bool) -> None:
        super().__init__()
        strides = (1, 1, *DETECTOR_STRIDES[2:]) if at_stride_4 else DETECTOR_STRIDES
        layers: list[nn.Module] = []
        channels = 3 + num_classes
        for factor, stride in zip(DETECTOR_WIDTHS, strides, strict=True):
            layers += [*convolution(channels, factor * width, stride=stride), HalfNorm(factor * width)]
            layers.append(nn.LeakyReLU(0.2))
            channels = factor * width
        pad, last = convolution(channels, 1, stride=2)
        nn.init.uniform_(last.get_parameter("weight"), -1, 1)
        self.layers = nn.Sequential(*layers, pad, last)
        self.scale = last.get_parameter("weight").numel() ** -0.5

    def forward(self, image: Tensor, probabilities: Tensor) -> Tensor:
        """Return the flaw map (B, 1, H, W) of probabilities (B, C, H, W) and their image (B, 3, H, W)."""
        flaw = self.scale * self.layers(torch.cat([image, probabilities], dim=1)).float()
        return resize(flaw, probabilities.shape[-2:])


class HalfNorm(nn.Module):
    """Batch normalisation of the first half of the channels, instance normalisation of the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.batch = nn.BatchNorm2d(channels // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Return the normalised features, same shape."""
        shared, own = features.split([self.batch.num_features, features.shape[1] - self.batch.num_features], dim=1)
        # not `instance_norm`, which refuses the single place of a tiny image
        variance, mean = torch.var_mean(own.float(), dim=(2, 3), correction=0, keepdim=True)
        normalised = (own - mean) * torch.rsqrt(variance + 1e-5)
        return torch.cat([self.batch(shared), normalised.to(shared.dtype)], dim=1)


def ideal_flaw(probabilities: Tensor, labels: Tensor, *, valid: Tensor) -> Tensor:
    """Return the flaw map (B, 1, H, W) the detector should predict for labelled images ("pipeline C" of the paper).

    μ Σ_c |onehot(y)_c - S_c|, blurred by 1/8 of the side, dilated by 3, blurred by 1/4, then stretched to 0–1 in each
    image, which cancels μ (0.5 as released). `labels` (B, H, W) hold any class where not `valid`: no flaw is there.
    """
    right = probabilities.gather(1, labels[:, None])  # (B, 1, H, W)
    difference = (1 - right) * valid[:, None]  # Σ_c |onehot_c - S_c| = 2 (1 - S_y)
    side = labels.shape[-2]
    dilated = functional.max_pool2d(blur(difference, side // 8), kernel_size=3, stride=1, padding=1)
    return stretch(blur(dilated, side // 4))


def clean(flaw: Tensor, *, valid: Tensor) -> Tensor:
    """Make predicted flaw maps (B, 1, H, W) comparable: no negative value, smooth, from 0 to 1 in each image.

    A map that nowhere exceeds 0.1 becomes 0. Where not `valid` (B, H, W, bool) there is no flaw: what the detector
    says there is taught by nothing, and must not scale the rest.
    """
    seen = valid[:, None]
    smooth = blur(flaw.clamp(min=0) * seen, flaw.shape[-2] // 16) * seen
    high = smooth.amax(dim=(2, 3), keepdim=True)
    low = torch.where(seen, smooth, high).amin(dim=(2, 3), keepdim=True)
    return (smooth - low) / (high - low + 1e-9) * (seen & (high > LEAST_FLAW))


def better_prediction(own: Tensor, partner: Tensor, *, own_flaw: Tensor, partner_flaw: Tensor) -> Tensor:
    """Return, per pixel, the prediction with the smaller flaw (dynamic consistency); on a tie the own."""
    return torch.where(partner_flaw < own_flaw, partner, own)


def saturate(flaw: Tensor, threshold: float) -> Tensor:
    """Raise flaws above the threshold to 1: they are bad, how bad is not to be trusted."""
    return torch.where(flaw > threshold, 1.0, flaw)


def blur(maps: Tensor, size: int) -> Tensor:
    """Blur maps (B, 1, H, W) with a Gaussian of `size` taps, or size + 1 where even, reflected at the border."""
    half = size // 2
    if half == 0:
        return maps
    sigma = 0.3 * (half - 1) + 0.8
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=maps.device) / sigma) ** 2)
    taps = (taps / taps.sum()).view(1, 1, -1, 1)
    with torch.autocast(maps.device.type, enabled=False):
        padded = functional.pad(maps.float(), (half,) * 4, mode="reflect")
        return functional.conv2d(functional.conv2d(padded, taps), taps.mT)


def stretch(maps: Tensor) -> Tensor:
    """Map each image's values to 0–1; a constant map becomes 0."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low + 1e-9)


def convolution(channels_in: int, channels_out: int, *, stride: int) -> list[nn.Module]:
    """Return a 4 x 4 convolution that divides the size by its stride, rounding up."""
    return [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(channels_in, channels_out, 4, stride)]
