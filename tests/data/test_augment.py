from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.data.augment import Augmentation, View, draw_views, fill_image, fill_mask, place

RANDOM = np.random.default_rng(1)


def augmentation(**changes: float) -> Augmentation:
    values = {
        "crop": 24,
        "scale_min": 0.5,
        "scale_max": 2.0,
        "scale_law": "two_sided",
        "flip_probability": 0.5,
        "pad_label": 255,
    } | changes
    return Augmentation(**values)  # type: ignore[arg-type]


def view_of(image: np.ndarray, mask: np.ndarray, view: View, crop: int) -> tuple[np.ndarray, np.ndarray, tuple]:
    out_image = torch.zeros(crop, crop, 3, dtype=torch.uint8)
    out_mask = np.full((crop, crop), 255, dtype=np.uint8)
    placed = place(view, image.shape[:2], crop=crop)
    fill_image(torch.from_numpy(image), placed, out=out_image)
    fill_mask(mask, placed, out=out_mask)
    return out_image.numpy(), out_mask, placed.box


def offset(length: int, scaled: int, share: float, crop: int) -> float:
    """Where in the resized axis the crop begins, in its pixels: whole source pixels, and one more within the image."""
    if scaled <= crop:
        return 0.0
    start = math.floor(share * ((scaled - crop - 1) * length // scaled + 1))
    return start * scaled / length + (1 if start > 0 else 0)


def naive_view(image: np.ndarray, mask: np.ndarray, view: View, crop: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize (bilinear with half-pixel centres; nearest as floor(i in/out)), crop, flip, pad: pixel by pixel."""
    height, width = mask.shape
    tall, wide = int(height * view.scale), int(width * view.scale)
    first_row, first_column = offset(height, tall, view.top, crop), offset(width, wide, view.left, crop)
    rows, columns = min(crop, tall), min(crop, wide)
    above, before = (crop - rows) // 2, (crop - columns) // 2
    out_image, out_mask = np.zeros((crop, crop, 3)), np.full((crop, crop), 255)
    for i in range(rows):
        for j in range(columns):
            y = min(max((first_row + i + 0.5) * height / tall - 0.5, 0), height - 1)
            x = min(max((first_column + j + 0.5) * width / wide - 0.5, 0), width - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            upper = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            lower = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            column = before + (columns - 1 - j if view.flip else j)
            out_image[above + i, column] = upper * (1 - (y - y0)) + lower * (y - y0)
            source_row = math.floor((first_row + i) * height / tall + 1e-9)
            source_column = math.floor((first_column + j) * width / wide + 1e-9)
            out_mask[above + i, column] = mask[source_row, source_column]
    return out_image, out_mask


@pytest.mark.parametrize("size", [(31, 47), (47, 31), (24, 24), (17, 64)])
def test_crop_then_resize_equals_resize_then_crop_pixel_by_pixel(size: tuple[int, int]) -> None:
    image = RANDOM.integers(0, 256, (*size, 3), dtype=np.uint8)
    mask = RANDOM.integers(0, 21, size, dtype=np.uint8)
    for view in draw_views(augmentation(), 12, generator=np.random.default_rng(size)):
        got_image, got_mask, _ = view_of(image, mask, view, 24)
        want_image, want_mask = naive_view(image, mask, view, 24)
        assert np.abs(got_image - want_image).max() <= 1.5, view  # two roundings to 8 bits
        np.testing.assert_array_equal(got_mask, want_mask)


def test_scales_near_one_are_not_taken_for_one() -> None:
    """PyTorch copies a patch that is as long as its result, whatever the scale."""
    for length in (24, 25, 26, 40):
        ramp = np.repeat(np.arange(length, dtype=np.uint8)[:, None, None] * 5, 3, axis=2).repeat(length, axis=1)
        for view in draw_views(
            augmentation(scale_min=0.95, scale_max=1.08), 60, generator=np.random.default_rng(length)
        ):
            got, _, _ = view_of(ramp, ramp[..., 0], view, 24)
            want, _ = naive_view(ramp[:, :3], ramp[:, :3, 0], View(view.scale, False, view.top, 0.0), 24)
            middle = got.shape[1] // 2
            assert np.abs(got[:, middle] - want[:, middle]).max() <= 0.51, view


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1.5, 2.0])
def test_crops_of_the_whole_resized_image_are_met_exactly(scale: float) -> None:
    """Where the offset falls on a whole output pixel, PyTorch's resize of the whole image gives the same crop."""
    image = RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = RANDOM.integers(0, 21, (64, 64), dtype=np.uint8)
    scaled = int(64 * scale)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    whole = functional.interpolate(planes, (scaled, scaled), mode="bilinear", align_corners=False)
    labels = functional.interpolate(torch.from_numpy(mask)[None, None].float(), (scaled, scaled), mode="nearest")
    shares = {offset(64, scaled, share, 24): share for share in np.linspace(0, 0.999, 300)}
    met = [(int(at), share) for at, share in shares.items() if at % 1 == 0]
    assert len(met) > 1 or scale == 0.5
    for y, top in met[:5]:
        for x, left in met[-5:]:
            got_image, got_mask, _ = view_of(image, mask, View(scale, False, top, left), 24)
            want = whole[0, :, y : y + 24, x : x + 24].permute(1, 2, 0).numpy()
            assert np.abs(got_image - want).max() <= 1.5
            np.testing.assert_array_equal(got_mask, labels[0, 0, y : y + 24, x : x + 24].numpy())


def test_every_pixel_tells_where_it_came_from_and_its_label_came_from_there_too() -> None:
    rows, columns = np.meshgrid(np.arange(80), np.arange(120), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], axis=2).astype(np.uint8)  # a ramp: bilinear sampling keeps positions
    row_of, column_of = rows.astype(np.uint8), columns.astype(np.uint8)
    for view in draw_views(augmentation(crop=33), 40, generator=np.random.default_rng(0)):
        got, from_rows, (y0, y1, x0, x1) = view_of(image, row_of, view, 33)
        _, from_columns, _ = view_of(image, column_of, view, 33)
        inner = got[y0:y1, x0:x1].astype(int)
        apart = 1 if view.scale >= 1 else 2  # sampled at the centre, labelled at the first of the pixels it stands for
        assert np.abs(inner[..., 0] - from_rows[y0:y1, x0:x1]).max() <= apart
        assert np.abs(inner[..., 1] - from_columns[y0:y1, x0:x1]).max() <= apart
        steps = np.diff(inner[..., 1], axis=1)
        assert (steps <= 0).all() if view.flip else (steps >= 0).all()


def test_an_image_smaller_than_the_crop_is_padded_on_all_sides() -> None:
    image = np.full((10, 20, 3), 200, dtype=np.uint8)
    got, mask, box = view_of(image, np.full((10, 20), 7, dtype=np.uint8), View(1.0, False, 0.3, 0.9), 25)
    assert box == (7, 17, 2, 22)
    assert (got[7:17, 2:22] == 200).all()
    assert (mask[7:17, 2:22] == 7).all()
    assert got.sum() == 200 * 10 * 20 * 3
    assert (mask == 7).sum() == 200


def test_scales_lie_below_and_above_one_equally_often() -> None:
    scales = np.array([view.scale for view in draw_views(augmentation(), 20000, generator=np.random.default_rng(0))])
    assert scales.min() >= 0.5
    assert scales.max() < 2
    assert abs((scales < 1).mean() - 0.5) < 0.01
    assert abs(scales.mean() - 1.125) < 0.01
    below = scales[scales < 1]
    assert abs(np.quantile(below, 0.25) - 0.625) < 0.01


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.8), (1.25, 2.0), (1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_a_range_on_one_side_of_one_is_drawn_uniformly(low: float, high: float) -> None:
    views = draw_views(augmentation(scale_min=low, scale_max=high), 4000, generator=np.random.default_rng(0))
    scales = np.array([view.scale for view in views])
    assert scales.min() >= low
    assert scales.max() <= high
    assert abs(scales.mean() - (low + high) / 2) < 0.01


def test_the_uniform_law_draws_from_the_whole_range_alike() -> None:
    views = draw_views(augmentation(scale_law="uniform"), 8000, generator=np.random.default_rng(0))
    scales = np.array([view.scale for view in views])
    assert abs((scales < 1).mean() - 1 / 3) < 0.02
    assert abs(scales.mean() - 1.25) < 0.01


def test_half_of_the_views_are_flipped() -> None:
    flips = [view.flip for view in draw_views(augmentation(), 4000, generator=np.random.default_rng(0))]
    assert abs(np.mean(flips) - 0.5) < 0.03
    assert not any(
        view.flip for view in draw_views(augmentation(flip_probability=0), 99, generator=np.random.default_rng(0))
    )


def test_crops_reach_every_part_of_the_image() -> None:
    seen = np.zeros((40, 60), dtype=int)
    mask = np.arange(2400).reshape(40, 60)
    for view in draw_views(augmentation(scale_min=1.0, scale_max=1.0), 4000, generator=np.random.default_rng(0)):
        placed = place(view, (40, 60), crop=24)
        part = np.zeros((24, 24), dtype=np.int64)
        fill_mask(mask, placed, out=part)
        seen.flat[part.ravel()] += 1
    assert (seen > 0).all()


def test_the_first_views_do_not_depend_on_how_many_are_drawn() -> None:
    few, many = (draw_views(augmentation(), num, generator=np.random.default_rng(3)) for num in (4, 16))
    assert few == many[:4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 0}, "crop is 0 pixels; allowed are 1 and more"),
        ({"scale_min": 0}, "allowed: 0 < min <= max"),
        ({"scale_min": 3.0}, "are 3.0, 2.0"),
        ({"flip_probability": 1.5}, "flip_probability is 1.5; allowed are 0 to 1"),
        ({"pad_label": 7}, "pad_label is 7; allowed are 0"),
        ({"scale_law": "log"}, "scale_law is 'log'; allowed: two_sided, uniform"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmentation(**change)
