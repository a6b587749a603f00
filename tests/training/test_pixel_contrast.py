"""Drawing pixels and contrasting them, against loops over the formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from pipeline.training.pixel_contrast import DrawnPixels, draw_places, info_nce, negative_weights, pixels, take


def make_pixels(num_images: int, each: int, *, seed: int) -> DrawnPixels:
    generator = torch.Generator().manual_seed(seed)
    num = num_images * each
    return DrawnPixels(
        embedding=functional.normalize(torch.randn(num, 5, generator=generator), dim=1),
        distribution=(3 * torch.randn(num, 4, generator=generator)).softmax(dim=1),
        image=torch.arange(num_images).repeat_interleave(each),
        place=torch.randint(9, (num,), generator=generator),
        valid=torch.rand(num, generator=generator) < 0.8,
    )


def test_places_differ_and_are_valid_while_there_are_enough() -> None:
    torch.manual_seed(0)
    valid = torch.rand(3, 6, 6) < 0.5
    places = draw_places(valid, 10)
    assert all(len(set(row)) == 10 for row in places.tolist())
    assert valid.flatten(1).gather(1, places).all()
    assert draw_places(valid, 100).shape == (3, 36)


def test_what_is_taken_is_what_stands_there() -> None:
    maps, places = torch.randn(2, 3, 4, 5), torch.tensor([[0, 7, 19], [3, 3, 12]])
    taken = take(maps, places)
    for image in range(2):
        for n in range(3):
            place = int(places[image, n])
            assert torch.equal(taken[3 * image + n], maps[image, :, place // 5, place % 5])
    drawn = pixels(taken, maps, valid=maps[:, 0] > 0, places=places)
    assert drawn.image.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(drawn.distribution, taken)
    assert torch.equal(drawn.valid, taken[:, 0] > 0)


@pytest.mark.parametrize("different_image", [True, False])
@pytest.mark.parametrize("debiased", [True, False])
def test_negatives_are_weighted_as_the_four_variants_say(different_image: bool, debiased: bool) -> None:
    anchors, candidates = make_pixels(3, 4, seed=0), make_pixels(3, 5, seed=1)
    weights = negative_weights(anchors, candidates, different_image=different_image, debiased=debiased)
    for a in range(12):
        for n in range(15):
            same_image = int(anchors.image[a]) == int(candidates.image[n])
            itself = same_image and int(anchors.place[a]) == int(candidates.place[n])
            allowed = bool(candidates.valid[n]) and not itself and not (different_image and same_image)
            mismatch = 1 - sum(float(anchors.distribution[a, c] * candidates.distribution[n, c]) for c in range(4))
            expected = float(allowed) * (mismatch if debiased else 1.0)
            assert float(weights[a, n]) == pytest.approx(expected, abs=1e-6)


def naive_info_nce(anchors: DrawnPixels, positive: Tensor, candidates: DrawnPixels, weights: Tensor) -> float:
    losses = []
    for a in range(len(anchors.embedding)):
        if not anchors.valid[a]:
            continue
        own = math.exp(float(anchors.embedding[a] @ positive[a]) / 0.2)
        others = [
            math.exp(float(anchors.embedding[a] @ candidates.embedding[n]) / 0.2)
            for n in range(len(candidates.embedding))
            if weights[a, n] > 0
        ]
        losses.append(-math.log(own / (own + sum(others))))
    return sum(losses) / len(losses)


def test_info_nce_is_the_formula_when_all_negatives_are_drawn() -> None:
    anchors, candidates, positive = make_pixels(3, 4, seed=2), make_pixels(3, 5, seed=3), make_pixels(3, 4, seed=4)
    weights = negative_weights(anchors, candidates, different_image=True, debiased=True)
    loss = info_nce(
        anchors, positive.embedding, candidates=candidates, weights=weights, num_negatives=15, temperature=0.2
    )
    assert float(loss) == pytest.approx(naive_info_nce(anchors, positive.embedding, candidates, weights), rel=1e-5)


def test_a_negative_is_drawn_in_proportion_to_its_weight() -> None:
    """One anchor, candidates at known similarities: the loss tells which was drawn."""
    torch.manual_seed(0)
    angles = torch.tensor([0.3, 1.0, 2.0])
    num = 6000
    here, there = torch.zeros(num, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    anchors = DrawnPixels(torch.tensor([[1.0, 0.0]]).expand(num, -1), torch.ones(num, 1), here, here, here == 0)
    embedding = torch.stack([angles.cos(), angles.sin()], dim=1)
    candidates = DrawnPixels(embedding, torch.ones(3, 1), there, there, there == 1)
    weights = torch.tensor([1.0, 2.0, 5.0]).expand(num, -1)
    loss = info_nce(
        anchors, anchors.embedding, candidates=candidates, weights=weights, num_negatives=1, temperature=1.0
    )
    each = [math.log(math.e + math.exp(math.cos(angle))) - 1 for angle in angles.tolist()]
    expected = (each[0] + 2 * each[1] + 5 * each[2]) / 8
    assert float(loss) == pytest.approx(expected, rel=0.02)


def test_an_anchor_without_negatives_or_validity_has_no_loss() -> None:
    anchors, candidates = make_pixels(2, 3, seed=5), make_pixels(2, 3, seed=6)
    nothing = torch.zeros(6, 6)
    settings: dict[str, Any] = {"num_negatives": 3, "temperature": 0.1}
    assert info_nce(anchors, anchors.embedding, candidates=candidates, weights=nothing, **settings) == 0
    invalid = anchors._replace(valid=torch.zeros(6, dtype=torch.bool))
    assert info_nce(invalid, anchors.embedding, candidates=candidates, weights=nothing + 1, **settings) == 0


def test_a_closer_positive_costs_less() -> None:
    anchors, candidates = make_pixels(2, 4, seed=7), make_pixels(2, 4, seed=8)
    settings: dict[str, Any] = {"weights": torch.ones(8, 8), "num_negatives": 8, "temperature": 0.1}
    near = info_nce(anchors, anchors.embedding, candidates=candidates, **settings)
    far = info_nce(anchors, -anchors.embedding, candidates=candidates, **settings)
    assert near < far


def test_drawing_needs_no_host_decision_on_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        maps, valid = torch.rand(2, 4, 6, 6), torch.ones(2, 6, 6, dtype=torch.bool)
        places = draw_places(valid, 5)
        drawn = pixels(take(maps, places), maps, valid=valid, places=places)
        weights = negative_weights(drawn, drawn, different_image=True, debiased=True)
        settings: dict[str, Any] = {"num_negatives": 3, "temperature": 0.1}
        loss = info_nce(drawn, drawn.embedding, candidates=drawn, weights=weights, **settings)
        assert loss.device.type == "cuda"
