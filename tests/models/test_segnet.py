"""The network: its size as published, its parts, and the edges of what it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet

PAPER: dict[str, Any] = {
    "backbone": "resnet",
    "encoder": {"stem": "deep", "blocks": [3, 4, 23, 3], "width": 64, "expansion": 4, "multi_grid": [2, 2, 4]},
    "output_stride": 8,
    "aspp_rates": [12, 24, 36],
    "decoder_channels": 256,
    "low_level_channels": 256,
    "representation_channels": 256,
    "auxiliary": False,
    "dropout": 0.1,
    "weights": None,
}
TINY = PAPER | {
    "encoder": {"stem": "deep", "blocks": [1, 1, 1, 1], "width": 8, "expansion": 1, "multi_grid": [2]},
    "aspp_rates": [1, 2],
    "decoder_channels": 16,
    "low_level_channels": 8,
    "representation_channels": 12,
    "dropout": 0.0,
}


def build(config: dict[str, Any], *, num_classes: int = 21, representation: bool = True, **changes: Any) -> SegNet:
    encoder = config["encoder"] | {key: changes.pop(key) for key in list(changes) if key in config["encoder"]}
    config = config | {"encoder": encoder} | changes
    return build_network(ModelConfig(**config), num_classes=num_classes, representation=representation)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_network_has_the_published_parameters_and_cost() -> None:
    with torch.device("meta"):
        network = build(PAPER).eval()
        with FlopCounterMode(display=False) as counter:
            output = network(torch.empty(1, 3, 513, 513))
    assert round(num_parameters(network) / 1e6, 2) == 64.46
    assert round(counter.get_total_flops() / 1e9) == 651
    assert len(list(network.parameters())) == 360
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 117
    assert output.logits.shape == (1, 21, 129, 129)
    assert output.representation is not None
    assert output.representation.shape == (1, 256, 129, 129)
    assert output.auxiliary is None


def test_the_parts_have_the_published_sizes() -> None:
    with torch.device("meta"):
        network = build(PAPER)
    decoder = network.decoder
    parts = [network.encoder, decoder.pyramid, decoder.fuse, decoder.low_level, network.classifier, network.represent]
    assert [round(num_parameters(part) / 1e6, 2) for part in parts if part is not None] == [
        42.62, 15.21, 2.95, 0.07, 1.78, 1.84,
    ]  # fmt: skip


def test_the_auxiliary_head_of_cityscapes_makes_it_66_82_million() -> None:
    with torch.device("meta"):
        network = build(PAPER, num_classes=19, auxiliary=True)
        output = network(torch.empty(2, 3, 97, 97))
    assert round(num_parameters(network) / 1e6, 2) == 66.82
    assert output.auxiliary is not None
    assert output.auxiliary.shape == (2, 19, 13, 13)


@pytest.mark.parametrize(("output_stride", "side"), [(8, 8), (16, 4)])
@pytest.mark.parametrize("stem", ["deep", "7x7"])
def test_maps_have_the_strides_and_channels_that_are_promised(stem: str, output_stride: int, side: int) -> None:
    network = build(TINY, stem=stem, output_stride=output_stride)
    features = network.features(torch.randn(2, 3, 64, 64))
    assert [feature.shape[1] for feature in features] == network.feature_channels
    assert [feature.shape[-1] for feature in features] == [16, 8, side, side]
    fused = network.fuse(features)
    assert fused.shape == (2, network.fused_channels, 16, 16)
    assert network.classify(fused).shape == (2, network.num_classes, 16, 16)


def test_heads_read_features_that_were_perturbed_outside() -> None:
    network = build(TINY).eval()
    image = torch.randn(1, 3, 32, 32)
    features = network.features(image)
    assert torch.equal(network.classify(network.fuse(features)), network(image).logits)
    dropped = network.classify(network.fuse([torch.zeros_like(feature) for feature in features]))
    assert not torch.equal(dropped, network(image).logits)


def test_predict_gives_the_logits_of_forward_and_representation_can_be_left_out() -> None:
    network = build(TINY).eval()
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(network.predict(image), network(image).logits)
    assert network(image, representation=False).representation is None


def test_a_representation_head_does_not_change_the_other_weights_under_a_seed() -> None:
    networks = []
    for representation in (False, True):
        torch.manual_seed(0)
        networks.append(build(TINY, representation=representation))
    plain, full = (network.state_dict() for network in networks)
    assert all(torch.equal(value, full[key]) for key, value in plain.items())


def test_outputs_are_float32_under_autocast() -> None:
    network = build(TINY, auxiliary=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.randn(2, 3, 32, 32))
    assert all(part is not None and part.dtype == torch.float32 for part in output)


def test_one_image_can_be_trained_on_and_leaves_the_statistics_finite() -> None:
    network = build(TINY).train()
    network(torch.randn(1, 3, 32, 32)).logits.sum().backward()
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_an_output_can_be_cut_by_images() -> None:
    output = build(TINY, auxiliary=True)(torch.randn(3, 3, 32, 32))
    part = output.take(slice(1, 3))
    assert torch.equal(part.logits, output.logits[1:])
    assert part.representation is not None
    assert part.auxiliary is not None
    assert len(part.representation) == len(part.auxiliary) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stem": "wide"}, "model.encoder.stem is 'wide'; allowed: 'deep' or '7x7'"),
        ({"backbone": "vgg"}, "model.backbone is 'vgg'; allowed: .*resnet"),
        ({"output_stride": 32}, "model.output_stride is 32; allowed: 8 or 16"),
        (
            {"multi_grid": [1, 2]},
            r"model.encoder.multi_grid is \(1, 2\); allowed: one factor per block of the last",
        ),
        ({"blocks": [1, 1, 1]}, "model.encoder.blocks is"),
        ({"aspp_rates": [0]}, "model.aspp_rates is"),
        ({"dropout": 1.0}, "model.dropout is 1.0"),
        ({"width": 0}, "model.encoder.width is 0; allowed: a positive number"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(TINY, **changes)
