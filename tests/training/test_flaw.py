"""GCT's flaw maps, against pixel loops over the formulas of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training import flaw


def naive_blur(grid: list[list[float]], size: int) -> list[list[float]]:
    """Blur by a full two-dimensional Gaussian of an odd number of taps, reflecting at the border."""
    size += 1 - size % 2
    if size == 1:
        return grid
    sigma, half = 0.3 * ((size - 1) / 2 - 1) + 0.8, size // 2
    height, width = len(grid), len(grid[0])
    weights = {
        (i, j): math.exp(-(i * i + j * j) / (2 * sigma * sigma))
        for i in range(-half, half + 1)
        for j in range(-half, half + 1)
    }
    total = sum(weights.values())

    def reflect(place: int, length: int) -> int:
        place = abs(place)
        return 2 * (length - 1) - place if place >= length else place

    return [
        [
            sum(w * grid[reflect(y + i, height)][reflect(x + j, width)] for (i, j), w in weights.items()) / total
            for x in range(width)
        ]
        for y in range(height)
    ]


def naive_stretch(grid: list[list[float]]) -> list[list[float]]:
    low, high = min(map(min, grid)), max(map(max, grid))
    return [[0.0 if high == low else (value - low) / (high - low) for value in row] for row in grid]


def naive_ideal(probabilities: Tensor, labels: Tensor, valid: Tensor, strength: float) -> list[list[float]]:
    num_classes, height, width = probabilities.shape
    difference = [
        [
            strength
            * sum(abs(float(int(labels[y, x]) == c) - float(probabilities[c, y, x])) for c in range(num_classes))
            * float(valid[y, x])
            for x in range(width)
        ]
        for y in range(height)
    ]
    blurred = naive_blur(difference, height // 8)
    dilated = [
        [
            max(
                blurred[i][j]
                for i in range(max(0, y - 1), min(height, y + 2))
                for j in range(max(0, x - 1), min(width, x + 2))
            )
            for x in range(width)
        ]
        for y in range(height)
    ]
    return naive_stretch(naive_blur(dilated, height // 4))


@pytest.fixture
def predicted() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    probabilities = (2 * torch.randn(2, 4, 24, 20)).softmax(dim=1)
    return probabilities, torch.randint(0, 4, (2, 24, 20)), torch.rand(2, 24, 20) < 0.9


def test_the_ideal_flaw_map_is_the_papers(predicted: tuple[Tensor, Tensor, Tensor]) -> None:
    probabilities, labels, valid = predicted
    ours = flaw.ideal_flaw(probabilities, labels, valid=valid)
    for image in range(2):
        naive = torch.tensor(naive_ideal(probabilities[image], labels[image], valid[image], 0.5))
        torch.testing.assert_close(ours[image, 0], naive, atol=1e-4, rtol=0)


def test_a_right_prediction_has_no_flaw() -> None:
    labels = torch.randint(0, 4, (2, 16, 16))
    right = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert not flaw.ideal_flaw(right, labels, valid=torch.ones(2, 16, 16, dtype=torch.bool)).any()


def test_the_flaw_is_where_the_prediction_is_wrong() -> None:
    labels = torch.zeros(1, 32, 32, dtype=torch.int64)
    probabilities = torch.zeros(1, 2, 32, 32)
    probabilities[:, 0] = 1
    probabilities[:, :, 4:10, 20:26] = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    ideal = flaw.ideal_flaw(probabilities, labels, valid=torch.ones(1, 32, 32, dtype=torch.bool))[0, 0]
    place = int(ideal.argmax())
    assert 4 <= place // 32 < 10
    assert 20 <= place % 32 < 26
    assert float(ideal[25, 5]) == 0


@pytest.mark.parametrize("side", [16, 24, 40, 48])
def test_blur_is_a_gaussian_that_keeps_constants(side: int) -> None:
    torch.manual_seed(side)
    maps = torch.rand(1, 1, side, 20)
    naive = torch.tensor(naive_blur(maps[0, 0].tolist(), side // 8))
    torch.testing.assert_close(flaw.blur(maps, side // 8)[0, 0], naive, atol=1e-5, rtol=0)
    torch.testing.assert_close(flaw.blur(torch.full((1, 1, side, 20), 0.7), 5), torch.full((1, 1, side, 20), 0.7))


def test_cleaning_clamps_blurs_and_stretches_every_map() -> None:
    torch.manual_seed(4)
    maps = torch.randn(2, 1, 32, 32)
    cleaned = flaw.clean(maps, valid=torch.ones(2, 32, 32, dtype=torch.bool))
    for image in range(2):
        clamped = [[max(0.0, value) for value in row] for row in maps[image, 0].tolist()]
        naive = torch.tensor(naive_stretch(naive_blur(clamped, 32 // 16)))
        torch.testing.assert_close(cleaned[image, 0], naive, atol=1e-5, rtol=0)


def test_cleaning_empties_a_map_without_a_flaw_above_a_tenth() -> None:
    faint = torch.zeros(2, 1, 16, 16)
    faint[0, 0, 3, 3], faint[1, 0, 3, 3] = 0.09, 0.5  # 16 // 16 = 1 tap: no blur
    cleaned = flaw.clean(faint, valid=torch.ones(2, 16, 16, dtype=torch.bool))
    assert not cleaned[0].any()
    assert float(cleaned[1].max()) == pytest.approx(1)


def test_what_the_detector_says_of_padding_does_not_scale_the_image() -> None:
    torch.manual_seed(5)
    maps, valid = torch.rand(1, 1, 40, 40), torch.ones(1, 40, 40, dtype=torch.bool)
    valid[:, :, 30:] = False
    garbage = torch.where(valid[:, None], maps, 100.0)
    cleaned = flaw.clean(garbage, valid=valid)
    torch.testing.assert_close(cleaned, flaw.clean(torch.where(valid[:, None], maps, 0.0), valid=valid))
    assert not cleaned[:, :, :, 30:].any()
    assert (float(cleaned[valid[:, None]].min()), float(cleaned.max())) == pytest.approx((0, 1))
    assert not flaw.clean(garbage, valid=torch.zeros_like(valid)).any()


def test_the_better_prediction_is_the_one_with_the_smaller_flaw_and_ones_own_on_a_tie() -> None:
    own, partner = torch.zeros(1, 2, 1, 3), torch.ones(1, 2, 1, 3)
    own_flaw = torch.tensor([0.5, 0.1, 0.3]).view(1, 1, 1, 3)
    partner_flaw = torch.tensor([0.2, 0.4, 0.3]).view(1, 1, 1, 3)
    chosen = flaw.better_prediction(own, partner, own_flaw=own_flaw, partner_flaw=partner_flaw)
    assert chosen[0, 0, 0].tolist() == [1, 0, 0]


def test_flaws_above_the_threshold_saturate() -> None:
    assert flaw.saturate(torch.tensor([0.1, 0.6, 0.61]), 0.6).tolist() == pytest.approx([0.1, 0.6, 1.0])


@pytest.mark.parametrize(("side", "at_stride_4"), [(64, False), (33, False), (16, True), (4, True)])
def test_the_detector_returns_a_map_of_the_inputs_size(side: int, at_stride_4: bool) -> None:
    detector = flaw.FlawDetector(3, width=4, at_stride_4=at_stride_4)
    images, probabilities = torch.randn(2, 3, side, side), torch.rand(2, 3, side, side)
    assert detector(images, probabilities).shape == (2, 1, side, side)
    assert detector.eval()(images[:1], probabilities[:1]).isfinite().all()


def test_the_published_detector_has_the_published_layers() -> None:
    detector = flaw.FlawDetector(21, width=64, at_stride_4=False)
    layers = [layer for layer in detector.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 128, 256, 256, 512, 512, 1]
    assert [layer.stride[0] for layer in layers] == [2, 2, 1, 2, 1, 2, 1, 2]
    assert layers[0].in_channels == 24
    assert {layer.kernel_size for layer in layers} == {(4, 4)}


def test_half_of_the_channels_are_normalised_over_the_batch_and_half_in_each_image() -> None:
    torch.manual_seed(5)
    features = torch.randn(3, 4, 6, 6) * 3 + 2
    normalised = flaw.HalfNorm(4)(features)
    torch.testing.assert_close(normalised[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert normalised[:, 0].mean(dim=(1, 2)).abs().max() > 1e-3
    torch.testing.assert_close(normalised[:, 3].mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised[:, 3].var(dim=(1, 2), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_flaw_maps_need_no_host_decision_on_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        probabilities, labels = torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
        detector = flaw.FlawDetector(3, width=4, at_stride_4=False)
        found = flaw.clean(detector(torch.rand(2, 3, 32, 32), probabilities), valid=labels == 0)
        ideal = flaw.ideal_flaw(probabilities, labels, valid=labels == 0)
        better = flaw.better_prediction(
            probabilities, probabilities, own_flaw=found, partner_flaw=flaw.saturate(ideal, 0.6)
        )
        assert better.device.type == "cuda"
