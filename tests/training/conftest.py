"""What the tests of the contrast share: its parameters as the paper has them, and pixels made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels

PAPER: dict[str, Any] = {
    "contrast": "infonce",
    "contrast_weight": 0.1,
    "num_anchors": 50,
    "num_negatives": 256,
    "share_negatives": False,
    "temperature": 0.5,
    "anchor_threshold": 0.3,
    "rank_low": 3,
    "rank_high": 20,
    "prt": True,
    "negatives": "unreliable",
    "queue": True,
    "queue_size": 60,
    "queue_size_class_0": 100,
    "queue_dtype": "float32",
    "max_enqueue_per_class": 20,
    "anchors": "reliable",
    "positives": "anchors",
    "contrast_normaliser": "classes",
    "defect_one_hot": False,
    "defect_class_index": False,
    "defect_labelled_negatives": False,
    "defect_unlabelled_negatives": False,
}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What the loop computes, on one thread; torch is left as it was found."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def paper() -> dict[str, Any]:
    return dict(PAPER)


@pytest.fixture
def hyper() -> Callable[..., ContrastParameters]:
    return lambda **changes: ContrastParameters(**PAPER | changes)


@pytest.fixture
def make_pixels() -> Callable[..., Pixels]:
    return pixels_by_hand


def pixels_by_hand(seed: int = 0, *, num_classes: int = 21, classes: list[int] | None = None, size: int = 6) -> Pixels:
    """Make two labelled and two unlabelled images whose labels are among `classes` and sometimes ignored."""
    generator = torch.Generator().manual_seed(seed)
    shape = (4, size, size)
    among = torch.tensor(list(range(num_classes)) if classes is None else classes)
    labels = among[torch.randint(len(among), shape, generator=generator)]
    logits = torch.randn(4, num_classes, size, size, generator=generator)
    logits.scatter_add_(1, labels[:, None], 3 * torch.rand(4, 1, size, size, generator=generator))
    labels = torch.where(torch.rand(shape, generator=generator) < 0.1, 255, labels)
    valid, coin = labels != 255, torch.rand(shape, generator=generator)
    labelled = torch.tensor([True, True, False, False])[:, None, None]
    return Pixels(
        labels=labels,
        probability=logits.softmax(dim=1),
        anchorable=valid & (labelled | (coin < 0.8)),
        negatable=valid & (labelled | (coin >= 0.8)),
        num_labelled=2,
    )
