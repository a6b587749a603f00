"""CPS: who teaches whom, and on which images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import cps
from pipeline.training.mixing import spread_boxes
from tests.methods import official


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    losses = []
    for image, y, x in labels.ne(255).nonzero().tolist():
        scores = [float(score) for score in logits[image, :, y, x]]
        losses.append(math.log(sum(map(math.exp, scores))) - scores[int(labels[image, y, x])])
    return sum(losses) / len(losses)


def make_pair(tiny: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.make_method("cps", **changes)


@pytest.mark.parametrize("cutmix", [False, True])
def test_each_loss_touches_one_network(tiny: Any, cutmix: bool) -> None:
    method = make_pair(tiny, cutmix=cutmix)
    for name, touched in (("supervised", 0), ("cross", 0), ("supervised_partner", 1), ("cross_partner", 1)):
        method.zero_grad()
        tiny.losses(method, tiny.make_batch())[name].backward()
        reached = [any(p.grad is not None for p in network.parameters()) for network in method.networks()]
        assert reached == [touched == 0, touched == 1]


def test_without_cutmix_each_learns_the_others_hard_labels_of_all_images(tiny: Any) -> None:
    method, batch = make_pair(tiny, cutmix=False), tiny.make_batch()
    losses = tiny.losses(method, batch)
    seen = []
    with torch.no_grad():
        for network in method.networks():
            seen.append(torch.cat([network(batch.labelled).logits, network(batch.unlabelled).logits]))
    known = torch.cat([batch.mask != 255, batch.valid])[:, ::4, ::4]
    labels = [torch.where(known, logits.argmax(dim=1), 255) for logits in seen]
    assert float(losses["cross"].detach()) == pytest.approx(1.5 * naive_cross_entropy(seen[0], labels[1]), rel=1e-4)
    assert float(losses["cross_partner"].detach()) == pytest.approx(
        1.5 * naive_cross_entropy(seen[1], labels[0]), rel=1e-4
    )


@pytest.mark.parametrize("cutmix", [False, True])
def test_with_equal_networks_the_cross_loss_is_the_cross_entropy_to_the_own_labels(tiny: Any, cutmix: bool) -> None:
    """With networks that see one pixel at a time, labels of mixed images are mixed labels."""
    method, batch = make_pair(tiny, cutmix=cutmix, pointwise=True), tiny.make_batch()
    method.partner.load_state_dict(method.student.state_dict())
    losses = tiny.losses(method, batch)
    assert float(losses["cross"].detach()) == pytest.approx(float(losses["cross_partner"].detach()))
    images, known = torch.cat([batch.labelled, batch.unlabelled]), torch.cat([batch.mask != 255, batch.valid])
    if cutmix:
        torch.manual_seed(0)  # as tiny.losses; the boxes are the first thing drawn
        inside = spread_boxes(batch.unlabelled, area=(0.25, 0.5), num_boxes=3)
        images = torch.where(inside[:, None], batch.unlabelled.roll(-1, 0), batch.unlabelled)
        known = torch.where(inside, batch.valid.roll(-1, 0), batch.valid)
    with torch.no_grad():
        logits = method.student.predict(images)
    own = torch.where(known[:, ::4, ::4], logits.argmax(dim=1), 255)
    assert float(losses["cross"].detach()) == pytest.approx(1.5 * naive_cross_entropy(logits, own), rel=1e-4)


def test_the_two_networks_start_apart_and_the_first_is_deployed(tiny: Any) -> None:
    method = make_pair(tiny)
    first, second = method.networks()
    assert method.predictors() == {"student": first}
    different = [not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert any(different)


def test_the_boxes_share_their_area() -> None:
    torch.manual_seed(0)
    single = spread_boxes(torch.empty(300, 3, 60, 60), area=(0.3, 0.3), num_boxes=1).float().mean(dim=(1, 2))
    assert single.min() > 0.27
    assert single.max() < 0.33
    three = spread_boxes(torch.empty(300, 3, 60, 60), area=(0.3, 0.3), num_boxes=3).float().mean(dim=(1, 2))
    assert three.max() < 0.34
    assert three.mean() > 0.2


@pytest.mark.parametrize(
    "wrong", [{"weight": -1.0}, {"num_boxes": 0}, {"area": [0.5, 0.25]}, {"area": [0.0, 0.5]}, {"area": [0.5]}]
)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* allowed"):
        cps.Parameters(**official.CPS | wrong)


def test_the_authors_settings_are_recorded() -> None:
    authors = cps.Parameters(**official.CPS)
    assert (authors.weight, authors.num_boxes, authors.area) == (1.0, 3, (0.25, 0.5))
