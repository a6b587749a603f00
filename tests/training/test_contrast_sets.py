"""Anchors, positives and negatives against pixel loops written from the equations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels, find_sets, most_likely

SET_DEFECTS = ["defect_one_hot", "defect_labelled_negatives", "defect_unlabelled_negatives"]

Make = Callable[..., Pixels]
Hyper = Callable[..., ContrastParameters]


class Naive(NamedTuple):
    anchors: set[tuple[int, int]]
    positives: set[tuple[int, int]]
    negatives: set[tuple[int, int]]


def naive_sets(pixels: Pixels, given: dict[str, Any]) -> Naive:
    """Visit every pixel and every class; a set holds (row of the pixel, class)."""
    probability = pixels.probability.double().numpy()
    labels = pixels.labels.numpy()
    num_images, num_classes, height, width = probability.shape
    found = Naive(set(), set(), set())
    for image in range(num_images):
        labelled = image < pixels.num_labelled
        for y in range(height):
            for x in range(width):
                row = (image * height + y) * width + x
                scores = probability[image, :, y, x]
                order = sorted(range(num_classes), key=lambda k: -scores[k])
                for c in range(num_classes):
                    member = naive_member(labels, pixels.num_labelled, (image, y, x), c, given["defect_one_hot"])
                    rank = order.index(c)
                    if member and pixels.anchorable[image, y, x]:
                        if scores[c] > given["anchor_threshold"]:
                            found.anchors.add((row, c))
                        if scores[c] > given["anchor_threshold"] or given["positives"] == "unfiltered":
                            found.positives.add((row, c))
                    if not pixels.negatable[image, y, x]:
                        continue
                    if labelled:
                        wanted = not member and rank < given["rank_low"] and not given["defect_labelled_negatives"]
                    else:
                        low = given["rank_low"] if given["prt"] else 1
                        wanted = low <= rank < given["rank_high"]
                        wanted = wanted and (member or not given["defect_unlabelled_negatives"])
                    if wanted:
                        found.negatives.add((row, c))
    return found


def naive_member(labels: Any, num_labelled: int, place: tuple[int, int, int], c: int, defect: bool) -> bool:
    """Say whether a pixel is of class c; with the defect the first image of a half has all its images' labels."""
    image, y, x = place
    if not defect:
        return bool(labels[image, y, x] == c)
    first = 0 if image < num_labelled else num_labelled
    if image != first or labels[first, y, x] == 255:
        return False
    half = range(first, num_labelled if first == 0 else len(labels))
    return any((0 if labels[other, y, x] == 255 else labels[other, y, x]) == c for other in half)


def as_pairs(mask: Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(c)) for c, row in mask.nonzero()}


def assert_same_sets(pixels: Pixels, given: dict[str, Any], expected: dict[str, Any]) -> None:
    sets, naive = find_sets(pixels, ContrastParameters(**given)), naive_sets(pixels, expected)
    assert as_pairs(sets.anchors) == naive.anchors
    assert as_pairs(sets.positives) == naive.positives
    assert as_pairs(sets.negatives) == naive.negatives


@pytest.mark.parametrize("num_classes", [2, 19, 21])
def test_anchors_positives_and_negatives_are_those_of_the_paper(
    num_classes: int, make_pixels: Make, paper: dict[str, Any]
) -> None:
    given = paper | ({"rank_low": 1} if num_classes == 2 else {})
    for seed in range(3):
        assert_same_sets(make_pixels(seed, num_classes=num_classes), given, given)


@pytest.mark.parametrize(
    "changes",
    [
        {"prt": False},
        {"positives": "unfiltered"},
        {"rank_low": 1, "rank_high": 3},
        {"rank_low": 10},
        *({defect: True} for defect in SET_DEFECTS),
        dict.fromkeys(SET_DEFECTS, True),
    ],
)
def test_every_switch_gives_the_sets_it_describes(
    changes: dict[str, Any], make_pixels: Make, paper: dict[str, Any]
) -> None:
    given = paper | changes
    for seed in range(2):
        assert_same_sets(make_pixels(seed), given, given)


@pytest.mark.parametrize("defect", SET_DEFECTS)
def test_each_released_defect_of_the_sets_fails_the_papers_reference(
    defect: str, make_pixels: Make, paper: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError):
        assert_same_sets(make_pixels(), paper | {defect: True}, paper)


def test_labelled_negatives_exist_and_unlabelled_ones_are_independent_of_the_pseudo_label(
    hyper: Hyper, make_pixels: Make
) -> None:
    pixels = make_pixels()
    sets = find_sets(pixels, hyper())
    split = 2 * 36
    assert sets.negatives[:, :split].any()
    changed = pixels._replace(labels=torch.where(pixels.labels == 255, 255, (pixels.labels + 5) % 21))
    assert torch.equal(find_sets(changed, hyper()).negatives[:, split:], sets.negatives[:, split:])


def test_two_classes_have_labelled_and_unlabelled_negatives(hyper: Hyper, make_pixels: Make) -> None:
    sets = find_sets(make_pixels(num_classes=2), hyper(rank_low=1))
    assert sets.negatives[:, :72].any(dim=1).all()
    assert sets.negatives[:, 72:].any(dim=1).all()


def test_of_equally_likely_classes_as_many_are_taken_as_of_others() -> None:
    probability = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert most_likely(probability, 2)[:, 0].tolist() == [False, True, True, False]
    assert most_likely(probability, 3)[:, 0].tolist() == [False, True, True, True]
    for num in range(1, 9):
        assert most_likely(probability, num).sum(dim=0).tolist() == [min(num, 4)] * 2
