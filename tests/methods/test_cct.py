"""CCT: what the decoders agree on, who learns from it, and how much it counts when."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pipeline.methods import cct
from tests.methods import official

NONE = dict.fromkeys(cct.KINDS, 0)


def make_cct(tiny: Any, decoders: dict[str, int] | None = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.make_method("cct", decoders=NONE | (decoders or {"feature_noise": 2}), **changes)


def test_with_identity_perturbations_and_the_main_decoders_weights_consistency_is_zero(tiny: Any) -> None:
    method = make_cct(tiny, {"dropout": 2, "feature_noise": 1}, dropout_rate=0.0, noise=0.0)
    for decoder in method.auxiliary:
        decoder.load_state_dict(method.student.classifier[-1].state_dict())
    losses = tiny.losses(method, tiny.make_batch())
    assert float(losses["consistency"].detach()) == pytest.approx(0, abs=1e-10)
    assert losses["supervised"] > 0


def test_every_kind_of_perturbation_breaks_the_agreement(tiny: Any) -> None:
    for kind in cct.KINDS:
        method = make_cct(tiny, {kind: 1}, background_classes=[])
        method.auxiliary[0].load_state_dict(method.student.classifier[-1].state_dict())
        assert tiny.losses(method, tiny.make_batch())["consistency"] > 1e-8, kind


def test_consistency_is_the_mean_square_over_decoders_valid_pixels_and_classes(tiny: Any) -> None:
    method, batch = make_cct(tiny, noise=0.0, ramp_share=0.0), tiny.make_batch()
    consistency = tiny.losses(method, batch)["consistency"]
    features = method.student.fuse(method.student.features(batch.unlabelled))
    *blocks, main = method.student.classifier
    for block in blocks:
        features = block(features)
    target, valid = main(features).softmax(1).detach(), batch.valid[:, ::4, ::4]
    total, count = 0.0, 0
    for decoder in method.auxiliary:
        seen = decoder(features).softmax(1).detach()
        for image, y, x in valid.nonzero().tolist():
            for c in range(21):
                total += (float(seen[image, c, y, x]) - float(target[image, c, y, x])) ** 2
                count += 1
    assert float(consistency.detach()) == pytest.approx(30 * total / count, rel=1e-4)


def test_who_learns_from_which_loss(tiny: Any) -> None:
    method, batch = make_cct(tiny, dict.fromkeys(cct.KINDS, 1)), tiny.make_batch()
    tiny.losses(method, batch)["supervised"].backward()
    assert all(p.grad is None for p in method.auxiliary.parameters())
    method.zero_grad()
    tiny.losses(method, batch)["consistency"].backward()
    assert all(p.grad is not None for p in method.auxiliary.parameters())
    assert all(p.grad is not None for p in method.student.encoder.parameters())
    assert all(p.grad is None for p in method.student.classifier[-1].parameters())


def test_the_weight_rises_as_a_sigmoid_over_its_share_of_training(tiny: Any) -> None:
    def consistency(step: int, ramp_share: float) -> float:
        method = make_cct(tiny, noise=0.0, ramp_share=ramp_share)
        return float(tiny.losses(method, tiny.make_batch(), step=step)["consistency"].detach())

    full = consistency(0, 0.0)
    assert consistency(0, 0.5) == pytest.approx(full * math.exp(-5), rel=1e-5)
    assert consistency(2, 0.5) == pytest.approx(full * math.exp(-5 * 0.6**2), rel=1e-5)
    assert consistency(7, 0.5) == pytest.approx(full, rel=1e-5)


def test_decoders_are_counted_by_kind(tiny: Any) -> None:
    method = make_cct(tiny, {"cutout": 3, "vat": 2})
    assert method.kinds == ["cutout"] * 3 + ["vat"] * 2
    assert len(method.auxiliary) == 5
    assert method.auxiliary[0].weight.shape == (21, 16, 1, 1)


def test_without_background_classes_every_image_has_objects_of_its_own(tiny: Any) -> None:
    torch.manual_seed(0)
    objects = make_cct(tiny, background_classes=[]).object_classes(6)
    assert objects.shape == (6, 21)
    assert 0.3 < objects.float().mean() < 0.7
    assert not torch.equal(objects[0], objects[1])
    fixed = make_cct(tiny, background_classes=[0, 5]).object_classes(2)
    assert (~fixed).nonzero()[:, 1].tolist() == [0, 5, 0, 5]


def test_bootstrapping_keeps_the_labelled_pixels_that_are_not_yet_right_enough(tiny: Any) -> None:
    method, batch = make_cct(tiny, bootstrap_threshold=0.055), tiny.make_batch()
    step, total = 1, 10
    supervised = float(tiny.losses(method, batch, step=step)["supervised"].detach())
    limit = 1 / 21 + (0.055 - 1 / 21) * (1 - math.exp(-5 * step / total / 0.4))
    logits, labels = method.student(batch.labelled).logits.detach(), batch.mask[:, ::4, ::4]
    losses, right_enough = [], 0
    for image, y, x in labels.ne(255).nonzero().tolist():
        right = float(logits[image, :, y, x].softmax(0)[labels[image, y, x]])
        if right < limit:
            losses.append(-math.log(right))
        else:
            right_enough += 1
    assert right_enough > 0
    assert supervised == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"decoders": NONE},
        {"decoders": {"blur": 1}},
        {"decoders": NONE | {"vat": -1, "cutout": 2}},
        {"dropout_rate": 1.5},
        {"weight": -1.0},
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* allowed"):
        cct.Parameters(**official.CCT | wrong)


def test_the_authors_thirty_decoders_are_recorded() -> None:
    authors = cct.Parameters(**official.CCT)
    assert sum(authors.decoders.values()) == 30
    assert authors.decoders["vat"] == 2
    assert (authors.weight, authors.ramp_share) == (30.0, 0.1)
