"""Written predictions, pixel by pixel: the class of the largest logit, at the image's own size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.images import voc_palette, write_mask
from pipeline.data.layout import Pair
from pipeline.data.normalise import MEAN, STD
from pipeline.data.samples import Samples
from pipeline.trained.predict import Trained, mask_name, predict_validation

CLASSES, CROP = 21, 32
SIZES = ((40, 64), (20, 24), (32, 50), (61, 19))  # larger than the crop, smaller, as high, and one side of each


class Network(nn.Module):
    """Logits at stride 4, each class large somewhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, CLASSES, 5, stride=4, padding=2)

    def predict(self, images: Tensor) -> Tensor:
        return self.conv(images)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    pairs, generator = [], np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        image, mask = tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png"
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
        write_mask(mask, np.zeros(size, dtype=np.uint8))
        pairs.append(Pair(f"some/{number}", image, mask))
    return Samples(pairs, num_classes=CLASSES)


def placed(height: int, width: int, crop: int) -> tuple[int, int]:
    """Where the crop's corner lies in the image; negative where the image lies within the crop."""
    return tuple((length - crop) // 2 if length > crop else -((crop - length) // 2) for length in (height, width))


@torch.no_grad()
def naive(network: Network, image: np.ndarray, mode: str) -> np.ndarray:
    """The class of each pixel: of the largest logit, or 255 outside the crop."""
    height, width, _ = image.shape
    pixels = (torch.from_numpy(image).permute(2, 0, 1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    (top, left), size = placed(height, width, CROP), (CROP, CROP)
    if mode == "whole":
        (top, left), size = (0, 0), (height, width)
    seen = torch.zeros(3, *size)  # the mean colour, where the image does not reach
    for row in range(size[0]):
        for column in range(size[1]):
            if 0 <= row + top < height and 0 <= column + left < width:
                seen[:, row, column] = pixels[:, row + top, column + left]
    logits = functional.interpolate(network.predict(seen[None]), size, mode="bilinear", align_corners=True)[0].numpy()
    ids = np.full((height, width), 255, dtype=np.uint8)
    for row in range(height):
        for column in range(width):
            if 0 <= row - top < size[0] and 0 <= column - left < size[1]:
                ids[row, column] = max(range(CLASSES), key=lambda one: logits[one, row - top, column - left])
    return ids


@pytest.mark.parametrize("mode", ["centre", "whole"])
def test_a_written_png_holds_the_class_of_the_largest_logit_of_every_pixel(
    mode: str, samples: Samples, tmp_path: Path
) -> None:
    network, seen = Network(), set()
    block = {"mode": mode, "size": CROP if mode == "centre" else None, "precision": "float32"}
    trained: Any = Trained(network, {"evaluation": block}, "student", "best", "key")  # type: ignore[arg-type]
    done = predict_validation(trained, samples, out=tmp_path / "out")
    assert list(done) == [pair.image for pair in samples.pairs]
    for number in range(len(SIZES)):
        expected = naive(network, samples[number][0], mode)
        with Image.open(tmp_path / "out" / "some" / f"{number}.png") as image:
            found = np.array(image)
            assert image.getpalette() == voc_palette()
        assert (found == expected).mean() > 0.998  # two logits may be as near as rounding
        np.testing.assert_array_equal(found == 255, expected == 255)
        seen |= set(np.unique(found).tolist())
    assert seen == {*range(CLASSES)} | ({255} if mode == "centre" else set())


def test_a_dot_in_an_id_need_not_begin_a_suffix() -> None:
    names = {"scan_1.2": "scan_1.2.png", "2007_000032": "2007_000032.png", "trip/a.v2.jpg": "trip/a.v2.png"}
    assert {identity: mask_name(identity).as_posix() for identity in names} == names
