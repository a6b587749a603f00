"""AEL's augmentations and loss: provenance of every pixel, and the formulas by pixel loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.training import adaptive
from pipeline.training.adaptive import balanced_loss, choose_partners, class_boxes, paste_classes, pixel_weights, shrink


def telling_images(num: int, side: int) -> tuple[Tensor, Tensor]:
    """Images that say their index, row and column, and a mask of three classes in stripes that differ by image."""
    index, row, column = torch.meshgrid(torch.arange(num), torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([index, row, column], dim=1).float(), (column + index) % 3


def test_pasting_moves_pixel_and_label_together_from_the_image_before() -> None:
    torch.manual_seed(0)
    images, mask = telling_images(4, 8)
    mask[:, 0] = 255
    chances = torch.tensor([0.0, 1.0, 0.0])  # class 1 alone
    pasted, labels = paste_classes(images, mask, chances=chances, num_pasted=2, probability=1.0, scale=(1.0, 1.0))
    for image in range(4):
        before = (image - 1) % 4
        for row in range(8):
            for column in range(8):
                source = before if mask[before, row, column] == 1 else image
                assert pasted[image, :, row, column].tolist() == [source, row, column]
                assert labels[image, row, column] == mask[source, row, column]


def test_pasting_happens_with_its_probability_and_only_drawn_classes_come_along() -> None:
    torch.manual_seed(0)
    images, mask = telling_images(400, 4)
    untouched, labels = paste_classes(
        images, mask, chances=torch.full((3,), 1 / 3), num_pasted=1, probability=0.0, scale=(0.5, 1.0)
    )
    assert torch.equal(untouched, images)
    assert torch.equal(labels, mask)
    pasted, labels = paste_classes(
        images, mask, chances=torch.full((3,), 1 / 3), num_pasted=1, probability=0.5, scale=(1.0, 1.0)
    )
    foreign = pasted[:, 0] != images[:, 0]
    share = foreign.flatten(1).any(dim=1).float().mean()
    assert 0.4 < share < 0.6
    for image in foreign.flatten(1).any(dim=1).nonzero().flatten().tolist():
        assert labels[image][foreign[image]].unique().numel() == 1


def test_ignored_pixels_are_never_pasted() -> None:
    torch.manual_seed(0)
    images, _ = telling_images(2, 6)
    mask = torch.full((2, 6, 6), 255)
    pasted, labels = paste_classes(
        images, mask, chances=torch.full((3,), 1 / 3), num_pasted=3, probability=1.0, scale=(0.5, 1.0)
    )
    assert torch.equal(pasted, images)
    assert torch.equal(labels, mask)


def test_shrinking_moves_image_and_mask_alike_and_labels_nothing_around() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(50, 32, 32, dtype=torch.long)
    mask[:, :, 16:] = 1
    images = torch.where(mask == 1, 5.0, 1.0)[:, None].expand(-1, 3, -1, -1)
    small, labels = shrink(images, mask, scale=(0.25, 0.5))
    known = labels != 255
    sides = known.flatten(1).sum(dim=1).float().sqrt() / 32
    assert sides.min() > 0.2
    assert sides.max() < 0.56
    assert small[~known[:, None].expand_as(small)].abs().max() <= 5  # a blurred rim at most
    inner = torch.nn.functional.max_pool2d((~known).float()[:, None], 3, 1, 1)[:, 0] == 0
    certain = inner & ((small[:, 0] == 1) | (small[:, 0] == 5))
    assert certain.flatten(1).any(dim=1).all()
    assert torch.equal(labels[certain], (small[:, 0][certain] == 5).long())


def test_in_half_precision_what_is_shrunk_is_cut_at_the_same_places() -> None:
    images, mask = torch.rand(2, 3, 513, 513), torch.randint(21, (2, 513, 513))
    torch.manual_seed(0)
    exact, labels = shrink(images, mask, scale=(0.5, 0.9))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        half, same = shrink(images, mask, scale=(0.5, 0.9))
    assert torch.equal(labels, same)
    torch.testing.assert_close(half.float(), exact, atol=0.01, rtol=0)


def test_a_scale_of_one_is_the_image_itself() -> None:
    images, mask = telling_images(2, 7)
    same, labels = shrink(images, mask, scale=(1.0, 1.0))
    assert same is images
    assert labels is mask


def test_partners_have_the_class_where_another_image_does() -> None:
    torch.manual_seed(0)
    present = torch.tensor([[True, False], [True, False], [False, True], [True, False]])
    seen: list[set[int]] = [set(), set(), set(), set()]
    for _ in range(100):
        for image, partner in enumerate(choose_partners(present, torch.tensor([0, 1, 1, 0])).tolist()):
            seen[image].add(partner)
    assert seen == [{1, 3}, {2}, {0, 1, 3}, {0, 1}]  # image 2 alone has class 1, and takes any other


def test_the_only_image_is_its_own_partner() -> None:
    assert choose_partners(torch.tensor([[True]]), torch.tensor([0])).tolist() == [0]


def test_boxes_surround_a_valid_region_of_the_drawn_class_in_the_partner() -> None:
    torch.manual_seed(0)
    prediction = torch.zeros(2, 8, 8, dtype=torch.long)
    prediction[0, 2:4, 3:7] = 1
    prediction[1, :2, 4:8] = 1
    prediction[:, 3, 0] = 1  # a pixel is too small
    prediction[:, 5:7, 5:7] = 1  # in the padding
    valid = torch.ones_like(prediction, dtype=torch.bool)
    valid[:, 5:] = False
    chances = torch.tensor([0.0, 1.0])
    expected = torch.zeros(2, 16, 16, dtype=torch.bool)
    expected[1, 4:8, 6:14] = True
    expected[0, :4, 8:16] = True
    for _ in range(10):
        partners, boxes, found = class_boxes(
            prediction, valid, chances=chances, size=(16, 16), presence_area=0.05, region_area=0.05
        )
        assert partners.tolist() == [1, 0]
        assert found.tolist() == [True, True]
        assert torch.equal(boxes, expected)


def test_weights_are_confidence_to_gamma_and_zero_where_unknown() -> None:
    torch.manual_seed(0)
    logits, confidence = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    labels = torch.randint(3, (2, 4, 5))
    labels[0, 0] = 255
    weights = pixel_weights(logits, labels, confidence=confidence, rates=torch.ones(3), gamma=2.0)
    for image in range(2):
        for row in range(4):
            for column in range(5):
                known = labels[image, row, column] != 255
                expected = float(confidence[image, row, column]) ** 2 if known else 0.0
                assert float(weights[image, row, column]) == pytest.approx(expected, rel=1e-5)


def test_pixels_are_sampled_at_the_rate_of_the_class_the_student_predicts() -> None:
    torch.manual_seed(0)
    predicted = torch.arange(3).repeat_interleave(2000).view(1, 60, 100)
    logits = torch.nn.functional.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    labels = torch.randint(3, (1, 60, 100))
    rates = torch.tensor([0.0, 0.3, 1.0])
    kept = pixel_weights(logits, labels, confidence=torch.ones(1, 60, 100), rates=rates, gamma=2.0)
    shares = [float(kept[predicted == index].mean()) for index in range(3)]
    assert shares[0] == 0
    assert shares[1] == pytest.approx(0.3, abs=0.05)
    assert shares[2] == 1


@pytest.mark.parametrize("normaliser", ["image", "batch"])
def test_the_loss_equals_pixel_loops(normaliser: str) -> None:
    torch.manual_seed(0)
    logits, weights = torch.randn(2, 3, 4, 5), torch.rand(2, 4, 5)
    labels, learnt = torch.randint(3, (2, 4, 5)), torch.rand(2, 4, 5) < 0.6
    labels[1, 2], weights[1, 2] = 255, 0.0
    sums, divisors = [0.0, 0.0], [0.0, 0.0]
    for image in range(2):
        for row in range(4):
            for column in range(5):
                at, weight = (image, row, column), float(weights[image, row, column])
                divisors[image] += weight
                if learnt[at] and labels[at] != 255:
                    powers = [math.exp(float(score)) for score in logits[image, :, row, column]]
                    sums[image] -= weight * math.log(powers[int(labels[at])] / sum(powers))
    expected = sum(sums) / sum(divisors)
    if normaliser == "image":
        expected = (sums[0] / divisors[0] + sums[1] / divisors[1]) / 2
    loss = balanced_loss(logits, labels, weights=weights, learnt=learnt, normaliser=normaliser)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_without_any_weight_the_loss_is_zero_but_attached() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    labels, nothing = torch.zeros(2, 4, 5, dtype=torch.long), torch.zeros(2, 4, 5)
    loss = adaptive.balanced_loss(logits, labels, weights=nothing, learnt=nothing == 0, normaliser="image")
    assert loss.detach() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()
