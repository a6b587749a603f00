"""Connected regions and their boxes: against a flood fill, on spirals and noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training import regions


def flood(mask: Tensor) -> Tensor:
    """Number the 8-connected regions of one mask (h, w) by their last pixel, with a stack."""
    height, width = mask.shape
    numbers = torch.zeros(height, width, dtype=torch.long)
    for row in reversed(range(height)):
        for column in reversed(range(width)):
            if not mask[row, column] or numbers[row, column]:
                continue
            stack, number = [(row, column)], row * width + column + 1
            while stack:
                at = stack.pop()
                if numbers[at]:
                    continue
                numbers[at] = number
                near = [(at[0] + down, at[1] + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
                stack += [p for p in near if 0 <= p[0] < height and 0 <= p[1] < width and mask[p] and not numbers[p]]
    return numbers


def spiral(side: int) -> Tensor:
    """A corridor one pixel wide that turns inwards, leaving a wall of one pixel."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    row, column, down, right = 0, 0, 0, 1
    mask[0, 0] = True
    turns = 0
    while turns < 2:
        ahead = (row + down, column + right)
        beyond = (row + 2 * down, column + 2 * right)
        inside = 0 <= ahead[0] < side and 0 <= ahead[1] < side
        wall = 0 <= beyond[0] < side and 0 <= beyond[1] < side and bool(mask[beyond])
        if not inside or wall:
            down, right, turns = right, -down, turns + 1
            continue
        row, column, turns = *ahead, 0
        mask[row, column] = True
    return mask


@pytest.mark.parametrize("share", [0.2, 0.4, 0.5, 0.7, 1.0])
def test_regions_of_noise_equal_a_flood_fill(share: float) -> None:
    torch.manual_seed(0)
    masks = torch.rand(3, 33, 29) < share
    expected = torch.stack([flood(mask) for mask in masks])
    assert torch.equal(regions.connected(masks), expected)


def test_long_corridors_equal_a_flood_fill() -> None:
    inwards = spiral(63)
    combs = torch.zeros(63, 63, dtype=torch.bool)
    combs[:, ::2] = True
    combs[0] = True
    masks = torch.stack([inwards, inwards.flip(0), inwards.T, combs, combs.flip(0), combs.T.flip(1)])
    assert inwards.sum() > 63 * 30
    assert torch.equal(regions.connected(masks), torch.stack([flood(mask) for mask in masks]))


def test_each_image_is_numbered_apart() -> None:
    masks = torch.zeros(2, 3, 4, dtype=torch.bool)
    masks[1, 1, 2] = True
    assert regions.connected(masks)[0].sum() == 0
    assert regions.connected(masks)[1].sum() == 7


def test_only_regions_above_the_area_are_drawn_and_each_of_them_is() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[0, 0] = True  # 1 % of the pixels
    mask[2:5, 2:5] = True
    mask[7:10, 5:9] = True
    drawn = regions.random_region(mask.expand(200, 10, 10), area=0.05)
    sizes = drawn.flatten(1).sum(dim=1)
    assert set(sizes.tolist()) == {9, 12}
    assert 60 < (sizes == 9).sum() < 140
    assert (drawn <= mask).all()
    assert not regions.random_region(mask[None], area=0.2).any()


def test_a_class_is_present_above_its_area_and_padding_does_not_count() -> None:
    prediction = torch.zeros(2, 4, 5, dtype=torch.long)
    prediction[0, 0, :2] = 1
    prediction[1, :2] = 2
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    valid[1, 0] = False
    found = regions.presence(prediction, valid, num_classes=3, area=0.26)
    assert found.tolist() == [[True, False, False], [True, False, False]]
    assert regions.presence(prediction, valid, num_classes=3, area=0.05)[0].tolist() == [True, True, False]


@pytest.mark.parametrize("size", [(8, 10), (32, 40), (30, 37)])
def test_the_box_surrounds_the_mask_at_the_size_of_the_image(size: tuple[int, int]) -> None:
    mask = torch.zeros(2, 8, 10, dtype=torch.bool)
    mask[0, 2, 3] = mask[0, 5, 7] = True
    box, found = regions.bounding_box(mask, size)
    assert found.tolist() == [True, False]
    assert not box[1].any()
    for row in range(size[0]):
        for column in range(size[1]):
            inside = 2 <= (row + 0.5) * 8 / size[0] < 6 and 3 <= (column + 0.5) * 10 / size[1] < 8
            assert bool(box[0, row, column]) == inside


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        prediction = torch.zeros(2, 8, 8, dtype=torch.long)
        valid = torch.ones(2, 8, 8, dtype=torch.bool)
        assert regions.presence(prediction, valid, num_classes=3, area=0.1).device.type == "cuda"
        box, _ = regions.bounding_box(regions.random_region(valid, area=0.1), (32, 32))
        assert box.device.type == "cuda"
