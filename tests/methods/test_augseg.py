"""AugSeg: provenance of every pixel through both mixes, label injection, and the loss by its formula."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import augseg
from pipeline.methods.augseg import beta_boxes
from pipeline.training.weak_to_strong import Weak
from tests.methods import official

LABELLED = 1000  # labelled images tell 1000, 1001, …; unlabelled ones 0, 1, …


def telling_batch(tiny: Any, num: int) -> tuple[Any, Weak]:
    """A batch whose images and labels tell index, row and column; unlabelled ones are labelled at confidence 0.5."""
    index, row, column = torch.meshgrid(torch.arange(num), torch.arange(32), torch.arange(32), indexing="ij")
    places = torch.stack([row, column], dim=1).float()
    batch = dataclasses.replace(
        tiny.make_batch(num=num),
        unlabelled=torch.cat([index[:, None].float(), places], dim=1),
        labelled=torch.cat([index[:, None].float() + LABELLED, places], dim=1),
        mask=index + LABELLED,
    )
    return batch, Weak(index, torch.full(index.shape, 0.5))


def test_every_pixel_keeps_its_label_and_place_through_both_mixes(tiny: Any) -> None:
    method = tiny.make_method("augseg", max_operations=0)
    batch, labels = telling_batch(tiny, 6)
    torch.manual_seed(0)
    labelled_content = 0
    for _ in range(20):
        images, target = method.mix(batch, labels, sure=torch.full((6,), 0.5))
        assert torch.equal(images[:, 1:], batch.unlabelled[:, 1:])
        assert torch.equal(target.labels, images[:, 0].long())
        assert torch.equal(target.confidence == 1, target.labels >= LABELLED)
        labelled_content += int((target.labels >= LABELLED).sum())
    assert labelled_content > 0


def test_labelled_content_comes_only_with_the_pasted_box(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def everywhere_or_box(images: Tensor, beta: list[float]) -> Tensor:
        inside = torch.ones(len(images), *images.shape[-2:], dtype=torch.bool)
        if beta == [4.0, 4.0]:
            inside[:, :, 16:] = False
        return inside

    monkeypatch.setattr(augseg, "beta_boxes", everywhere_or_box)
    method = tiny.make_method("augseg", max_operations=0)
    batch, labels = telling_batch(tiny, 3)
    _, target = method.mix(batch, labels, sure=torch.zeros(3))
    assert (target.labels[:, :, :16] >= LABELLED).all()
    assert torch.equal(target.labels[:, :, 16:], labels.labels[:, :, 16:])


@pytest.mark.parametrize(("sure", "expected"), [(1.0, 0.0), (0.0, 1.0), (0.7, 0.3)])
def test_an_image_the_teacher_is_unsure_of_is_injected_more_often(tiny: Any, sure: float, expected: float) -> None:
    method = tiny.make_method("augseg")
    batch, labels = telling_batch(tiny, 200)
    torch.manual_seed(0)
    _, target = method.inject(batch, batch.unlabelled, labels=labels, sure=torch.full((200,), sure))
    share = (target.labels >= LABELLED).flatten(1).any(dim=1).float().mean()
    assert float(share) == pytest.approx(expected, abs=0.1 if 0 < sure < 1 else 0)


def test_without_label_injection_nothing_labelled_is_seen(tiny: Any) -> None:
    method = tiny.make_method("augseg", max_operations=0, label_injection=False)
    batch, labels = telling_batch(tiny, 4)
    _, target = method.mix(batch, labels, sure=torch.zeros(4))
    assert (target.labels < LABELLED).all()


def test_injected_pixels_are_learnt_at_any_threshold_unless_ignored(tiny: Any) -> None:
    method = tiny.make_method("augseg")
    batch, labels = telling_batch(tiny, 2)
    batch.mask[:, :, 10:] = 255
    _, target = method.inject(batch, batch.unlabelled, labels=labels, sure=torch.zeros(2))
    injected = target.confidence == 1
    assert injected.any()
    assert (target.labels[:, :, 10:][injected[:, :, 10:]] == 255).all()
    assert (target.labels[:, :, :10][injected[:, :, :10]] >= LABELLED).all()


@pytest.mark.parametrize(("beta", "mean"), [([8.0, 2.0], 0.2), ([4.0, 4.0], 0.5), ([0.5, 1.5], 0.75)])
def test_boxes_cover_one_minus_a_beta_variable_of_the_image(beta: list[float], mean: float) -> None:
    torch.manual_seed(0)
    inside = beta_boxes(torch.empty(2000, 3, 40, 60), beta)
    area = inside.float().mean(dim=(1, 2))
    variance = beta[0] * beta[1] / (sum(beta) ** 2 * (sum(beta) + 1))
    assert float(area.mean()) == pytest.approx(mean, abs=0.02)
    assert float(area.std()) == pytest.approx(math.sqrt(variance), abs=0.02)
    heights, widths = inside.any(dim=2).sum(dim=1), inside.any(dim=1).sum(dim=1)
    assert torch.equal(heights * widths, inside.sum(dim=(1, 2)))
    assert ((heights / 40 - widths / 60).abs() < 0.03).all()


def test_the_loss_is_of_the_confident_pixels_over_all_known_ones(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny.make_method("augseg", weight=2.0), tiny.make_batch()
    torch.manual_seed(0)
    target = Weak(torch.randint(21, (2, 8, 8)), torch.rand(2, 8, 8))
    target.labels[:, 0] = 255
    images = torch.randn_like(batch.unlabelled)
    monkeypatch.setattr(method, "mix", lambda *_, **__: (images, target))
    values = tiny.losses(method, batch)
    logits = method.student(torch.cat([batch.labelled, images])).logits.detach()
    total, known = 0.0, 0
    for image in range(2):
        for row in range(1, 8):
            for column in range(8):
                known += 1
                if target.confidence[image, row, column] >= 0.05:
                    powers = [math.exp(float(score)) for score in logits[2 + image, :, row, column]]
                    total -= math.log(powers[int(target.labels[image, row, column])] / sum(powers))
    assert float(values["unsupervised"].detach()) == pytest.approx(2 * total / known, rel=1e-4)


def test_weak_images_in_the_batch_change_batch_statistics_only(tiny: Any) -> None:
    batch = tiny.make_batch()
    alone, together = (tiny.make_method("augseg", pointwise=True, weak_in_batch=flag) for flag in (False, True))
    together.load_state_dict(alone.state_dict())
    assert tiny.total(tiny.losses(alone, batch)) == tiny.total(tiny.losses(together, batch))
    normed = tiny.make_method("augseg", weak_in_batch=True)
    batches = []
    normed.student.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    tiny.losses(normed, batch)
    assert batches == [6]


def test_padding_never_changes_a_loss(tiny: Any) -> None:
    batch = tiny.make_batch()
    garbage = torch.where(batch.valid[:, None], batch.unlabelled, 50 * torch.randn_like(batch.unlabelled))
    method = tiny.make_method("augseg", pointwise=True, max_operations=0)
    clean = tiny.losses(method, batch)
    dirty = tiny.losses(method, dataclasses.replace(batch, unlabelled=garbage))
    for key, value in clean.items():
        torch.testing.assert_close(dirty[key], value)


def test_the_authors_settings_are_whole_and_allowed() -> None:
    assert dataclasses.asdict(augseg.Parameters(**official.AUGSEG)) == official.AUGSEG


@pytest.mark.parametrize(
    ("name_of", "value", "allowed"),
    [("max_operations", -1, "0 "), ("mix_beta", [4.0], "two numbers"), ("confidence_threshold", -0.7, "0 to 1")],
)
def test_values_out_of_range_are_refused_by_name(tiny: Any, name_of: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name_of} is .*allowed: .*{allowed}"):
        tiny.make_method("augseg", **{name_of: value})
