"""AEL's confidence bank: against pixel loops, and what it favours."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training.class_bank import ConfidenceBank, draw_classes


def bank(num_classes: int = 4, **changes: object) -> ConfidenceBank:
    settings: dict = {"momentum": 0.9, "absent_class": "keep", "mean": "image", "initial": 0.25} | changes
    return ConfidenceBank(num_classes, **settings)


@pytest.fixture
def labelled() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    mask = torch.randint(0, 3, (3, 5, 6))  # class 3 is absent
    mask[0, :2] = 255
    mask[1] = 1
    return torch.randn(3, 4, 5, 6), mask


def observed_by_loops(logits: Tensor, mask: Tensor, mean: str) -> list[float | None]:
    """Equation 4, pixel by pixel; None for a class without a pixel."""
    per_class: list[float | None] = []
    for wanted in range(logits.shape[1]):
        images, pixels = [], []
        for scores, labels in zip(logits, mask, strict=True):
            found = []
            for row in range(labels.shape[0]):
                for column in range(labels.shape[1]):
                    if labels[row, column] == wanted:
                        powers = [math.exp(float(score)) for score in scores[:, row, column]]
                        found.append(powers[wanted] / sum(powers))
            pixels += found
            images += [sum(found) / len(found)] if found else []
        values = images if mean == "image" else pixels
        per_class.append(sum(values) / len(values) if values else None)
    return per_class


@pytest.mark.parametrize("mean", ["image", "pixel"])
@pytest.mark.parametrize("absent_class", ["keep", "zero"])
def test_the_update_equals_pixel_loops(labelled: tuple[Tensor, Tensor], mean: str, absent_class: str) -> None:
    updated = bank(mean=mean, absent_class=absent_class)
    updated.update(*labelled)
    for value, observed in zip(updated.confidence, observed_by_loops(*labelled, mean), strict=True):
        if observed is None:
            expected = 0.25 if absent_class == "keep" else 0.9 * 0.25
        else:
            expected = 0.9 * 0.25 + 0.1 * observed
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_ignored_pixels_never_count(labelled: tuple[Tensor, Tensor]) -> None:
    logits, mask = labelled
    garbage = torch.where((mask == 255)[:, None], 100 * torch.randn_like(logits), logits)
    first, second = bank(), bank()
    first.update(logits, mask)
    second.update(garbage, mask)
    torch.testing.assert_close(first.confidence, second.confidence, rtol=0, atol=0)


def test_a_step_without_labelled_pixels_changes_nothing() -> None:
    updated = bank()
    updated.update(torch.randn(2, 4, 3, 3), torch.full((2, 3, 3), 255))
    assert updated.confidence.tolist() == [0.25] * 4


def test_chances_are_the_softmax_of_what_is_lacking_and_leave_out_the_excluded() -> None:
    scored = bank()
    scored.confidence.copy_(torch.tensor([0.9, 0.2, 0.5, 0.0]))
    lacking = [0.1, 0.8, 0.5, 1.0]
    for power in (1.0, 0.5):
        weights = [math.exp(value**power) for value in lacking]
        expected = torch.tensor([weight / sum(weights) for weight in weights])
        torch.testing.assert_close(scored.chances(power=power), expected)
    left = scored.chances(excluded=(0, 3))
    assert left[0] == left[3] == 0
    assert float(left.sum()) == pytest.approx(1)


def test_sampling_rates_are_relative_to_the_worst_class() -> None:
    rated = bank()
    rated.confidence.copy_(torch.tensor([0.9, 0.2, 0.6, 0.6]))
    expected = torch.tensor([(lacking / 0.8) ** 2 for lacking in (0.1, 0.8, 0.4, 0.4)])
    torch.testing.assert_close(rated.sampling_rates(2.0), expected)
    rated.confidence.fill_(1.0)  # nothing lacks anywhere
    assert torch.isfinite(rated.sampling_rates(1.0)).all()


def test_classes_are_drawn_by_their_chance_and_never_at_chance_zero() -> None:
    torch.manual_seed(0)
    chances = torch.tensor([0.1, 0.0, 0.6, 0.3])
    drawn = draw_classes(chances, 2000, 3)
    assert drawn.shape == (2000, 3)
    torch.testing.assert_close(drawn.flatten().bincount(minlength=4) / 6000, chances, atol=0.02, rtol=0)
    assert not (drawn == 1).any()


def test_classes_start_where_told_or_anywhere() -> None:
    torch.manual_seed(0)
    start = bank(50, initial=None).confidence
    assert 0 <= start.min() < 0.2
    assert 0.8 < start.max() <= 1
    assert bank(initial=0).confidence.tolist() == [0.0] * 4


def test_the_bank_is_state(labelled: tuple[Tensor, Tensor]) -> None:
    first, second = bank(), bank()
    first.update(*labelled)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.confidence, second.confidence, rtol=0, atol=0)


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        updated = bank()
        updated.update(torch.empty(2, 4, 3, 3), torch.empty(2, 3, 3, dtype=torch.long))
        assert draw_classes(updated.chances(excluded=(1,)), 5).device.type == "cuda"
        assert updated.sampling_rates(1.0).device.type == "cuda"
