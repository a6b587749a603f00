"""Predictions at the size of the image: of the whole image, or of windows that slide over it.

Networks answer at stride 4; logits are resized bilinearly with aligned corners, as in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.resize import resize
from pipeline.models.segnet import SegNet

MODES = ("whole", "centre", "slide")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How to evaluate: `size` is the crop of `centre` and the window of `slide`, in pixels; `whole` has none.

    `whole` predicts whole images; `centre` a centre crop with padding, as U2PL measures VOC during training; `slide`
    sliding windows, as it measures Cityscapes.
    """

    mode: str
    size: int | None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"evaluation mode is {self.mode!r}; allowed are {MODES}")
        if self.mode != "whole" and (self.size is None or self.size < 1):
            raise ValueError(f"evaluation size is {self.size}; mode {self.mode!r} needs 1 pixel or more")

    @property
    def pixels(self) -> int:
        """The size, where the mode has one."""
        assert self.size is not None
        return self.size


def predict(network: SegNet, images: Tensor, *, evaluation: Evaluation, batch: int) -> Tensor:
    """Return class ids (B, H, W) of normalised images (B, 3, H, W), already cropped in mode `centre`."""
    return predict_logits(network, images, evaluation=evaluation, batch=batch).argmax(1)


def predict_logits(network: SegNet, images: Tensor, *, evaluation: Evaluation, batch: int) -> Tensor:
    """Return logits (B, C, H, W) of the same."""
    if evaluation.mode == "slide":
        return slide_logits(network, images, window=evaluation.pixels, batch=batch)
    return whole_logits(network, images)


def num_windows(size: tuple[int, ...], evaluation: Evaluation) -> int:
    """Return how many forward passes of one frame an image of (H, W) needs."""
    if evaluation.mode != "slide":
        return 1
    height, width = (max(length, evaluation.pixels) for length in size)
    return len(window_starts(height, evaluation.pixels)) * len(window_starts(width, evaluation.pixels))


def whole_logits(network: SegNet, images: Tensor) -> Tensor:
    """Return logits (B, C, H, W) of images (B, 3, H, W) taken whole."""
    logits = network.predict(images).contiguous(memory_format=torch.channels_last)  # resized and ranked much faster
    return resize(logits, images.shape[-2:])


def slide_logits(network: SegNet, images: Tensor, *, window: int, batch: int) -> Tensor:
    """Return logits (B, C, H, W), the mean of those of all windows (window x window) that cover a pixel.

    Windows are ceil(2/3 · window) apart, the last ones flush with the border; `batch` of them run at a time. An
    image smaller than the window is padded with the mean colour on all sides.
    """
    height, width = images.shape[-2:]
    padded, inner = _padded(images, window)
    starts = [
        (image, top, left)
        for image in range(len(images))
        for top in window_starts(padded.shape[-2], window)
        for left in window_starts(padded.shape[-1], window)
    ]
    total: Tensor | None = None
    for first in range(0, len(starts), batch):
        part = starts[first : first + batch]
        patches = torch.stack([padded[i, :, top : top + window, left : left + window] for i, top, left in part])
        logits = whole_logits(network, patches)
        if total is None:
            size = (len(images), logits.shape[1], *padded.shape[-2:])
            total = logits.new_zeros(size).contiguous(memory_format=torch.channels_last)
        for (i, top, left), one in zip(part, logits, strict=True):
            total[i, :, top : top + window, left : left + window] += one
    assert total is not None
    total /= _cover(padded, window)
    return total[..., inner[0] : inner[0] + height, inner[1] : inner[1] + width]


def window_starts(length: int, window: int) -> list[int]:
    """Return where windows start on an axis of `length` >= window pixels (1024 and 769: 0, 255)."""
    stride = -(-2 * window // 3)
    return sorted({min(start, length - window) for start in range(0, max(1, length - window + stride), stride)})


def _padded(images: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    height, width = images.shape[-2:]
    below, right = max(0, window - height), max(0, window - width)
    top, left = below // 2, right // 2
    return functional.pad(images, (left, right - left, top, below - top)), (top, left)


def _cover(images: Tensor, window: int) -> Tensor:
    """Return how many windows cover each pixel, (H, W)."""
    cover = images.new_zeros(images.shape[-2:])
    for top in window_starts(images.shape[-2], window):
        for left in window_starts(images.shape[-1], window):
            cover[top : top + window, left : left + window] += 1
    return cover
