"""From the `model` block of params.yaml to a network."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.models.decoder import DecoderShape
from pipeline.models.resnet import EncoderShape
from pipeline.models.segnet import SegNet
from pipeline.models.weights import load_encoder


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` block. `weights`: null (random), `torchvision` (ImageNet, 7x7 stem) or the path of a state dict."""

    stem: str
    blocks: tuple[int, ...]
    width: int
    expansion: int
    output_stride: int
    multi_grid: tuple[int, ...]
    aspp_rates: tuple[int, ...]
    decoder_channels: int
    low_level_channels: int
    representation_channels: int
    auxiliary: bool
    dropout: float
    weights: str | None

    def __post_init__(self) -> None:
        for name in ("blocks", "multi_grid", "aspp_rates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            require(name, getattr(self, name), all(number >= 1 for number in getattr(self, name)), "positive numbers")
        require("stem", self.stem, self.stem in ("deep", "7x7"), "'deep' or '7x7'")
        require("blocks", self.blocks, len(self.blocks) == 4, "four numbers of blocks, one per stage")
        require("output_stride", self.output_stride, self.output_stride in (8, 16), "8 or 16")
        fits = len(self.multi_grid) == self.blocks[-1]
        require("multi_grid", self.multi_grid, fits, f"one factor per block of the last stage ({self.blocks[-1]})")
        require("dropout", self.dropout, 0 <= self.dropout < 1, "a probability below 1")
        channels = "width expansion decoder_channels low_level_channels representation_channels"
        for name in channels.split():
            require(name, getattr(self, name), getattr(self, name) >= 1, "a positive number")


def build_network(model: ModelConfig, *, num_classes: int, representation: bool = False) -> SegNet:
    """Build a freshly initialised network, with ImageNet weights in its encoder where the configuration names some."""
    network = SegNet(
        EncoderShape(
            stem=model.stem,
            blocks=model.blocks,
            width=model.width,
            expansion=model.expansion,
            output_stride=model.output_stride,
            multi_grid=model.multi_grid,
        ),
        DecoderShape(
            channels=model.decoder_channels,
            low_level_channels=model.low_level_channels,
            rates=model.aspp_rates,
            dropout=model.dropout,
        ),
        num_classes=num_classes,
        representation_channels=model.representation_channels if representation else None,
        auxiliary=model.auxiliary,
    )
    if model.weights is not None:
        load_encoder(network.encoder, model.weights, blocks=model.blocks)
    return network


def require(name: str, value: object, holds: bool, allowed: str) -> None:
    """Refuse a value of the `model` block, saying what is allowed."""
    if not holds:
        message = f"model.{name} is {value!r}; allowed: {allowed}"
        raise ValueError(message)
