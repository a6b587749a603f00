"""Weak augmentation: random scale, flip and crop of an 8-bit image and its mask.

Equal to resizing the whole image (bilinear, half-pixel centres) and its mask (nearest) and then cropping, but
crops first, in source pixels, and resizes only what is kept. Crop offsets are whole source pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SCALE_LAWS = ("two_sided", "uniform")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What weak augmentation may do (Appendix A; two-sided scale and padding as in the released code).

    `crop` is in pixels. The scale is, with equal chance, uniform below or above 1 (`two_sided`, as released), or
    uniform over the whole range (`uniform`, the paper's words taken literally). Images smaller than the crop are
    padded on all sides with the mean colour; the mask there is `pad_label`: 255 (ignored), or 0 (background, as
    released).
    """

    crop: int
    scale_min: float
    scale_max: float
    scale_law: str
    flip_probability: float
    pad_label: int

    def __post_init__(self) -> None:
        if self.crop < 1:
            raise ValueError(f"crop is {self.crop} pixels; allowed are 1 and more")
        if not 0 < self.scale_min <= self.scale_max:
            raise ValueError(f"scale_min, scale_max are {self.scale_min}, {self.scale_max}; allowed: 0 < min <= max")
        if self.scale_law not in SCALE_LAWS:
            raise ValueError(f"scale_law is {self.scale_law!r}; allowed: {', '.join(SCALE_LAWS)}")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability is {self.flip_probability}; allowed are 0 to 1")
        if self.pad_label not in (0, 255):
            raise ValueError(f"pad_label is {self.pad_label}; allowed are 0 (background) and 255 (ignored)")


@dataclass(frozen=True)
class View:
    """One drawn augmentation: the scale, whether to flip, and where to crop, as shares of the possible offsets."""

    scale: float
    flip: bool
    top: float
    left: float


@dataclass(frozen=True)
class Window:
    """What one axis keeps: `length` source pixels from `start` on are resized, `size` of them from `lead` on are kept.

    They go to `pad` in the crop. The whole axis has `source` pixels and would be resized to `scaled`.
    """

    start: int
    length: int
    lead: int
    size: int
    pad: int
    source: int
    scaled: int

    @property
    def resized(self) -> int:
        """How many pixels the patch is resized to: never its own length, which PyTorch would copy, scale or not."""
        wanted = self.lead + self.size
        return wanted + (wanted == self.length and self.scaled != self.source)


@dataclass(frozen=True)
class Placed:
    """A view of an image of known size."""

    rows: Window
    columns: Window
    flip: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part of the crop that is not padding: y0, y1, x0, x1."""
        rows, columns = self.rows, self.columns
        return rows.pad, rows.pad + rows.size, columns.pad, columns.pad + columns.size


def draw_views(augmentation: Augmentation, num: int, *, generator: np.random.Generator) -> list[View]:
    """Draw `num` views. Every view takes the same count of random numbers, so batch sizes do not shift them."""
    low, high = augmentation.scale_min, augmentation.scale_max
    middle = min(max(1.0, low), high) if augmentation.scale_law == "two_sided" else high
    side, share, flip, top, left = generator.random((num, 5)).T
    below = (side < 0.5) & (low < middle) | (middle == high)
    scale = np.where(below, low + share * (middle - low), middle + share * (high - middle))
    rows = zip(scale, flip < augmentation.flip_probability, top, left, strict=True)
    return [View(float(size), bool(turn), float(y), float(x)) for size, turn, y, x in rows]


def place(view: View, size: tuple[int, int], *, crop: int) -> Placed:
    """Return what a view keeps of an image of `size` (height, width), each resized to floor(size · scale)."""
    height, width = size
    return Placed(
        _window(height, view.scale, share=view.top, crop=crop),
        _window(width, view.scale, share=view.left, crop=crop),
        view.flip,
    )


def fill_image(image: Tensor, placed: Placed, *, out: Tensor) -> None:
    """Write a view of `image` (H, W, 3) uint8 into the box of `out` (crop, crop, 3)."""
    rows, columns = placed.rows, placed.columns
    patch = image[rows.start : rows.start + rows.length, columns.start : columns.start + columns.length]
    patch = patch.contiguous()[None].permute(0, 3, 1, 2)  # (1, 3, h, w), channels last: the fast path for uint8
    # The explicit scales keep the sampling grid of the whole image, whatever part of it is resized.
    scales = rows.scaled / rows.source, columns.scaled / columns.source
    resized = torch.ops.aten.upsample_bilinear2d(patch, [rows.resized, columns.resized], False, *scales)
    kept = resized[0, :, rows.lead : rows.lead + rows.size, columns.lead : columns.lead + columns.size]
    top, bottom, left, right = placed.box
    out[top:bottom, left:right] = (kept.flip(2) if placed.flip else kept).permute(1, 2, 0)


def fill_mask(mask: np.ndarray, placed: Placed, *, out: np.ndarray) -> None:
    """Write a view of `mask` (H, W) uint8 into the box of `out` (crop, crop): pixel i is source floor(i · in/out)."""
    across = _nearest(placed.columns)
    top, bottom, left, right = placed.box
    kept = mask.take(_nearest(placed.rows), axis=0).take(across[::-1] if placed.flip else across, axis=1)
    out[top:bottom, left:right] = kept


def _window(source: int, scale: float, *, share: float, crop: int) -> Window:
    scaled = max(1, int(source * scale))
    if scaled <= crop:
        return Window(0, source, 0, scaled, (crop - scaled) // 2, source, scaled)
    last = (scaled - crop - 1) * source // scaled
    start = int(share * (last + 1))
    # Away from the border one pixel is resized and dropped: the first of a patch would lack its outer neighbour.
    lead = min(1, start)
    length = min(source - start, -(-(lead + crop) * source // scaled) + 1)
    return Window(start, length, lead, crop, 0, source, scaled)


def _nearest(window: Window) -> np.ndarray:
    steps = np.arange(window.lead, window.lead + window.size)
    return window.start + steps * window.source // window.scaled
