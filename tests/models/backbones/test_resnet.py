"""The encoder: dilations as published, and torchvision's own network where the two overlap."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision

from pipeline.models.backbones.resnet import Bottleneck, EncoderShape, ResNet


def shape(**changes: Any) -> EncoderShape:
    given: dict[str, Any] = {
        "stem": "deep",
        "blocks": (3, 4, 23, 3),
        "width": 64,
        "expansion": 4,
        "output_stride": 8,
        "multi_grid": (2, 2, 4),
    }
    return EncoderShape(**given | changes)


@pytest.mark.parametrize(
    ("output_stride", "third", "fourth"), [(8, [1, *[2] * 22], [4, 8, 16]), (16, [1] * 23, [2, 4, 8])]
)
def test_dilations_are_the_published_ones(output_stride: int, third: list[int], fourth: list[int]) -> None:
    with torch.device("meta"):
        encoder: Any = ResNet(shape(output_stride=output_stride))
    for stage, expected in ((encoder.layer1, [1] * 3), (encoder.layer3, third), (encoder.layer4, fourth)):
        assert [block.conv2.dilation[0] for block in stage] == expected
        assert [block.conv2.padding[0] for block in stage] == expected


def test_a_7x7_stem_without_multi_grid_is_torchvisions_dilated_resnet() -> None:
    torch.manual_seed(0)
    theirs: Any = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = ResNet(shape(stem="7x7", blocks=(3, 4, 6, 3), multi_grid=(1, 1, 1))).eval()
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    image = torch.randn(1, 3, 65, 65)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    expected = []
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)
        expected.append(x)
    for found, wanted in zip(ours(image), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_blocks_start_as_identity_and_convolutions_by_fan_out() -> None:
    torch.manual_seed(0)
    encoder: Any = ResNet(shape(blocks=(2, 1, 1, 1), multi_grid=(1,), width=16))
    assert all(not block.bn3.weight.any() for block in encoder.modules() if isinstance(block, Bottleneck))
    x = torch.randn(1, 64, 8, 8).relu()
    assert torch.equal(encoder.layer1[1].eval()(x), x)
    weight = encoder.layer4[0].conv2.weight  # (128, 128, 3, 3)
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
