"""A memory bank of half precision moves the gradient by under a thousandth in float16, a hundredth in bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.training.contrast import PixelContrast
from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels

LOSS, GRADIENT = {"float16": 1e-5, "bfloat16": 1e-4}, {"float16": 1e-3, "bfloat16": 1e-2}
"""Bounds of the relative differences to a bank in float32."""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_bank_in_half_precision_is_exact_enough(
    hyper: Callable[..., ContrastParameters], make_pixels: Callable[..., Pixels], dtype: str
) -> None:
    (loss, gradient), (exact, expected) = (
        contrasted(hyper(queue_dtype=kind), make_pixels) for kind in (dtype, "float32")
    )
    assert 0 < abs(loss / exact - 1) < LOSS[dtype]
    assert 0 < (gradient - expected).norm() / expected.norm() < GRADIENT[dtype]


def contrasted(parameters: ContrastParameters, make_pixels: Callable[..., Pixels]) -> tuple[Tensor, Tensor]:
    """The loss of the third step from one seed, its queues filled by the steps before, and its gradient."""
    torch.manual_seed(0)
    contrast = PixelContrast(parameters, num_classes=21, channels=32)
    for seed in range(3):
        pixels = make_pixels(seed, size=12)
        student = torch.randn(4, 32, 12, 12, requires_grad=True)
        loss = contrast(student, torch.randn(4, 32, 12, 12), pixels)
    loss.backward()
    assert student.grad is not None
    return loss.detach(), student.grad
