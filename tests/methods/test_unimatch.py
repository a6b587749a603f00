"""UniMatch and FixMatch: the formula by pixel loops, and where labels come from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import unimatch
from pipeline.training.weak_to_strong import Weak
from tests.methods import official

FIXMATCH = {"num_strong_views": 1, "feature_perturbation": False}


def box(images: Tensor, **_: object) -> Tensor:
    inside = torch.zeros(len(images), *images.shape[-2:], dtype=torch.bool)
    inside[:, 4:20, 8:28] = True
    return inside


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take chance out of the views: known colours, known boxes, half the features."""
    monkeypatch.setattr(unimatch, "unimatch_view", lambda images: 1.5 * images)
    monkeypatch.setattr(unimatch, "aspect_boxes", box)
    monkeypatch.setattr(unimatch, "channel_dropout", lambda features, rate: (1 - rate) * features)


def by_loops(logits: Tensor, weak: Tensor, valid: Tensor, *, partners: list[int], threshold: float) -> float:
    """The loss of a strong view, pixel by pixel of the 8 x 8 map; inside the box labels are the partner's."""
    total, known = 0.0, 0
    for image in range(len(logits)):
        for row in range(8):
            for column in range(8):
                boxed = 4 <= 4 * row < 20 and 8 <= 4 * column < 28
                source = partners[image] if boxed else image
                if not valid[source, 4 * row, 4 * column]:
                    continue
                known += 1
                shares = softmax(weak[source, :, row, column])
                if max(shares) >= threshold:
                    label = shares.index(max(shares))
                    total -= math.log(softmax(logits[image, :, row, column])[label])
    return total / known


def softmax(scores: Tensor) -> list[float]:
    powers = [math.exp(float(score)) for score in scores]
    return [power / sum(powers) for power in powers]


def mixed(images: Tensor) -> Tensor:
    return torch.where(box(images)[:, None], 1.5 * images.flip(0), 1.5 * images)


@pytest.mark.usefixtures("fixed")
def test_one_view_without_feature_perturbation_is_fixmatch(tiny: Any) -> None:
    method, batch = tiny.make_method("unimatch", **FIXMATCH), tiny.make_batch()
    values = tiny.losses(method, batch)
    student = method.student
    weak = student(torch.cat([batch.labelled, batch.unlabelled])).logits.detach()
    strong = student(mixed(batch.unlabelled)).logits.detach()
    expected = by_loops(strong, weak[2:], batch.valid, partners=[1, 0], threshold=0.05)
    assert expected > 0
    assert values.keys() == {"supervised", "strong"}
    assert float(values["strong"].detach()) == pytest.approx(0.5 * expected, rel=1e-4)
    supervised = torch.nn.functional.cross_entropy(weak[:2], batch.mask[:, ::4, ::4], ignore_index=255)
    assert float(values["supervised"].detach()) == pytest.approx(0.5 * float(supervised), rel=1e-4)


@pytest.mark.usefixtures("fixed")
def test_unimatch_weighs_two_views_and_dropped_features_as_published(tiny: Any) -> None:
    method, batch = tiny.make_method("unimatch"), tiny.make_batch()
    values = tiny.losses(method, batch)
    student = method.student
    c1, c2, c3, c4 = student.features(torch.cat([batch.labelled, batch.unlabelled]))
    features = [torch.cat([c1, 0.5 * c1[2:]]), c2, c3, torch.cat([c4, 0.5 * c4[2:]])]
    logits = student.classify(student.fuse(features)).detach()  # labelled, weak, dropped
    strong = student(mixed(batch.unlabelled).repeat(2, 1, 1, 1)).logits.detach()
    of_views = [
        by_loops(view, logits[2:4], batch.valid, partners=[1, 0], threshold=0.05) for view in (strong[:2], strong[2:])
    ]
    of_dropped = by_loops(logits[4:], logits[2:4], batch.valid, partners=[0, 1], threshold=0.05)
    assert float(values["strong"].detach()) == pytest.approx(0.5 * sum(of_views) / 4, rel=1e-4)
    assert float(values["features"].detach()) == pytest.approx(0.5 * of_dropped / 2, rel=1e-4)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_the_weak_forward_without_perturbation_is_the_networks_own(tiny: Any, auxiliary: bool) -> None:
    method, batch = tiny.make_method("unimatch", auxiliary=auxiliary, **FIXMATCH), tiny.make_batch()
    labelled, logits = method.forward_weak(batch)
    output = method.student(torch.cat([batch.labelled, batch.unlabelled]))
    torch.testing.assert_close(torch.cat([labelled.logits, logits]), output.logits)
    if auxiliary:
        torch.testing.assert_close(labelled.auxiliary, output.auxiliary[:2])
    else:
        assert labelled.auxiliary is None


def test_the_labelled_half_never_sees_dropped_features(tiny: Any) -> None:
    method, batch = tiny.make_method("unimatch", pointwise=True, feature_dropout=0.9), tiny.make_batch()
    labelled, logits = method.forward_weak(batch)
    output = method.student(torch.cat([batch.labelled, batch.unlabelled])).logits
    torch.testing.assert_close(torch.cat([labelled.logits, logits[:2]]), output)
    assert not torch.allclose(logits[2:], output[2:])


def test_no_gradient_reaches_the_logits_that_label(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny.make_method("unimatch"), tiny.make_batch()
    labelled, logits = method.forward_weak(batch)
    weak, dropped = (half.detach().requires_grad_() for half in logits.split(2))
    monkeypatch.setattr(method, "forward_weak", lambda _: (labelled, torch.cat([weak, dropped])))
    values = tiny.losses(method, batch)
    (values["strong"] + values["features"]).backward()
    assert weak.grad is None or not weak.grad.any()
    assert dropped.grad.any()


def test_every_pixel_keeps_its_label_and_confidence_through_the_mix(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unimatch, "unimatch_view", lambda images: images)
    method = tiny.make_method("unimatch", box_probability=1.0)
    index = torch.arange(4)[:, None, None].expand(-1, 32, 32)
    images = index[:, None].expand(-1, 3, -1, -1).float()
    labels = Weak(index, index / 10)
    torch.manual_seed(0)
    for _ in range(5):
        view, target = method.strong(images, labels, partner=Weak(index + 10, index / 10))
        assert torch.equal(target.labels % 10, view[:, 0].long())
        torch.testing.assert_close(target.confidence, view[:, 0] / 10)
        inside = target.labels >= 10
        assert torch.equal(target.labels[inside] - 10, (3 - index)[inside])
        assert inside.flatten(1).any(dim=1).all()


def test_padding_never_changes_a_loss(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unimatch, "unimatch_view", lambda images: images)
    batch = tiny.make_batch()
    garbage = torch.where(batch.valid[:, None], batch.unlabelled, 50 * torch.randn_like(batch.unlabelled))
    method = tiny.make_method("unimatch", pointwise=True)
    clean = tiny.losses(method, batch)
    dirty = tiny.losses(method, dataclasses.replace(batch, unlabelled=garbage))
    for key, value in clean.items():
        torch.testing.assert_close(dirty[key], value)


def test_partner_labels_in_eval_mode_are_those_of_running_statistics(tiny: Any) -> None:
    method, batch = tiny.make_method("unimatch", partner_labels="eval"), tiny.make_batch()
    before = {key: value.clone() for key, value in method.student.named_buffers()}
    labels = method.label_in_eval_mode(batch)
    assert all(torch.equal(value, before[key]) for key, value in method.student.named_buffers())
    assert all(module.training for module in method.student.modules())
    method.eval()
    expected = method.student(batch.unlabelled).logits.argmax(dim=1)
    valid = batch.valid[:, ::4, ::4]
    assert torch.equal(labels.labels, torch.where(valid, expected, 255))


def test_the_authors_settings_are_whole_and_allowed() -> None:
    assert dataclasses.asdict(unimatch.Parameters(**official.UNIMATCH)) == official.UNIMATCH


@pytest.mark.parametrize(
    ("name_of", "value", "allowed"),
    [
        ("num_strong_views", 3, "1, 2"),
        ("partner_labels", "own", "train, eval"),
        ("confidence_threshold", 1.5, "0 to 1"),
        ("box_area", [0.4, 0.02], "low <= high"),
        ("weight", -1.0, "0 and above"),
    ],
)
def test_values_out_of_range_are_refused_by_name(tiny: Any, name_of: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name_of} is .*allowed: .*{allowed}"):
        tiny.make_method("unimatch", **{name_of: value})
