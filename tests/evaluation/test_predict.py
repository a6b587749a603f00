from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.evaluation.predict import Evaluation, num_windows, slide_logits, whole_logits, window_starts


class Network(nn.Module):
    """Logits at stride 4 that depend on the whole input, so that windows disagree where they overlap."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, classes, 5, stride=4, padding=2)
        self.seen: list[tuple[int, ...]] = []

    def predict(self, images: Tensor) -> Tensor:
        self.seen.append(tuple(images.shape))
        return self.conv(images) + images.mean((1, 2, 3))[:, None, None, None]


def starts(length: int, window: int) -> list[int]:
    """Windows ceil(2/3 window) apart until one reaches the border, that one moved back inside."""
    places: list[int] = []
    stride, at = math.ceil(window * 2 / 3), 0
    while True:
        if at + window >= length:
            return [*places, max(0, length - window)]
        places.append(at)
        at += stride


def naive_slide(network: nn.Module, image: Tensor, window: int) -> np.ndarray:
    """Each pixel: the mean, over the windows that cover it, of the window's resized logits there."""
    height, width = image.shape[1:]
    below, right = max(0, window - height), max(0, window - width)
    top, left = below // 2, right // 2
    padded = torch.zeros(3, height + below, width + right)
    padded[:, top : top + height, left : left + width] = image
    windows = {}
    for y in starts(padded.shape[1], window):
        for x in starts(padded.shape[2], window):
            logits = network.predict(padded[None, :, y : y + window, x : x + window])
            resized = functional.interpolate(logits, (window, window), mode="bilinear", align_corners=True)
            windows[y, x] = resized[0].numpy()
    result = np.zeros((3, height, width))
    for row in range(height):
        for column in range(width):
            covering = [
                logits[:, row + top - y, column + left - x]
                for (y, x), logits in windows.items()
                if 0 <= row + top - y < window and 0 <= column + left - x < window
            ]
            result[:, row, column] = np.mean(covering, axis=0)
    return result


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "window"), [((16, 40), 16), ((23, 37), 16), ((30, 30), 20), ((10, 33), 16), ((9, 7), 16)]
)
def test_sliding_windows_equal_the_mean_over_windows_pixel_by_pixel(size: tuple[int, int], window: int) -> None:
    network, images = Network(), torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    got = slide_logits(network, images, window=window, batch=3)
    for image, logits in zip(images, got, strict=True):
        np.testing.assert_allclose(logits.numpy(), naive_slide(network, image, window), atol=1e-5)


def test_cityscapes_has_the_eight_windows_of_the_released_evaluation() -> None:
    assert window_starts(1024, 769) == [0, 255]
    assert window_starts(2048, 769) == [0, 513, 1026, 1279]
    assert num_windows((1024, 2048), Evaluation(mode="slide", size=769)) == 8


@pytest.mark.parametrize("length", [64, 65, 100, 107, 108, 150, 151])
def test_windows_cover_every_pixel_and_stay_inside(length: int) -> None:
    places = window_starts(length, 64)
    covered = {pixel for start in places for pixel in range(start, start + 64)}
    assert covered == set(range(length))
    assert places == starts(length, 64)


@torch.no_grad()
def test_no_forward_pass_takes_more_windows_than_asked_for() -> None:
    network = Network()
    slide_logits(network, torch.randn(2, 3, 30, 50), window=16, batch=4)
    assert max(shape[0] for shape in network.seen) == 4
    assert {shape[2:] for shape in network.seen} == {(16, 16)}


@torch.no_grad()
def test_one_window_as_large_as_the_image_is_the_whole_image() -> None:
    network, images = Network(), torch.randn(2, 3, 24, 24)
    torch.testing.assert_close(slide_logits(network, images, window=24, batch=8), whole_logits(network, images))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "tta", "size": None}, r"evaluation mode is 'tta'; allowed are \('whole', 'centre', 'slide'\)"),
        ({"mode": "slide", "size": None}, "evaluation size is None; mode 'slide' needs 1 pixel or more"),
        ({"mode": "centre", "size": 0}, "evaluation size is 0"),
    ],
)
def test_impossible_evaluations_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluation(**values)
