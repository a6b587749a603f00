"""The curves of pseudo-labels: read on a few unlabelled images with masks, and on nothing where there are none."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.layout import Pair
from pipeline.data.samples import Samples
from pipeline.training.probe import MAX_PIXELS, open_probe

module = importlib.import_module("pipeline.training.probe")
VALUES: dict[str, Any] = {"evaluation": {"mode": "whole", "size": None, "batch_images": 2}}


class Fixed(torch.nn.Module):
    """Says of every pixel what it was given, class 1 in the left half and 0 in the right, less surely at the right."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def predict(self, images: Tensor) -> Tensor:
        logits = torch.zeros(len(images), 3, *images.shape[-2:])
        half = images.shape[-1] // 2
        logits[:, 1, :, :half], logits[:, 0, :, half:] = 5.0, 1.0
        return logits


class InMemory(Samples):
    def __init__(self, mask: np.ndarray) -> None:
        super().__init__([Pair("a", Path("a"), Path("b"))], num_classes=3)
        self.mask = mask

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((*self.mask.shape, 3), dtype=np.uint8), self.mask


def curves(mask: np.ndarray) -> dict[str, float]:
    return module.probe(Fixed(), InMemory(mask), values=VALUES)


def test_accuracy_counts_pixels_that_are_not_ignored() -> None:
    mask = np.full((4, 10), 1, dtype=np.uint8)
    mask[:, 8:] = 255  # of the right half's 20 pixels 12 are left, all wrong
    found = curves(mask)
    assert found["pseudo/accuracy"] == pytest.approx(20 / 32)
    assert found["pseudo/accuracy_reliable"] == pytest.approx(20 / 26)  # 80 % of 32; the sure half comes first
    assert found["pseudo/class_1"] == pytest.approx(20 / 32)
    assert found["pseudo/class_0"] == pytest.approx(12 / 32)
    assert found["pseudo/true_1"] == 1
    assert found["pseudo/true_2"] == 0


def test_confidence_is_the_mean_probability_of_the_label() -> None:
    sure, unsure = torch.tensor([5.0, 0, 0]).softmax(0)[0], torch.tensor([1.0, 0, 0]).softmax(0)[0]
    found = curves(np.ones((2, 4), dtype=np.uint8))
    assert found["pseudo/confidence"] == pytest.approx(float(sure + unsure) / 2, rel=1e-5)


def test_large_images_are_looked_at_in_part_and_an_image_without_pixels_is_no_error() -> None:
    large = np.ones((400, 600), dtype=np.uint8)
    assert large.size > MAX_PIXELS
    assert curves(large)["pseudo/accuracy"] == pytest.approx(0.5, abs=0.02)
    assert "pseudo/accuracy" not in curves(np.full((2, 2), 255, dtype=np.uint8))


def test_where_an_unlabelled_image_has_no_mask_there_is_no_probe(tmp_path: Path) -> None:
    lists = tmp_path / "partitions" / "folder" / "full"
    lists.mkdir(parents=True)
    (lists / "labelled.txt").write_text("a.png\n")
    (lists / "unlabelled.txt").write_text("b.png\n")
    values = {"dataset": "folder", "partition": "full", "data": {"source": "own", "layout": "folder", "num_classes": 3}}
    assert open_probe(values, tmp_path) is None
    (tmp_path / "own" / "masks").mkdir(parents=True)
    (tmp_path / "own" / "masks" / "b.png").touch()
    samples = open_probe(values, tmp_path)
    assert samples is not None
    assert [pair.id for pair in samples.pairs] == ["b.png"]
