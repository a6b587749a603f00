"""Losses against pixel loops written from their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.models.segnet import Output
from pipeline.training.losses import Criterion, cross_entropy, ohem, probability_mse, sample_nearest, soft_cross_entropy


def make_case(seed: int = 0, *, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_classes, 5, 6, generator=generator)
    labels = torch.randint(num_classes, (2, 5, 6), generator=generator)
    return logits, torch.where(torch.rand(2, 5, 6, generator=generator) < 0.3, 255, labels)


def naive_pixels(logits: Tensor, labels: Tensor) -> list[tuple[tuple[int, int, int], float]]:
    """Return (place, probability of the true class) of every pixel that is not ignored."""
    pixels = []
    for b in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[b, y, x] != 255:
                    powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
                    pixels.append(((b, y, x), powers[int(labels[b, y, x])] / sum(powers)))
    return pixels


def naive_ohem(logits: Tensor, labels: Tensor, *, threshold: float, min_kept: int) -> float:
    probabilities = sorted(p for _, p in naive_pixels(logits, labels))
    if len(probabilities) > min_kept:
        limit = max(threshold, probabilities[min_kept - 1])
        probabilities = [p for p in probabilities if p <= limit]
    return -sum(map(math.log, probabilities)) / len(probabilities)


def test_cross_entropy_is_the_mean_over_pixels_that_are_not_ignored() -> None:
    logits, labels = make_case()
    pixels = naive_pixels(logits, labels)
    expected = -sum(math.log(p) for _, p in pixels) / len(pixels)
    assert cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_weights_and_normaliser_are_those_of_the_formula() -> None:
    logits, labels = make_case()
    weights = torch.rand(labels.shape)
    pixels = naive_pixels(logits, labels)
    total = -sum(weights[place].item() * math.log(p) for place, p in pixels)
    weight_sum = sum(weights[place].item() for place, _ in pixels)
    assert cross_entropy(logits, labels, weights=weights).item() == pytest.approx(total / weight_sum, rel=1e-5)
    normalised = cross_entropy(logits, labels, weights=weights, normaliser=torch.tensor(7.0))
    assert normalised.item() == pytest.approx(total / 7, rel=1e-5)


def test_what_ignored_pixels_hold_never_counts() -> None:
    logits, labels = make_case()
    garbage = torch.where((labels == 255)[:, None], 1e4 * torch.randn_like(logits), logits)
    weights = torch.rand(labels.shape)
    for given in ({}, {"weights": weights}):
        assert torch.equal(cross_entropy(logits, labels, **given), cross_entropy(garbage, labels, **given))
    hard: dict[str, Any] = {"threshold": 0.1, "min_kept": 5}
    assert torch.equal(ohem(logits, labels, **hard), ohem(garbage, labels, **hard))


@pytest.mark.parametrize("weighted", [False, True])
def test_no_pixel_at_all_gives_a_zero_that_is_attached(weighted: bool) -> None:
    logits, labels = make_case()
    logits.requires_grad_()
    nothing = torch.full_like(labels, 255)
    weights = torch.zeros(labels.shape) if weighted else None
    loss = cross_entropy(logits, nothing, weights=weights) + ohem(logits, nothing, threshold=0.7, min_kept=5)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("threshold", [0.05, 0.7])
@pytest.mark.parametrize("min_kept", [1, 5, 20, 41, 1000])
def test_ohem_keeps_the_hardest_pixels(threshold: float, min_kept: int) -> None:
    logits, labels = make_case(1)
    given: dict[str, Any] = {"threshold": threshold, "min_kept": min_kept}
    assert ohem(logits, labels, **given).item() == pytest.approx(naive_ohem(logits, labels, **given), rel=1e-5)


def test_soft_cross_entropy_and_probability_mse_are_their_formulas() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2).softmax(dim=1)
    weights = torch.tensor([[[1.0, 0.5], [0.0, 2.0]]])
    soft = mse = 0.0
    for y in range(2):
        for x in range(2):
            powers = [math.exp(value) for value in logits[0, :, y, x].tolist()]
            p, q = [power / sum(powers) for power in powers], target[0, :, y, x].tolist()
            soft -= weights[0, y, x].item() * sum(b * math.log(a) for a, b in zip(p, q, strict=True))
            mse += weights[0, y, x].item() * sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 3
    found = soft_cross_entropy(logits, target, weights=weights, normaliser=torch.tensor(4))
    assert found.item() == pytest.approx(soft / 4, rel=1e-5)
    probability = logits.softmax(dim=1)
    assert probability_mse(probability, target, weights=weights).item() == pytest.approx(mse / 3.5, rel=1e-5)


def criterion(**changes: Any) -> Criterion:
    given: dict[str, Any] = {
        "ohem_threshold": 0.7,
        "ohem_min_kept": 10,
        "auxiliary_weight": 0.4,
        "loss_resolution": "full",
    }
    given |= changes
    return Criterion(given.pop("kind", "ce"), **given)


def test_the_criterion_adds_the_auxiliary_loss_with_its_weight() -> None:
    logits, labels = make_case()
    auxiliary = torch.randn(2, 4, 3, 3)
    main = criterion()(Output(logits, None, None), labels)
    extra = criterion()(Output(auxiliary, None, None), labels)
    both = criterion()(Output(logits, None, auxiliary), labels)
    assert both.item() == pytest.approx(main.item() + 0.4 * extra.item(), rel=1e-6)


def test_the_criterion_compares_at_the_mask_or_at_the_logits() -> None:
    logits, mask = torch.randn(1, 3, 2, 2), torch.randint(3, (1, 8, 8))
    network = criterion(loss_resolution="network")(Output(logits, None, None), mask)
    assert torch.equal(network, cross_entropy(logits, mask[:, ::4, ::4]))
    full = criterion()(Output(logits, None, None), mask)
    upsampled = torch.nn.functional.interpolate(logits, (8, 8), mode="bilinear", align_corners=True)
    assert torch.equal(full, cross_entropy(upsampled, mask))


def test_the_criterion_can_be_ohem() -> None:
    logits, labels = make_case()
    loss = criterion(kind="ohem")(Output(logits, None, None), labels)
    assert loss.item() == pytest.approx(naive_ohem(logits, labels, threshold=0.7, min_kept=10), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "focal"}, "kind is 'focal'; allowed: ce, ohem"),
        ({"loss_resolution": "half"}, "loss_resolution is 'half'; allowed: full, network"),
        ({"ohem_threshold": 2.0}, "ohem_threshold is 2.0; allowed"),
        ({"ohem_min_kept": 0}, "ohem_min_kept is 0; allowed"),
    ],
)
def test_the_criterion_refuses_what_it_does_not_know(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        criterion(**changes)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_nearest_sampling_keeps_dtype_and_takes_the_pixel_at_the_floor(dtype: torch.dtype) -> None:
    labels = torch.arange(49).view(1, 7, 7).to(dtype)
    sampled = sample_nearest(labels, (3, 3))
    assert sampled.dtype == dtype
    rows = [0, 2, 4]  # floor(i * 7 / 3)
    assert torch.equal(sampled[0], labels[0][rows][:, rows])


@pytest.mark.parametrize("length", [1, 2, 7, 129, 513, 801])
@pytest.mark.parametrize("num", [1, 2, 5, 33, 129, 201, 513])
def test_nearest_sampling_takes_the_places_of_interpolate(length: int, num: int) -> None:
    values = torch.rand(1, length, 3)
    expected = torch.nn.functional.interpolate(values[:, None], (num, 2), mode="nearest")[:, 0]
    assert torch.equal(sample_nearest(values, (num, 2)), expected)


def test_ohem_of_logits_that_are_not_numbers_is_not_a_number() -> None:
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(3, (1, 4, 4))
    logits[0, :, 0] = -torch.nan  # with a sign, as 0 · inf has
    assert ohem(logits, labels, threshold=0.7, min_kept=16).isnan()
