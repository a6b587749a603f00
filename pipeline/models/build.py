"""From the `model` block of params.yaml to a network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.models.decoder import DecoderShape
from pipeline.models.segnet import SegNet
from pipeline.models.weights import require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` block: `backbone` is a module of `pipeline/models/backbones`, `encoder` what that one asks for.

    `weights`: null (random), `torchvision` or `package` (as the backbone has them), or the path of a state dict.
    """

    backbone: str
    encoder: Mapping[str, Any]
    output_stride: int
    aspp_rates: tuple[int, ...]
    decoder_channels: int
    low_level_channels: int
    representation_channels: int
    auxiliary: bool
    dropout: float
    weights: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "aspp_rates", tuple(self.aspp_rates))
        require(
            "aspp_rates", self.aspp_rates, holds=all(rate >= 1 for rate in self.aspp_rates), allowed="positive numbers"
        )
        require("output_stride", self.output_stride, holds=self.output_stride in (8, 16), allowed="8 or 16")
        require("dropout", self.dropout, holds=0 <= self.dropout < 1, allowed="a probability below 1")
        for name in ("decoder_channels", "low_level_channels", "representation_channels"):
            require(name, getattr(self, name), holds=getattr(self, name) >= 1, allowed="a positive number")
        backbone(self.backbone).check(self.encoder, self.output_stride)


def build_network(model: ModelConfig, *, num_classes: int, representation: bool = False) -> SegNet:
    """Build a freshly initialised network, its encoder with pre-trained weights where the configuration names some."""
    build_encoder = backbone(model.backbone).build_encoder
    return SegNet(
        build_encoder(model.encoder, output_stride=model.output_stride, weights=model.weights),
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


def backbone(name: str) -> Any:
    """Return the module of a backbone. Raises ValueError with the known names where there is none."""
    known = sorted(path.stem for path in (Path(__file__).parent / "backbones").glob("[a-z]*.py"))
    require("backbone", name, holds=name in known, allowed=", ".join(known))
    return importlib.import_module(f"pipeline.models.backbones.{name}")
