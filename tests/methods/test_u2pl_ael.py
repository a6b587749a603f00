"""U2PL with AEL: AEL where the contrast is off, and what the contrast is given where it is on."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.methods import u2pl_ael
from pipeline.training.equalisation import Mix
from tests.methods import official

CALM = {"paste_probability": 0.0, "labelled_consistency": False, "beta": 0.0}


def entropy(logits: Tensor) -> Tensor:
    shares = logits.softmax(dim=1)
    return -(shares * shares.log()).sum(dim=1)


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_without_contrast_and_entropy_it_is_ael(tiny: Any, resolution: str) -> None:
    torch.manual_seed(0)
    ael = tiny.make_method("ael", resolution=resolution)
    torch.manual_seed(0)
    method = tiny.make_method(
        "u2pl_ael", resolution=resolution, contrast="none", entropy_drop="none", buffers="average"
    )
    first, second = tiny.losses(ael, tiny.make_batch()), tiny.losses(method, tiny.make_batch())
    # The teacher says of labelled images what its batch statistics say, not its running ones.
    for key in ("supervised", "unsupervised"):
        torch.testing.assert_close(second[key], first[key])
    assert second.keys() == first.keys()


def test_the_contrast_begins_at_its_epoch(tiny: Any) -> None:
    method = tiny.make_method("u2pl_ael", contrast_start_epoch=2)
    assert "contrastive" not in tiny.losses(method, tiny.make_batch(), step=3)  # two steps an epoch
    begun = tiny.losses(method, tiny.make_batch(), step=4)
    assert begun["contrastive"].requires_grad


def test_the_contrast_is_weighted(tiny: Any) -> None:
    torch.manual_seed(0)
    once = tiny.make_method("u2pl_ael", contrast_weight=0.1)
    torch.manual_seed(0)
    twice = tiny.make_method("u2pl_ael", contrast_weight=0.2)
    first, second = tiny.losses(once, tiny.make_batch()), tiny.losses(twice, tiny.make_batch())
    assert first["contrastive"] > 0
    torch.testing.assert_close(2 * first["contrastive"], second["contrastive"])


@pytest.mark.parametrize(
    ("anchors", "negatives", "drop"),
    [("reliable", "unreliable", "high"), ("lowest", "reliable", "low"), ("reliable", "all", "low")],
)
def test_the_contrast_is_given_labels_and_masks_of_what_was_mixed(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, anchors: str, negatives: str, drop: str
) -> None:
    changes = CALM | {"anchors": anchors, "negatives": negatives, "entropy_drop": drop, "contrast_dpa": False}
    method, batch = tiny.make_method("u2pl_ael", **changes), tiny.make_batch()
    batch.valid[0, :12] = False
    with torch.no_grad():
        for parameter in method.teacher.parameters():  # another network than the student
            parameter.add_(0.05 * torch.randn_like(parameter))
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[:, :, :16] = True
    mix = Mix(inside, torch.tensor([1, 0]))
    monkeypatch.setattr(method, "choose_mix", lambda *_: mix)
    given: list[Any] = []

    def listen(_: Any, arguments: tuple[Any, ...]) -> None:
        given.extend(arguments)

    method.contrast.register_forward_pre_hook(listen)
    taught = mix(method.teacher.predict(batch.unlabelled))
    tiny.losses(method, batch, step=4)  # epoch 2 of 5: 12 % are left out, and still 20 % are negatives
    student, teacher, pixels = given
    valid = mix(batch.valid)[:, ::4, ::4]
    doubt = entropy(taught)
    left_low, low, high, left_high = np.percentile(doubt[valid].numpy(), [12, 20, 80, 88])
    true = batch.mask[:, ::4, ::4]
    assert pixels.num_labelled == 2
    assert torch.equal(pixels.labels, torch.cat([true, torch.where(valid, taught.argmax(dim=1), 255)]))
    again = [method.teacher.observe(images) for images in (batch.labelled, mix(batch.unlabelled))]
    torch.testing.assert_close(pixels.probability, torch.cat([again[0].logits, taught]).softmax(dim=1))
    torch.testing.assert_close(teacher, torch.cat([output.representation for output in again]))
    lowest, reliable, unreliable = doubt <= float(low), doubt < float(high), doubt > float(high)
    learnt = doubt < float(left_high) if drop == "high" else doubt > float(left_low)
    anchorable = {"reliable": reliable, "lowest": lowest}[anchors] & learnt & valid
    negatable = {"unreliable": unreliable, "reliable": lowest, "all": valid}[negatives] & valid
    assert torch.equal(pixels.anchorable, torch.cat([true != 255, anchorable]))
    assert torch.equal(pixels.negatable, torch.cat([true != 255, negatable]))
    assert student.shape == teacher.shape == (4, 16, 8, 8)
    assert student.requires_grad
    assert not teacher.requires_grad


@pytest.mark.parametrize(("drop", "share"), [("high", 0.8), ("low", 0.8), ("none", 1.0)])
def test_entropy_leaves_out_the_named_end_of_the_valid_pixels(tiny: Any, drop: str, share: float) -> None:
    method = tiny.make_method("u2pl_ael", entropy_drop=drop)
    torch.manual_seed(0)
    target, valid = torch.randn(2, 21, 8, 8), torch.rand(2, 8, 8) < 0.8
    left = method.reliable(target, valid, progress=tiny.make_progress())
    doubt = entropy(target)
    assert float(left.sum() / valid.sum()) == pytest.approx(share, abs=0.02)
    assert not left[~valid].any()
    gone = doubt[valid & ~left]
    if drop == "high":
        assert gone.min() >= doubt[left].max()
    elif drop == "low":
        assert gone.max() <= doubt[left].min()


def test_the_share_falls_with_the_epochs_unless_held(tiny: Any) -> None:
    method = tiny.make_method("u2pl_ael")
    later = tiny.make_progress(step=6)  # epoch 3 of 5
    assert method.share(later, dynamic=True) == pytest.approx(0.2 * 0.4)
    assert method.share(later, dynamic=False) == 0.2


def test_the_gradient_of_the_contrast_reaches_the_students_representation_alone(tiny: Any) -> None:
    method = tiny.make_method("u2pl_ael")
    tiny.losses(method, tiny.make_batch())["contrastive"].backward()
    reached = {key.split(".")[0] for key, p in method.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"encoder", "decoder", "represent"}


def test_the_authors_settings_name_parameters_and_are_allowed(tiny: Any) -> None:
    authors = dataclasses.asdict(u2pl_ael.Parameters(**tiny.PARAMETERS["u2pl_ael"] | official.U2PL_AEL))
    as_lists = {key: list(value) if isinstance(value, tuple) else value for key, value in authors.items()}
    assert as_lists | official.U2PL_AEL == as_lists


def test_a_step_with_the_authors_settings_is_finite(tiny: Any) -> None:
    changes = official.U2PL_AEL | {"contrast_start_epoch": 0}
    values = tiny.losses(tiny.make_method("u2pl_ael", **changes), tiny.make_batch())
    assert values.keys() == {"supervised", "unsupervised", "labelled_consistency", "contrastive"}
    assert all(value.isfinite() for value in values.values())


@pytest.mark.parametrize(
    ("name_of", "value", "allowed"),
    [
        ("entropy_drop", "all", "high, low or none"),
        ("alpha0", 1.0, "below 1"),
        ("contrast_start_epoch", -1, "0 and above"),
        ("gamma", -1.0, "0 and above"),
        ("temperature", 0.0, "above 0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(tiny: Any, name_of: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name_of} is .*allowed: .*{allowed}"):
        tiny.make_method("u2pl_ael", **{name_of: value})
