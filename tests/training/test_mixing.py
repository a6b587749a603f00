"""Boxes: their area, place and number; and that everything moves together when one map is pasted into another."""

from __future__ import annotations

import pytest
import torch

from pipeline.training.mixing import (
    aspect_boxes,
    class_areas,
    half_area_boxes,
    mix_with_next,
    paste,
    random_below,
    rectangles,
    spread_boxes,
)


def extent(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Return top, left, height and width of what is true, which must be a filled rectangle."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    assert mask[top : top + height, left : left + width].all()
    assert int(mask.sum()) == height * width
    return top, left, height, width


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (4, 4)])
def test_half_area_boxes_cover_half_of_every_image(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = size
    tops, widths = set(), set()
    for mask in half_area_boxes(torch.empty(200, 3, height, width), probability=1.0):
        top, _, tall, wide = extent(mask)
        assert width // 2 + 1 <= wide < width
        assert tall == round(height * width / 2 / wide)
        tops.add(top)
        widths.add(wide)
    assert widths == set(range(width // 2 + 1, width)) or width > 64
    assert len(tops) > 1


def test_one_coin_decides_for_the_whole_batch() -> None:
    torch.manual_seed(0)
    images = torch.empty(4, 3, 16, 16)
    mixed = []
    for _ in range(400):
        some = half_area_boxes(images, probability=0.3).flatten(1).any(1)
        assert some.all() or not some.any()
        mixed.append(bool(some[0]))
    assert 0.2 < sum(mixed) / 400 < 0.4
    assert not half_area_boxes(images, probability=0.0).any()


def test_class_areas_leave_a_random_half_of_each_images_classes() -> None:
    torch.manual_seed(0)
    labels = torch.randint(1, 6, (2, 12, 12))  # five classes, of which two stay
    labels[1] = torch.where(labels[1] > 3, 255, labels[1])  # three, of which one stays
    stayed = set()
    for _ in range(200):
        gone = class_areas(labels, num_classes=7, probability=1.0)
        kept = [set(labels[b][~gone[b]].tolist()) for b in range(2)]
        assert [len(classes) for classes in kept] == [2, 1]
        assert all(gone[b][labels[b] == c].all() for b in range(2) for c in set(range(1, 6)) - kept[b])
        assert gone[labels == 255].all()
        stayed.add((frozenset(kept[0]), frozenset(kept[1])))
    assert len(stayed) == 30  # 5 choose 2 and 3: drawn for each image alone


def test_class_areas_come_with_one_coin_and_one_class_alone_does_not_stay() -> None:
    labels = torch.full((2, 4, 4), 3)
    assert class_areas(labels, num_classes=7, probability=1.0).all()
    torch.manual_seed(0)
    gone = [class_areas(labels, num_classes=7, probability=0.3) for _ in range(400)]
    assert all(area.all() or not area.any() for area in gone)
    assert 0.2 < sum(bool(area.any()) for area in gone) / 400 < 0.4


def test_images_too_small_for_a_box_are_refused() -> None:
    with pytest.raises(ValueError, match="images of 3 x 16 pixels are too small"):
        half_area_boxes(torch.empty(1, 3, 3, 16), probability=1.0)


def test_spread_boxes_have_the_area_asked_for_and_lie_inside() -> None:
    torch.manual_seed(0)
    shapes = [extent(mask)[2:] for mask in spread_boxes(torch.empty(200, 3, 100, 80), area=(0.5, 0.5), num_boxes=1)]
    assert all(abs(tall * wide / 8000 - 0.5) < 0.012 for tall, wide in shapes)
    assert min(tall for tall, _ in shapes) < 60
    assert max(tall for tall, _ in shapes) > 90


def test_several_boxes_are_combined_by_exclusive_or() -> None:
    tall, wide = torch.tensor([[4, 4]]), torch.tensor([[4, 4]])
    assert not rectangles(tall, wide, size=(4, 4)).any()  # twice the whole image
    tall, wide = torch.tensor([[4, 2]]), torch.tensor([[4, 4]])
    assert rectangles(tall, wide, size=(4, 4)).sum() == 8


def test_aspect_boxes_keep_area_and_aspect_and_their_own_coins() -> None:
    torch.manual_seed(0)
    images = torch.empty(400, 3, 100, 100)
    masks = aspect_boxes(images, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), probability=0.5)
    some = masks.flatten(1).any(1)
    assert 0.4 < some.float().mean() < 0.6
    for mask in masks[some]:
        _, _, tall, wide = extent(mask)
        assert 0.015 < tall * wide / 10_000 <= 0.4
        assert 0.27 < tall / wide < 3.7
    assert aspect_boxes(images, area=(0.02, 0.4), aspect=(0.3, 3.3), probability=1.0).flatten(1).any(1).all()


def test_random_integers_stay_below_their_limits_and_reach_all() -> None:
    torch.manual_seed(0)
    drawn = random_below(torch.tensor([1, 3, 1000]).expand(20_000, 3))
    assert drawn.amin(0).tolist() == [0, 0, 0]
    assert drawn.amax(0).tolist() == [0, 2, 999]
    assert drawn[:, 2].unique().numel() == 1000


def test_every_map_of_a_mixed_image_comes_from_the_same_pixel_of_the_same_image() -> None:
    torch.manual_seed(0)
    number = torch.arange(3 * 16 * 16).view(3, 16, 16)  # each pixel encodes where it is from
    images = number[:, None].expand(-1, 3, -1, -1).float()
    inside = half_area_boxes(images, probability=1.0)
    mixed, labels, confidence, valid = mix_with_next(inside, images, number, number / 7, number % 2 == 0)
    assert torch.equal(mixed[:, 0].long(), labels)
    assert torch.equal(confidence, labels / 7)
    assert torch.equal(valid, labels % 2 == 0)
    source = labels // 256
    expected = torch.where(inside, torch.tensor([1, 2, 0])[:, None, None], torch.tensor([0, 1, 2])[:, None, None])
    assert torch.equal(source, expected)


def test_maps_at_a_quarter_of_the_size_mix_as_the_pixels_they_stand_for() -> None:
    torch.manual_seed(0)
    number = torch.arange(3 * 16 * 16).view(3, 16, 16)
    inside = half_area_boxes(number[:, None].float(), probability=1.0)
    full, small = mix_with_next(inside, number, number[:, ::4, ::4])
    assert torch.equal(full[:, ::4, ::4], small)


def test_a_batch_of_one_mixes_with_itself() -> None:
    images = torch.randn(1, 3, 8, 8)
    assert torch.equal(mix_with_next(torch.ones(1, 8, 8, dtype=torch.bool), images)[0], images)


def test_paste_takes_the_foreground_inside_the_box_alone() -> None:
    inside = torch.tensor([[[True, False], [False, False]]])
    foreground, background = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    assert paste(inside, foreground, background=background)[0, 2].tolist() == [[1, 0], [0, 0]]
    assert paste(inside, foreground[:, 0], background=background[:, 0])[0].tolist() == [[1, 0], [0, 0]]
