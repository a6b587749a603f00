"""PseudoSeg: two opinions, their fusion by pixel loops, and which loss teaches what."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import pseudoseg
from pipeline.training.attention import classes_in
from pipeline.training.photometric import cut_out, denormalise, normalise
from tests.methods import official

FORMS: list[dict[str, Any]] = [
    {},
    {"calibrate": False},
    {"temperature": 1.0},
    {"fusion": "decoder"},
    {"fusion": "attention"},
]


def make_pseudoseg(tiny: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.make_method("pseudoseg", **changes)


def softmax(scores: list[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def opinions(method: Any, batch: Any, present: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of decoder and attention, of the weak view in train mode."""
    with torch.no_grad():
        features = method.student.features(batch.unlabelled)
        decoded = method.student.classify(method.student.fuse(features))
        attended = method.attention(features[2:], present, valid=batch.valid)
    return decoded, torch.nn.functional.interpolate(attended, (8, 8), mode="bilinear", align_corners=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_pseudo_label_is_the_sharpened_fusion_of_both_opinions(tiny: Any, form: dict[str, Any]) -> None:
    batch = tiny.make_batch()
    method = make_pseudoseg(tiny, inference_cam=False, **form)
    full = make_pseudoseg(tiny, inference_cam=False)
    with torch.no_grad():
        weak = method.student.features(batch.unlabelled)
        target = method.target(batch, weak)
        present = full.attention.predicted(weak[2:], batch.valid, threshold=0.5)
    decoded, attended = opinions(full, batch, present)
    valid = batch.valid[:, ::4, ::4]
    squares = [
        float(logits[image, c, y, x]) ** 2
        for logits in (decoded, attended)
        for image, y, x in valid.nonzero().tolist()
        for c in range(21)
    ]
    scale = 1 / math.sqrt(sum(squares) / len(squares)) if form.get("calibrate", True) else 1.0
    fusion, power = form.get("fusion", "fused"), 1 / form.get("temperature", 0.5)
    scale = scale if fusion == "fused" else 1.0
    for image, y, x in valid.nonzero().tolist()[::7]:
        first = softmax([scale * float(value) for value in decoded[image, :, y, x]])
        second = softmax([scale * float(value) for value in attended[image, :, y, x]])
        weights = {"fused": (0.5, 0.5), "decoder": (1, 0), "attention": (0, 1)}[fusion]
        mean = [weights[0] * a + weights[1] * b for a, b in zip(first, second, strict=True)]
        total = sum(q**power for q in mean)
        expected = torch.tensor([q**power / total for q in mean])
        torch.testing.assert_close(target[image, :, y, x], expected, atol=1e-5, rtol=1e-3)


def test_the_unlabelled_loss_is_soft_cross_entropy_over_what_is_not_cut_out(tiny: Any) -> None:
    """Without jitter, the student sees the weak view less the square."""
    batch = tiny.make_batch()
    method = make_pseudoseg(tiny, fusion="decoder", temperature=1.0, jitter=[0, 0, 0, 0], cutout_share=0.5)
    loss = tiny.losses(method, batch)["unlabelled"].detach()
    torch.manual_seed(0)  # as tiny.losses; the square is all that is drawn
    _, kept = cut_out(batch.unlabelled, 0.5)
    target = method.student.predict(batch.unlabelled).softmax(1).detach()
    # the view is normalised anew, which clips what noise has beyond black and white
    seen = method.student.predict(normalise(denormalise(batch.unlabelled)) * kept[:, None]).log_softmax(1).detach()
    counted = (kept & batch.valid)[:, ::4, ::4]
    assert int(counted.sum()) < int(batch.valid[:, ::4, ::4].sum())
    errors = [
        -sum(float(target[image, c, y, x] * seen[image, c, y, x]) for c in range(21))
        for image, y, x in counted.nonzero().tolist()
    ]
    assert float(loss) == pytest.approx(sum(errors) / int(counted.sum()), rel=1e-4)


def test_without_strong_view_the_network_learns_the_weak_one(tiny: Any) -> None:
    batch = tiny.make_batch()
    method = make_pseudoseg(tiny, strong=False, fusion="decoder", temperature=1.0)
    loss = tiny.losses(method, batch)["unlabelled"].detach()
    prediction = method.student.predict(batch.unlabelled).softmax(1).detach()
    entropies = [
        -sum(float(p) * math.log(float(p)) for p in prediction[image, :, y, x])
        for image, y, x in batch.valid[:, ::4, ::4].nonzero().tolist()
    ]
    assert float(loss) == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)


def reached(method: Any, loss: Tensor) -> set[str]:
    """Names of the parts of the method that the loss has a gradient for."""
    method.zero_grad()
    loss.backward()
    parts = {"encoder": method.student.encoder, "decoder": method.student.decoder, "head": method.student.classifier}
    if hasattr(method, "attention"):
        own = method.attention
        parts |= {"classifier": own.classifier, "query": own.query, "key": own.key, "normaliser": own.classify}
    return {name for name, part in parts.items() if any(p.grad is not None for p in part.parameters())}


def test_which_loss_teaches_what(tiny: Any) -> None:
    method, batch = make_pseudoseg(tiny), tiny.make_batch()
    assert reached(method, tiny.losses(method, batch)["supervised"]) == {"encoder", "decoder", "head"}
    assert reached(method, tiny.losses(method, batch)["unlabelled"]) == {"encoder", "decoder", "head"}
    assert reached(method, tiny.losses(method, batch)["attention"]) == {"query", "key", "normaliser"}
    assert reached(method, tiny.losses(method, batch)["classifier"]) == {"encoder", "classifier"}


def test_the_decoder_alone_has_neither_classifier_nor_attention(tiny: Any) -> None:
    method = make_pseudoseg(tiny, fusion="decoder")
    assert sorted(tiny.losses(method, tiny.make_batch())) == ["supervised", "unlabelled"]
    assert not hasattr(method, "attention")


def test_the_classifier_learns_the_classes_of_the_labelled_masks(tiny: Any) -> None:
    method, batch = make_pseudoseg(tiny), tiny.make_batch()
    loss = tiny.losses(method, batch)["classifier"].detach()
    features = method.student.features(batch.labelled)
    scores = method.attention.scores(features[2:], batch.mask != 255).detach()
    present = classes_in(batch.mask, 21)
    errors = []
    for image in range(2):
        for k, c in enumerate(range(1, 21)):
            probability = 1 / (1 + math.exp(-float(scores[image, k])))
            errors.append(-math.log(probability if present[image, c] else 1 - probability))
    assert float(loss) == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_with_image_labels_the_unlabelled_images_teach_the_classifier_and_choose_the_maps(tiny: Any) -> None:
    method, batch = make_pseudoseg(tiny, image_labels=True, cutout_share=0.0), tiny.make_batch()
    losses = tiny.losses(method, batch)
    other = dataclasses.replace(batch, presence=~batch.presence)
    changed = tiny.losses(make_pseudoseg(tiny, image_labels=True, cutout_share=0.0), other)
    assert losses["classifier"] != changed["classifier"]
    assert losses["unlabelled"] != changed["unlabelled"]
    assert losses["attention"] == changed["attention"]
    assert reached(method, losses["classifier"]) == {"encoder", "classifier"}


def test_an_image_whose_classes_are_unknown_teaches_the_classifier_nothing(tiny: Any) -> None:
    method, batch = make_pseudoseg(tiny, image_labels=True), tiny.make_batch()
    unknown = dataclasses.replace(batch, presence=torch.zeros_like(batch.presence))
    assert tiny.losses(method, unknown)["classifier"] == 0


def test_labelling_in_inference_mode_leaves_the_network_in_train_mode(tiny: Any) -> None:
    method = make_pseudoseg(tiny, inference_cam=True)
    first = tiny.losses(method, tiny.make_batch())
    assert method.student.training
    assert all(module.training for module in method.student.modules())
    other = tiny.losses(make_pseudoseg(tiny, inference_cam=False), tiny.make_batch())
    assert first["unlabelled"] != other["unlabelled"]


@pytest.mark.parametrize("num_classes", [2, 19])
def test_data_without_a_background_class_has_scores_for_all(tiny: Any, num_classes: int) -> None:
    method = make_pseudoseg(tiny, num_classes=num_classes, background_class=None)
    losses = tiny.losses(method, tiny.make_batch(num_classes=num_classes))
    assert all(loss.isfinite() for loss in losses.values())
    assert method.attention.classifier.out_features == num_classes


@pytest.mark.parametrize(
    "wrong", [{"fusion": "both"}, {"temperature": 0.0}, {"jitter": [0.5, 0.5]}, {"cutout_share": 2.0}, {"weight": -1.0}]
)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* allowed"):
        pseudoseg.Parameters(**official.PSEUDOSEG | wrong)


def test_the_authors_settings_are_recorded() -> None:
    authors = pseudoseg.Parameters(**official.PSEUDOSEG)
    assert (authors.temperature, authors.attention_channels, authors.weight) == (0.5, 128, 1.0)
    assert authors.jitter == (0.5, 0.5, 0.5, 0.25)
    assert round(authors.cutout_share * 513) == 100
