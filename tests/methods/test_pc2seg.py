"""PC2Seg as we read it: the two losses, who learns from them, and the variants of negatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.nn import functional

from pipeline.methods import pc2seg
from pipeline.training.photometric import cut_out, denormalise, normalise
from tests.methods import official

MILD = {"jitter": [0, 0, 0, 0], "cutout_share": 0.0}


def make_pc2seg(tiny: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.make_method("pc2seg", **changes)


def colours(batch: Any) -> Any:
    """The batch with colours that an image can have, which a view of no strength leaves as they are."""
    return dataclasses.replace(batch, unlabelled=normalise(denormalise(batch.unlabelled)))


def test_equal_views_are_consistent(tiny: Any) -> None:
    losses = tiny.losses(make_pc2seg(tiny, **MILD), colours(tiny.make_batch()))
    assert float(losses["consistency"].detach()) == pytest.approx(0, abs=1e-10)
    assert losses["contrast"] > 0


@pytest.mark.parametrize("consistency", ["softmax", "l2"])
def test_consistency_is_the_squared_distance_over_what_is_valid_and_not_cut_out(tiny: Any, consistency: str) -> None:
    method, batch = make_pc2seg(tiny, jitter=[0, 0, 0, 0], cutout_share=0.5, consistency=consistency), tiny.make_batch()
    batch = colours(batch)
    loss = tiny.losses(method, batch)["consistency"].detach()
    torch.manual_seed(0)  # as tiny.losses; the square is drawn first
    strong, kept = cut_out(batch.unlabelled, 0.5)
    seen, target = (method.student.predict(images).softmax(1).detach() for images in (strong, batch.unlabelled))
    if consistency == "l2":
        seen, target = seen / seen.norm(dim=1, keepdim=True), target / target.norm(dim=1, keepdim=True)
    distances = [
        sum((float(seen[image, c, y, x]) - float(target[image, c, y, x])) ** 2 for c in range(21))
        for image, y, x in (kept & batch.valid)[:, ::4, ::4].nonzero().tolist()
    ]
    assert float(loss) == pytest.approx(sum(distances) / len(distances), rel=1e-4)


def test_contrast_is_info_nce_of_strong_anchors_and_weak_positives_and_negatives(tiny: Any) -> None:
    """All places drawn, all other images' valid places negatives: nothing is left to chance."""
    changes = {"num_anchors": 64, "num_candidates": 64, "num_negatives": 128, "debiased": False}
    method, batch = make_pc2seg(tiny, **MILD, **changes), colours(tiny.make_batch(num=3))
    loss = tiny.losses(method, batch)["contrast"].detach()
    with torch.no_grad():
        fused = method.student.fuse(method.student.features(batch.unlabelled))
        embedding = functional.normalize(method.projection(fused.permute(0, 2, 3, 1)), dim=3)  # (B, h, w, D)
    valid, losses = batch.valid[:, ::4, ::4], []
    for image in range(3):
        others = [other for other in range(3) if other != image]
        negatives = torch.cat([embedding[other][valid[other]] for other in others])
        for y, x in valid[image].nonzero().tolist():
            anchor = embedding[image, y, x]
            own = torch.exp(anchor @ anchor / 0.07)
            losses.append(-torch.log(own / (own + torch.exp(negatives @ anchor / 0.07).sum())))
    assert float(loss) == pytest.approx(0.1 * float(torch.stack(losses).mean()), rel=1e-3)


@pytest.mark.parametrize("symmetric", [False, True])
def test_who_learns_from_which_loss(tiny: Any, symmetric: bool) -> None:
    method, batch = make_pc2seg(tiny, symmetric=symmetric), tiny.make_batch()
    parts = {
        "projection": method.projection,
        "classifier": method.student.classifier,
        "encoder": method.student.encoder,
    }
    expected = {"supervised": {"classifier", "encoder"}, "contrast": {"projection", "encoder"}}
    expected["consistency"] = expected["supervised"]
    for name, parts_reached in expected.items():
        method.zero_grad()
        tiny.losses(method, batch)[name].backward()
        assert {
            key for key, part in parts.items() if any(p.grad is not None for p in part.parameters())
        } == parts_reached


def test_a_batch_of_one_has_negatives_only_where_its_own_image_may_lend_them(tiny: Any) -> None:
    batch = tiny.make_batch(num=1)
    assert tiny.losses(make_pc2seg(tiny, negatives="different_image"), batch)["contrast"] == 0
    assert tiny.losses(make_pc2seg(tiny, negatives="uniform"), batch)["contrast"] > 0


def test_the_variants_of_sampling_differ(tiny: Any) -> None:
    def contrast(**variant: Any) -> float:
        method = make_pc2seg(tiny, num_negatives=4, **variant)
        with torch.no_grad():
            method.student.classifier[-1].weight.mul_(200)  # sure of its classes, as a trained network is
        return float(tiny.losses(method, tiny.make_batch())["contrast"].detach())

    values = {contrast(negatives=n, debiased=d) for n in ("uniform", "different_image") for d in (False, True)}
    assert len(values) == 4


@pytest.mark.parametrize(
    "wrong", [{"consistency": "kl"}, {"negatives": "none"}, {"temperature": 0.0}, {"contrast_weight": -1.0}]
)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* allowed"):
        pc2seg.Parameters(**official.PC2SEG | wrong)


def test_our_reading_is_recorded() -> None:
    reading = pc2seg.Parameters(**official.PC2SEG)
    assert (reading.negatives, reading.debiased, reading.temperature) == ("different_image", True, 0.07)
