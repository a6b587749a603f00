"""What the contrast refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.training.contrast import PixelContrast
from pipeline.training.contrast_parameters import ContrastParameters

Hyper = Callable[..., ContrastParameters]


def test_a_low_rank_that_leaves_no_class_is_refused_with_what_is_allowed(hyper: Hyper) -> None:
    with pytest.raises(ValueError, match=r"rank_low is 3; allowed: 1 to 1 with 2 classes"):
        PixelContrast(hyper(), num_classes=2, channels=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrast": "triplet"}, "contrast is 'triplet'; allowed: infonce or bce or none"),
        ({"num_anchors": 0}, "num_anchors is 0; allowed: whole numbers from 1"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed: above 0"),
        ({"rank_high": 3}, r"rank_high is 3; allowed: above rank_low \(3\)"),
        (
            {"max_enqueue_per_class": 61},
            r"max_enqueue_per_class is 61; allowed: null, or 1 to the shortest queue \(60\)",
        ),
        ({"anchor_threshold": 1.5}, "anchor_threshold is 1.5; allowed: 0 to 1"),
        ({"queue_dtype": "int8"}, "queue_dtype is 'int8'"),
    ],
)
def test_values_out_of_range_are_refused_with_what_is_allowed(
    changes: dict[str, Any], message: str, hyper: Hyper
) -> None:
    with pytest.raises(ValueError, match=message):
        hyper(**changes)
