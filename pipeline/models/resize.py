"""The one way in which maps are resized: bilinear, corners aligned, as in the released code."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps (B, F, h, w) to `size`, same dtype.

    On accelerators as two matrix products, since PyTorch's own kernel has no deterministic gradient on CUDA:
    asked for one, it gathers and scatters the four neighbours of every pixel one by one.
    """
    if maps.device.type in ("cpu", "meta"):
        return functional.interpolate(maps, size, mode="bilinear", align_corners=True)
    return resize_by_products(maps, size)


def resize_by_products(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize as `resize`, one axis after the other, by products with matrices of two weights a row, in float32."""
    with torch.autocast(maps.device.type, enabled=False):
        down, across = (
            axis_weights(*lengths, device=maps.device) for lengths in zip(maps.shape[-2:], size, strict=True)
        )
        return (down @ (maps.float() @ across.T)).to(maps.dtype)


def axis_weights(length: int, wanted: int, *, device: torch.device) -> Tensor:
    """Return what each of `wanted` places takes of each of `length` given ones, (wanted, length) float32."""
    step = (length - 1) / (wanted - 1) if wanted > 1 else 0.0
    places = torch.arange(wanted, device=device) * step
    return (1 - (places[:, None] - torch.arange(length, device=device)).abs()).clamp(min=0)
