"""timm's encoders behind the same four maps; packaged weights, which need no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from pipeline.models.backbones.timm import PACKAGED, build_encoder, check, packaged_state, timm_name

LITE = {"name": PACKAGED, "frozen": []}


@pytest.mark.parametrize(("stride", "deepest"), [(8, 8), (16, 4)])
def test_the_maps_have_the_strides_and_channels_the_decoder_asks_for(stride: int, deepest: int) -> None:
    encoder = build_encoder(LITE, output_stride=stride, weights=None).eval()
    maps = encoder(torch.zeros(1, 3, 64, 64))
    assert [tuple(features.shape[1:]) for features in maps] == [
        (channels, size, size) for channels, size in zip(encoder.channels, (16, 8, deepest, deepest), strict=True)
    ]


def test_the_packaged_weights_are_the_networks_own_layer_by_layer() -> None:
    """The features from the encoder are those of timm's whole network with the same weights, at its own stride."""
    state = packaged_state(PACKAGED)
    whole: Any = timm.create_model(PACKAGED).eval()
    missing, unexpected = whole.load_state_dict(state, strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {"conv_head", "bn2", "classifier"}
    encoder = build_encoder(LITE, output_stride=16, weights="package").eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = whole.bn1(whole.conv_stem(image))
        for stage in list(whole.blocks)[:5]:
            features = stage(features)
        assert torch.allclose(encoder(image)[2], features, atol=1e-5)


def test_the_packages_names_become_timms() -> None:
    assert timm_name("_blocks.0._depthwise_conv.weight") == "blocks.0.0.conv_dw.weight"
    assert timm_name("_blocks.2._bn2.running_mean") == "blocks.1.1.bn3.running_mean"
    assert timm_name("_blocks.15._project_conv.weight") == "blocks.6.0.conv_pwl.weight"
    assert timm_name("_conv_stem.weight") == "conv_stem.weight"


def test_frozen_parameters_get_no_gradient_and_all_others_do() -> None:
    encoder = build_encoder(LITE | {"frozen": ["blocks.0", "conv_dw"]}, output_stride=16, weights=None)
    encoder(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    without = {name for name, parameter in encoder.layers.named_parameters() if parameter.grad is None}
    expected = {name for name, _ in encoder.layers.named_parameters() if "blocks.0" in name or "conv_dw" in name}
    assert without == expected


def test_what_cannot_be_built_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder\.name is 'tf_nothing'"):
        check({"name": "tf_nothing", "frozen": []}, 16)
    with pytest.raises(ValueError, match=r"allowed: \{name"):
        check({"name": PACKAGED}, 16)
    with pytest.raises(ValueError, match="8 or 16"):
        check(LITE, 32)
    with pytest.raises(ValueError, match=r"encoder\.frozen is 'layer9'"):
        build_encoder(LITE | {"frozen": ["layer9"]}, output_stride=16, weights=None)
    with pytest.raises(ValueError, match=r"only with encoder\.name"):
        build_encoder({"name": "resnet18", "frozen": []}, output_stride=16, weights="package")
    with pytest.raises(ValueError, match=r"encoder\.name 'densenet121' cannot be built at output stride 16: "):
        build_encoder({"name": "densenet121", "frozen": []}, output_stride=16, weights=None)
    torch.save({"conv_stem.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"does not fit model\.encoder(?s:.)*Missing key"):
        build_encoder(LITE, output_stride=16, weights=str(tmp_path / "weights.pt"))
