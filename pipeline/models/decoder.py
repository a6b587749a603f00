"""The DeepLabv3+ decoder as the released U2PL has it, and the heads on top of it.

It differs from Chen et al. (2018): 256 low-level channels instead of 48, no separable convolutions, one more 3x3 after
the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.resize import resize


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """Widths and rates of the decoder; the paper's are 256, 256, [12, 24, 36] and dropout 0.1."""

    channels: int
    low_level_channels: int
    rates: tuple[int, ...]
    dropout: float


class Decoder(nn.Module):
    """Encoder maps to one map (B, low_level + decoder channels, h, w) at stride 4, which all heads read."""

    def __init__(self, feature_channels: list[int], shape: DecoderShape) -> None:
        super().__init__()
        channels = shape.channels
        self.pyramid = Pyramid(feature_channels[3], shape)
        self.fuse = nn.Sequential(
            nn.Conv2d(self.pyramid.num_out, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(shape.dropout),
        )
        self.low_level = nn.Sequential(
            nn.Conv2d(feature_channels[0], shape.low_level_channels, 1),
            nn.BatchNorm2d(shape.low_level_channels),
            nn.ReLU(inplace=True),
        )
        self.num_out = shape.low_level_channels + channels

    def forward(self, c1: Tensor, c4: Tensor) -> Tensor:  # noqa: D102
        low = self.low_level(c1)  # (B, L, H/4, W/4)
        high = resize(self.fuse(self.pyramid(c4)), low.shape[-2:])  # (B, F, H/4, W/4)
        if low.is_contiguous(memory_format=torch.channels_last):  # which a resize on CUDA is not
            high = high.contiguous(memory_format=torch.channels_last)
        return torch.cat([low, high], dim=1)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: image pooling, a 1x1 and one dilated 3x3 per rate, concatenated."""

    def __init__(self, num_in: int, shape: DecoderShape) -> None:
        super().__init__()
        self.pool = ImagePool(num_in, shape.channels)
        branches = [convolve(num_in, shape.channels, size=1, dilation=1)]
        branches += [convolve(num_in, shape.channels, size=3, dilation=rate) for rate in shape.rates]
        self.branches = nn.ModuleList(branches)
        self.num_out = shape.channels * (2 + len(shape.rates))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.cat([self.pool(x), *(branch(x) for branch in self.branches)], dim=1)


class ImagePool(nn.Module):
    """The mean over the image, a 1x1 convolution, and back to the map's size."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(num_out)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        pooled = self.conv(x.mean(dim=(2, 3), keepdim=True))  # (B, F, 1, 1)
        if self.training and len(x) == 1 and type(self.bn) is nn.BatchNorm2d:
            # One image is one value per channel, which has no variance: fall back on the running statistics.
            norm = self.bn
            mean, var = norm.running_mean, norm.running_var
            pooled = functional.batch_norm(pooled, mean, var, norm.weight, norm.bias, eps=norm.eps)
        else:
            pooled = self.bn(pooled)
        return functional.relu(pooled).expand(-1, -1, *x.shape[-2:])


class Head(nn.Sequential):
    """Two conv-BN-ReLU-dropout blocks and a 1x1 to the output channels (Section 3.1; Appendix of the paper)."""

    def __init__(self, num_in: int, num_out: int, *, shape: DecoderShape) -> None:
        hidden = shape.channels
        super().__init__(
            *head_block(num_in, hidden, dropout=shape.dropout),
            *head_block(hidden, hidden, dropout=shape.dropout),
            nn.Conv2d(hidden, num_out, 1),
        )


class AuxiliaryHead(nn.Sequential):
    """One block and a 1x1 on the third stage; on Cityscapes only, and not mentioned in the paper."""

    def __init__(self, num_in: int, num_out: int, *, shape: DecoderShape) -> None:
        super().__init__(
            *head_block(num_in, shape.channels, dropout=shape.dropout), nn.Conv2d(shape.channels, num_out, 1)
        )


def head_block(num_in: int, num_out: int, *, dropout: float) -> list[nn.Module]:
    """Return 3x3 convolution with bias, norm, ReLU and channel dropout."""
    return [
        nn.Conv2d(num_in, num_out, 3, padding=1),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
    ]


def convolve(num_in: int, num_out: int, *, size: int, dilation: int) -> nn.Sequential:
    """Return a size-preserving convolution without bias, norm and ReLU."""
    padding = dilation * (size // 2)
    conv = nn.Conv2d(num_in, num_out, size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out), nn.ReLU(inplace=True))
