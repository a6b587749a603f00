"""Random-k colour operations: against PIL, per image, without moving a pixel or waiting for the device."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training import photometric, randk


@pytest.fixture
def levels() -> Tensor:
    torch.manual_seed(0)
    images = torch.randint(20, 200, (3, 3, 12, 14))
    images[0, 1] = 90  # a channel of one level
    return images


def per_image(*numbers: float) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1, 1)


def pil(levels: Tensor) -> Image.Image:
    return Image.fromarray(levels.permute(1, 2, 0).to(torch.uint8).numpy())


def unpil(image: Image.Image) -> Tensor:
    flat = torch.tensor(list(image.tobytes()))
    return flat.view(image.height, image.width, 3).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (randk.autocontrast, ImageOps.autocontrast, 1.01 / 255),  # PIL rounds down to whole levels
        (randk.equalise, ImageOps.equalize, 1e-6),
        (lambda v: randk.posterise(v, torch.tensor([4, 6, 8]).view(-1, 1, 1, 1)[: len(v)]), None, 1e-6),
        (lambda v: randk.solarise(v, per_image(100.0, 100.0, 100.0)), lambda i: ImageOps.solarize(i, 100), 1e-6),
    ],
)
def test_each_table_operation_equals_pils(levels: Tensor, ours: object, theirs: object, tolerance: float) -> None:
    changed = ours(levels / 255)  # type: ignore[operator]
    for index, bits in enumerate((4, 6, 8)):
        expected = theirs(pil(levels[index])) if theirs else ImageOps.posterize(pil(levels[index]), bits)  # type: ignore[operator]
        torch.testing.assert_close(changed[index], unpil(expected), atol=tolerance, rtol=0)


def test_sharpness_equals_pils_inside_the_border(levels: Tensor) -> None:
    factors = (0.05, 0.5, 0.95)
    changed = randk.sharpness(levels / 255, per_image(*factors))
    for index, factor in enumerate(factors):
        expected = unpil(ImageEnhance.Sharpness(pil(levels[index])).enhance(factor))
        inside = (slice(None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(changed[index][inside], expected[inside], atol=2 / 255, rtol=0)


def test_an_image_gets_the_operation_drawn_for_it() -> None:
    candidates = [torch.full((3, 3, 2, 2), float(index)) for index in range(4)]
    selected = randk.select(candidates, torch.tensor([2, 0, 3]).view(-1, 1, 1, 1))
    assert selected[:, 0, 0, 0].tolist() == [2.0, 0.0, 3.0]


def test_every_operation_is_computed_in_the_order_of_its_name(levels: Tensor) -> None:
    torch.manual_seed(1)
    results = randk.operate(levels / 255)
    assert len(results) == len(randk.OPERATIONS)
    torch.testing.assert_close(results[0], levels / 255)
    torch.testing.assert_close(results[randk.OPERATIONS.index("equalise")], randk.equalise(levels / 255))
    assert all(result.min() >= 0 and result.max() <= 1 for result in results)


def test_a_view_keeps_shape_and_range_and_treats_images_apart() -> None:
    torch.manual_seed(0)
    images = photometric.normalise(torch.rand(1, 3, 10, 12)).expand(8, -1, -1, -1)
    seen = photometric.denormalise(randk.random_view(images, max_operations=3))
    assert seen.shape == images.shape
    assert 0 <= seen.min() <= seen.max() <= 1
    assert (seen[1:] - seen[:1]).abs().amax(dim=(1, 2, 3)).max() > 0.01


def test_every_image_gets_one_to_all_operations_alike_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randk, "operate", lambda values: [values + 0.1] * len(randk.OPERATIONS))
    torch.manual_seed(0)
    images = photometric.normalise(torch.full((600, 3, 2, 2), 0.2))
    brighter = photometric.denormalise(randk.random_view(images, max_operations=3))[:, 0, 0, 0] - 0.2
    counts = (brighter * 10).round().int().bincount(minlength=4)
    assert counts[0] == 0
    assert counts[1:].min() > 150


def test_no_pixel_moves() -> None:
    torch.manual_seed(0)
    values = torch.full((16, 3, 9, 9), 0.2)
    values[:, :, 4, 4] = 0.7
    seen = photometric.denormalise(randk.random_view(photometric.normalise(values), max_operations=2))
    background = seen.flatten(2)[:, :, :1, None]
    difference = (seen - background).abs().sum(dim=1).flatten(1)
    assert set(difference[difference.amax(dim=1) > 1e-3].argmax(dim=1).tolist()) == {4 * 9 + 4}


def test_the_view_repeats_with_the_generators_seed() -> None:
    images = torch.randn(2, 3, 8, 8)
    views = []
    for _ in range(2):
        torch.manual_seed(3)
        views.append(randk.random_view(images, max_operations=3))
    torch.testing.assert_close(views[0], views[1], rtol=0, atol=0)


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode():
        images = torch.empty(2, 3, 8, 8, device="cuda")
        assert randk.random_view(images, max_operations=3).device.type == "cuda"
