"""Dilated ResNet encoder with bottlenecks, a deep or a 7x7 stem and multi-grid, named as torchvision names its own.

He et al., Deep Residual Learning (2016); dilation and multi-grid as in Chen et al., DeepLabv3 (2017). The deep stem
(three 3x3 convolutions, `conv1.0 … conv1.6`) is what the released U2PL trains; the paper says only "ResNet-101".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.weights import load_encoder, require


def build_encoder(encoder: Mapping[str, Any], *, output_stride: int, weights: str | None) -> ResNet:
    """Build the encoder that `model.encoder` describes, with ImageNet weights where `weights` names some."""
    shape = EncoderShape(**encoder, output_stride=output_stride)
    network = ResNet(shape)
    if weights is not None:
        load_encoder(network, weights, blocks=shape.blocks)
    return network


def check(encoder: Mapping[str, Any], output_stride: int) -> None:
    """Raise ValueError or TypeError where `build_encoder` could not build."""
    EncoderShape(**encoder, output_stride=output_stride)


POSITIVE = "positive numbers"


class ResNet(nn.Module):
    """Images (B, 3, H, W) to four maps [c1 … c4] at strides 4, 8, 8 or 16, and the output stride."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        width = shape.width
        if shape.stem == "deep":
            self.conv1: nn.Module = deep_stem(width)
            stem_channels = 2 * width
        else:
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            stem_channels = width
        self.bn1 = nn.BatchNorm2d(stem_channels)
        # The released code pools with ceil mode, which differs for even sizes only; its crops, 513 and 769, are odd.
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = [width * scale * shape.expansion for scale in (1, 2, 4, 8)]
        inputs = [stem_channels, *channels[:3]]
        stages = [
            Stage(a, b, shape=shape, index=index) for index, (a, b) in enumerate(zip(inputs, channels, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = channels
        initialise(self)

    def forward(self, image: Tensor) -> list[Tensor]:  # noqa: D102
        x = self.maxpool(functional.relu(self.bn1(self.conv1(image)), inplace=True))  # (B, S, H/4, W/4)
        c1 = self.layer1(x)
        c2 = self.layer2(c1)
        c3 = self.layer3(c2)
        c4 = self.layer4(c3)
        return [c1, c2, c3, c4]


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """What the encoder looks like; R-101 as U2PL has it is deep, [3, 4, 23, 3], 64, 4, 8, [2, 2, 4]."""

    stem: str
    blocks: tuple[int, ...]
    width: int
    expansion: int
    output_stride: int
    multi_grid: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("blocks", "multi_grid"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            require(
                f"encoder.{name}",
                getattr(self, name),
                holds=all(number >= 1 for number in getattr(self, name)),
                allowed=POSITIVE,
            )
        require("encoder.stem", self.stem, holds=self.stem in ("deep", "7x7"), allowed="'deep' or '7x7'")
        require(
            "encoder.blocks", self.blocks, holds=len(self.blocks) == 4, allowed="four numbers of blocks, one per stage"
        )
        fits = len(self.multi_grid) == self.blocks[-1]
        require(
            "encoder.multi_grid",
            self.multi_grid,
            holds=fits,
            allowed=f"one factor per block of the last stage ({self.blocks[-1]})",
        )
        for name in ("width", "expansion"):
            require(f"encoder.{name}", getattr(self, name), holds=getattr(self, name) >= 1, allowed="a positive number")

    def strides(self) -> tuple[int, ...]:
        """Return the stride of each stage."""
        return (1, 2, 1, 1) if self.output_stride == 8 else (1, 2, 2, 1)

    def dilations(self, stage: int) -> list[int]:
        """Return the dilation of each block of `stage`: R-101 at stride 8 has 1, 2, … in layer3 and 4, 8, 16 in layer4.

        The first block still has the dilation of the stage before, since its input was sampled by it.
        """
        before = {8: (1, 1, 1, 2), 16: (1, 1, 1, 1)}[self.output_stride][stage]
        here = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2)}[self.output_stride][stage]
        grid = self.multi_grid if stage == 3 else (1,) * self.blocks[stage]
        return [(before if index == 0 else here) * factor for index, factor in enumerate(grid)]


class Stage(nn.Sequential):
    """The bottlenecks of one stage; the first one changes channels and stride."""

    def __init__(self, num_in: int, num_out: int, *, shape: EncoderShape, index: int) -> None:
        stride, dilations = shape.strides()[index], shape.dilations(index)
        first = Bottleneck(num_in, num_out, expansion=shape.expansion, stride=stride, dilation=dilations[0])
        rest = [Bottleneck(num_out, num_out, expansion=shape.expansion, dilation=d) for d in dilations[1:]]
        super().__init__(first, *rest)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride is on the 3x3."""

    def __init__(self, num_in: int, num_out: int, *, expansion: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        planes = num_out // expansion
        self.conv1 = nn.Conv2d(num_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, num_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(num_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or num_in != num_out:
            self.downsample = nn.Sequential(nn.Conv2d(num_in, num_out, 1, stride, bias=False), nn.BatchNorm2d(num_out))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.relu(self.bn2(self.conv2(x)), inplace=True)
        return functional.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


def deep_stem(width: int) -> nn.Sequential:
    """Three 3x3 convolutions to twice the width; the last one's norm is the encoder's `bn1`."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
    )


def initialise(encoder: ResNet) -> None:
    """Kaiming normal by fan-out; the last norm of every residual branch starts at zero, so blocks start as identity."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
