"""Strong colour views: against torchvision, per image, and without moving a pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as reference

from pipeline.training import photometric


@pytest.fixture
def values() -> Tensor:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 9, 11)
    images[0, :, :3] = 0.4  # grey, where the hue is undefined
    images[1, 0] = images[1, 1]
    return images


def jittered_view(images: Tensor) -> Tensor:
    return photometric.colour_view(images, jitter=(0.5, 0.5, 0.5, 0.25), jitter_probability=1.0)


def per_image(*numbers: float) -> Tensor:
    return torch.tensor(numbers).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (photometric.brightness, reference.adjust_brightness, (0.4, 1.0, 1.7)),
        (photometric.contrast, reference.adjust_contrast, (0.0, 1.0, 1.6)),
        (photometric.saturation, reference.adjust_saturation, (0.0, 1.0, 1.9)),
        (photometric.hue, reference.adjust_hue, (-0.25, 0.0, 0.4)),
    ],
)
def test_each_operation_equals_torchvisions_image_by_image(
    values: Tensor, ours: Callable, theirs: Callable, factors: tuple[float, ...]
) -> None:
    # torchvision rounds the weight of red to 0.2989
    expected = torch.stack([theirs(image, factor) for image, factor in zip(values, factors, strict=True)])
    torch.testing.assert_close(ours(values, per_image(*factors)), expected, atol=2e-4, rtol=0)


def test_blur_equals_a_gaussian_by_pixel_loops(values: Tensor) -> None:
    sigmas = (0.3, 1.0, 2.0)
    blurred = photometric.blur(values, per_image(*sigmas))
    for image in range(3):
        for row, column in ((0, 0), (4, 5), (8, 10)):
            total, weight = 0.0, 0.0
            for down in range(-6, 7):
                for right in range(-6, 7):
                    gaussian = 2.718281828459045 ** (-(down**2 + right**2) / (2 * sigmas[image] ** 2))
                    near = values[image, 1, min(max(row + down, 0), 8), min(max(column + right, 0), 10)]
                    total, weight = total + gaussian * float(near), weight + gaussian
            assert float(blurred[image, 1, row, column]) == pytest.approx(total / weight, abs=1e-5)


def test_a_view_of_no_strength_is_the_image(values: Tensor) -> None:
    images = photometric.normalise(values)
    view = photometric.colour_view(images, jitter=(0, 0, 0, 0), jitter_probability=1.0)
    torch.testing.assert_close(view, images)


@pytest.mark.parametrize("view", [photometric.unimatch_view, jittered_view])
def test_a_view_keeps_shape_and_range_and_treats_images_apart(view: Callable) -> None:
    images = photometric.normalise(torch.rand(1, 3, 8, 8)).expand(6, -1, -1, -1)
    seen = photometric.denormalise(view(images))
    assert seen.shape == images.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert (seen[1:] - seen[:1]).abs().amax(dim=(1, 2, 3)).max() > 0.01


def test_probability_zero_never_happens_and_one_always_does(values: Tensor) -> None:
    images = photometric.normalise(values)
    never = photometric.colour_view(images, jitter=(0.5, 0.5, 0.5, 0.25), jitter_probability=0.0)
    torch.testing.assert_close(never, images)
    grey = photometric.colour_view(images, jitter=(0, 0, 0, 0), jitter_probability=0.0, grey_probability=1.0)
    channels = photometric.denormalise(grey)
    torch.testing.assert_close(channels[:, 0], channels[:, 2])


def test_a_view_needs_no_host_decision_on_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        images = torch.rand(2, 3, 16, 16)
        assert photometric.unimatch_view(images).device.type == "cuda"
        assert photometric.cut_out(images, 0.5)[1].device.type == "cuda"


def test_cut_out_empties_one_square_and_says_where() -> None:
    torch.manual_seed(1)
    images = torch.ones(64, 3, 20, 30)
    cut, kept = photometric.cut_out(images, 0.5)
    assert torch.equal(cut[:, 0] != 0, kept)
    areas = (~kept).sum(dim=(1, 2))
    assert areas.max() == 100
    assert areas.min() >= 25  # a quarter stays inside when the centre is a corner
    for gone in ~kept:
        rows, columns = gone.any(dim=1), gone.any(dim=0)
        assert int(gone.sum()) == int(rows.sum()) * int(columns.sum())


def test_cut_out_of_no_size_keeps_everything() -> None:
    images = torch.rand(2, 3, 8, 8)
    cut, kept = photometric.cut_out(images, 0.0)
    assert torch.equal(cut, images)
    assert kept.all()


def test_pseudosegs_view_says_what_it_cut_out() -> None:
    images = photometric.normalise(torch.rand(4, 3, 12, 12))
    view, kept = photometric.cut_view(images, jitter=(0.5, 0.5, 0.5, 0.25), cutout_share=0.5)
    assert not kept.all()
    assert not view.masked_select(~kept[:, None]).any()


@pytest.mark.parametrize("jitter", [(0.5, 0.5, 0.5), (0.5, 0.5, 0.5, 0.6), (-0.1, 0.5, 0.5, 0.1)])
def test_a_jitter_that_makes_no_sense_is_refused(jitter: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"jitter is .* allowed"):
        photometric.check_jitter(jitter)
