"""The entropy percentile against numpy's, and what it divides."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipeline.training.entropy import BAND_ROWS, entropy, order_statistics, percentiles, reliability, unreliable_share


@pytest.mark.parametrize("num_valid", [1, 2, 7, 240])
@pytest.mark.parametrize("percent", [0.0, 0.25, 20.0, 80.0, 99.75, 100.0])
def test_percentiles_equal_numpys_over_the_valid_pixels(num_valid: int, percent: float) -> None:
    generator = torch.Generator().manual_seed(num_valid)
    values = torch.rand(2, 12, 10, generator=generator) * 3
    valid = (torch.randperm(240, generator=generator) < num_valid).view(2, 12, 10)
    expected = np.percentile(values.numpy()[valid.numpy()], percent)
    assert percentiles(values, valid, percents=(percent,))[0].item() == pytest.approx(float(expected), rel=1e-6)


def test_a_million_pixels_are_interpolated_as_exactly() -> None:
    values = torch.rand(1_000_003, generator=torch.Generator().manual_seed(0))[None, None]
    found = percentiles(values, torch.ones_like(values, dtype=torch.bool), percents=(80.123,))[0].item()
    assert found == pytest.approx(float(np.percentile(values.numpy(), 80.123)), rel=1e-6)


@pytest.mark.parametrize(
    "values", [[0.0], [0.0, 0.0, 0.0], [2.0, -1e-9, 1e-38, 2.0, 65504.0, 1e-45], [3.0446] * 50 + [0.1]]
)
def test_order_statistics_are_those_of_sorting_with_ties_and_the_smallest_numbers(values: list[float]) -> None:
    found = order_statistics(torch.tensor(values).clamp(min=0), torch.arange(len(values)))
    assert torch.equal(found, torch.tensor(values).clamp(min=0).sort().values)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_many_order_statistics_are_those_of_sorting(memory_format: torch.memory_format) -> None:
    values = entropy(torch.randn(3, 7, 40, 50).contiguous(memory_format=memory_format))
    places = torch.randint(values.numel(), (8,))
    assert torch.equal(order_statistics(values, places), values.flatten().sort().values[places])


def test_saturated_and_broken_pixels_have_a_place() -> None:
    """A softmax that is one to the last bit leaves -0, a diverged network NaN, of either sign."""
    logits = torch.tensor([[0.0, 500.0, -500.0], [0.0, 1.0, 2.0], [0.0, torch.nan, 1.0], [0.0, -torch.nan, 1.0]])
    values = entropy(logits.t()[None, :, None])  # (1, 1, 4)
    everywhere = torch.ones_like(values, dtype=torch.bool)
    low, high = percentiles(values, everywhere, percents=(0.0, 100.0))
    assert low == 0
    assert high.isnan()
    assert percentiles(values, ~values.isnan(), percents=(100.0,))[0] == values[0, 0, 1]
    assert percentiles(torch.full((1, 1, 3), -0.0), everywhere[..., :3], percents=(50.0,))[0] == 0


def test_entropy_is_its_formula_and_at_most_log_c() -> None:
    logits = torch.randn(1, 4, 2, 3)
    for y in range(2):
        for x in range(3):
            powers = [math.exp(value) for value in logits[0, :, y, x].tolist()]
            expected = -sum(power / sum(powers) * math.log(power / sum(powers)) for power in powers)
            assert entropy(logits)[0, y, x].item() == pytest.approx(expected, rel=1e-5)
    assert entropy(torch.zeros(1, 4, 1, 1)).item() == pytest.approx(math.log(4), rel=1e-6)
    assert entropy(torch.tensor([0.0, 500.0, -500.0]).view(1, 3, 1, 1)).item() == 0


def test_valid_pixels_are_divided_at_the_percentile() -> None:
    values = torch.rand(2, 10, 10, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 10, 10, dtype=torch.bool)
    valid[:, 5:] = False
    found = reliability(values, valid, share=0.2)
    threshold = np.percentile(values.numpy()[valid.numpy()], 80)
    low = np.percentile(values.numpy()[valid.numpy()], 20)
    for b in range(2):
        for y in range(10):
            for x in range(10):
                inside, value = bool(valid[b, y, x]), values[b, y, x].item()
                assert found.reliable[b, y, x] == (inside and value < threshold)
                assert found.unreliable[b, y, x] == (inside and value > threshold)
                assert found.lowest[b, y, x] == (inside and value <= low)


def test_a_pixel_exactly_at_a_percentile_is_among_the_lowest_but_neither_reliable_nor_unreliable() -> None:
    """Of five values the percentiles 25 and 75 are two of them, and ties share their side."""
    values = torch.tensor([[[0.5, 1.0, 0.25, 0.75, 0.0]]])
    found = reliability(values, torch.ones_like(values, dtype=torch.bool), share=0.25)
    assert found.threshold == 0.75
    assert found.lowest.flatten().tolist() == [False, False, True, False, True]
    assert found.reliable.flatten().tolist() == [True, False, True, False, True]
    assert found.unreliable.flatten().tolist() == [False, True, False, False, False]
    same = reliability(torch.ones(1, 2, 3), torch.ones(1, 2, 3, dtype=torch.bool), share=0.25)
    assert same.lowest.all()
    assert not (same.reliable | same.unreliable).any()


def test_with_nothing_to_drop_every_valid_pixel_is_reliable() -> None:
    valid = torch.rand(1, 4, 4) < 0.5
    found = reliability(torch.rand(1, 4, 4), valid, share=0.0)
    assert torch.equal(found.reliable, valid)
    assert not found.unreliable.any()


def test_with_no_valid_pixel_nothing_is_reliable_or_unreliable() -> None:
    found = reliability(torch.rand(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool), share=0.2)
    assert not (found.reliable | found.unreliable | found.lowest).any()


def test_the_unreliable_share_falls_linearly_over_the_epochs_or_stays() -> None:
    shares = [unreliable_share(0.2, epoch / 80, dynamic=True) for epoch in (0, 40, 79)]
    assert shares == pytest.approx([0.2, 0.1, 0.0025])
    assert unreliable_share(0.2, 0.9, dynamic=False) == 0.2


@pytest.mark.parametrize("height", [1, BAND_ROWS, 2 * BAND_ROWS + 1])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_band_follows_the_formula(height: int, memory_format: torch.memory_format) -> None:
    logits = torch.randn(2, 5, height, 9).contiguous(memory_format=memory_format)
    log_probability = logits.double().log_softmax(dim=1)
    expected = -(log_probability.exp() * log_probability).sum(dim=1)
    torch.testing.assert_close(entropy(logits).double(), expected, atol=1e-6, rtol=0)
