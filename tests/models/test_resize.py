"""Resizing by two matrix products, as accelerators do it, against PyTorch's own on a CPU."""

from __future__ import annotations

import pytest
import torch

from pipeline.models.resize import resize, resize_by_products

SIZES = [
    ((5, 7), (33, 20)),
    ((33, 33), (129, 129)),
    ((1, 1), (9, 4)),
    ((9, 4), (1, 1)),
    ((12, 12), (5, 12)),
    ((6, 6), (6, 6)),
]


@pytest.mark.parametrize(("given", "wanted"), SIZES)
def test_products_give_what_interpolation_gives(given: tuple[int, int], wanted: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *given, requires_grad=True)
    left, right = resize(maps, wanted), resize_by_products(maps, wanted)
    assert right.shape == (2, 3, *wanted)
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-4)
    weight = torch.randn_like(left)
    (expected,) = torch.autograd.grad((left * weight).sum(), maps)
    (found,) = torch.autograd.grad((right * weight).sum(), maps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_low_precision_keeps_its_type_and_is_computed_in_float32() -> None:
    maps = torch.randn(1, 2, 9, 9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = resize_by_products(maps, (17, 17))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, resize(maps.float(), (17, 17)).bfloat16(), rtol=0.01, atol=0.01)
