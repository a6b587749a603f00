"""AEL: what is learnt of which pixel by the formula, provenance through its mixes, and the bank in step."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.methods import ael
from pipeline.training import equalisation
from pipeline.training.equalisation import Mix
from tests.methods import official

PLAIN = {"paste_probability": 0.0, "labelled_consistency": False, "beta": 0.0}


def fix_mix(method: Any, monkeypatch: pytest.MonkeyPatch) -> Mix:
    """Take chance out of the boxes: the left half of each image is the next one's."""
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[:, :, :16] = True
    mix = Mix(inside, torch.tensor([1, 0]))
    monkeypatch.setattr(method, "choose_mix", lambda *_: mix)
    return mix


def by_loops(logits: Tensor, taught: Tensor, *, known: Tensor, gamma: float, threshold: float) -> float:
    """Equations 12 and 13 with every pixel sampled, over a batch of maps."""
    per_image = []
    for image in range(len(logits)):
        total, weights = 0.0, 0.0
        for row in range(logits.shape[2]):
            for column in range(logits.shape[3]):
                if not known[image, row, column]:
                    continue
                shares = softmax(taught[image, :, row, column])
                weight = max(shares) ** gamma
                weights += weight
                if max(shares) >= threshold:
                    label = shares.index(max(shares))
                    total -= weight * math.log(softmax(logits[image, :, row, column])[label])
        per_image.append(total / weights)
    return sum(per_image) / len(per_image)


def softmax(scores: Tensor) -> list[float]:
    powers = [math.exp(float(score)) for score in scores]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("gamma", "threshold"), [(0.0, 0.0), (2.0, 0.0), (2.0, 0.08)])
def test_the_unsupervised_loss_equals_the_formula(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, gamma: float, threshold: float
) -> None:
    method = tiny.make_method("ael", gamma=gamma, confidence_threshold=threshold, **PLAIN)
    batch = tiny.make_batch()
    batch.valid[0, :12] = False  # another padding than the other image's
    mix = fix_mix(method, monkeypatch)
    values = tiny.losses(method, batch)
    taught = mix(method.teacher.predict(batch.unlabelled))
    logits = method.student(mix(batch.unlabelled)).logits.detach()
    known = mix(batch.valid)[:, ::4, ::4]
    expected = by_loops(logits, taught, known=known, gamma=gamma, threshold=threshold)
    assert values.keys() == {"supervised", "unsupervised"}
    assert float(values["unsupervised"].detach()) == pytest.approx(expected, rel=1e-4)
    supervised = method.setting.supervised(method.student(batch.labelled), batch.mask)
    torch.testing.assert_close(values["supervised"], supervised)


def test_labelled_consistency_is_the_same_loss_where_labels_are_known(tiny: Any) -> None:
    method = tiny.make_method("ael", **PLAIN | {"labelled_consistency": True, "weight": 3.0})
    batch = tiny.make_batch()
    values = tiny.losses(method, batch)
    taught, logits = method.teacher.predict(batch.labelled), method.student(batch.labelled).logits.detach()
    expected = by_loops(logits, taught, known=batch.mask[:, ::4, ::4] != 255, gamma=2.0, threshold=0.0)
    assert float(values["labelled_consistency"].detach()) == pytest.approx(3 * expected, rel=1e-4)


def test_a_class_that_does_well_is_trained_on_less(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny.make_method("ael", **PLAIN | {"beta": 1.0}, confidence_momentum=1.0), tiny.make_batch()
    fix_mix(method, monkeypatch)
    method.bank.confidence.fill_(1.0)
    method.bank.confidence[3] = 0.0
    logits = torch.randn(2, 21, 8, 8)
    logits[:, 5] += 100  # the student predicts class 5, which lacks nothing
    loss = method.consistency(logits, torch.randn(2, 21, 8, 8), reliable=batch.valid)
    assert loss == 0
    logits[:, 3] += 200  # now class 3, which lacks all
    loss = method.consistency(logits, torch.randn(2, 21, 8, 8), reliable=batch.valid)
    assert loss > 0


def test_every_map_is_mixed_alike_and_boxes_hold_the_drawn_class(tiny: Any) -> None:
    method = tiny.make_method("ael", num_classes=3, initial_confidence=0.5)
    num = 6
    index = torch.arange(num)[:, None, None].expand(-1, 32, 32)
    batch = dataclasses.replace(
        tiny.make_batch(num=num, num_classes=3), unlabelled=index[:, None].expand(-1, 3, -1, -1).float()
    )
    prediction = torch.zeros(num, 8, 8, dtype=torch.long)
    prediction[:, 1:4, 1:5] = 2
    taught = torch.nn.functional.one_hot(prediction, 3).permute(0, 3, 1, 2).float()
    method.bank.confidence.copy_(torch.tensor([0.0, 0.0, -1000.0]))  # class 2 is drawn
    torch.manual_seed(0)
    mix = method.choose_mix(batch, taught)
    assert (mix.partners != torch.arange(num)).all()
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[4:16, 4:20] = True
    assert torch.equal(mix.inside, expected.expand(num, -1, -1))
    images, labels = mix(batch.unlabelled), mix(index)
    assert torch.equal(images[:, 0].long(), labels)
    assert torch.equal(labels, torch.where(mix.inside, mix.partners[:, None, None], index))


def test_a_class_nobody_has_leaves_a_box_of_half_the_image(tiny: Any) -> None:
    method, batch = tiny.make_method("ael", num_classes=3), tiny.make_batch(num_classes=3)
    method.bank.confidence.copy_(torch.tensor([0.0, 0.0, -1000.0]))
    mix = method.choose_mix(batch, torch.zeros(2, 3, 8, 8))
    torch.testing.assert_close(mix.inside.float().mean(dim=(1, 2)), torch.full((2,), 0.5), atol=0.05, rtol=0)


def test_a_region_is_cut_from_its_area_on(tiny: Any) -> None:
    batch = tiny.make_batch(num_classes=3)
    taught = torch.zeros(2, 3, 8, 8)
    taught[:, 2, 1:4, 1:5] = 1  # 12 of 64 places
    for area, is_cut in ((0.1, True), (0.3, False)):
        method = tiny.make_method("ael", num_classes=3, region_area=area, presence_area=0.5)
        method.bank.confidence.copy_(torch.tensor([0.0, 0.0, -1000.0]))  # class 2 is drawn
        expected = torch.zeros(32, 32, dtype=torch.bool)
        expected[4:16, 4:20] = True
        assert torch.equal(method.choose_mix(batch, taught).inside, expected.expand(2, -1, -1)) == is_cut


def test_a_partner_has_the_class_from_its_area_on(tiny: Any) -> None:
    batch = tiny.make_batch(num=3, num_classes=3)
    taught = torch.zeros(3, 3, 8, 8)
    taught[1, 2, 1:4, 1:5] = 1  # 12 of 64 places
    taught[2, 2, 1:3, 1:3] = 1  # 4
    for area, partners in ((0.1, {1}), (0.01, {1, 2})):
        method = tiny.make_method("ael", num_classes=3, presence_area=area, region_area=0.5)
        method.bank.confidence.copy_(torch.tensor([0.0, 0.0, -1000.0]))
        torch.manual_seed(0)
        assert {int(method.choose_mix(batch, taught).partners[0]) for _ in range(20)} == partners


def test_what_is_pasted_is_drawn_by_the_power_of_what_a_class_lacks(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = tiny.make_method("ael", num_classes=3, paste_power=0.5, excluded_classes=[0])
    method.bank.confidence.copy_(torch.tensor([0.3, 0.19, 0.96]))
    given: dict[str, Any] = {}
    monkeypatch.setattr(equalisation, "paste_classes", lambda *_, **settings: given.update(settings))
    method.paste_labelled(tiny.make_batch(num_classes=3))
    powers = [math.exp(0.9), math.exp(0.2)]
    torch.testing.assert_close(given["chances"], torch.tensor([0.0, powers[0], powers[1]]) / sum(powers))


def test_a_step_moves_the_bank_of_present_classes_only(tiny: Any) -> None:
    method, batch = tiny.make_method("ael", **PLAIN, initial_confidence=0.5), tiny.make_batch()
    mask = torch.where(batch.mask == 255, 255, batch.mask % 3)
    probability = method.student(batch.labelled).logits.detach().softmax(dim=1)
    tiny.losses(method, dataclasses.replace(batch, mask=mask))
    assert (method.bank.confidence[3:] == 0.5).all()
    for wanted in range(3):
        per_image = []
        for image in range(2):
            found = [
                float(probability[image, wanted, row, column])
                for row in range(8)
                for column in range(8)
                if mask[image, 4 * row, 4 * column] == wanted
            ]
            per_image += [sum(found) / len(found)] if found else []
        expected = 0.9 * 0.5 + 0.1 * sum(per_image) / len(per_image)
        assert float(method.bank.confidence[wanted]) == pytest.approx(expected, rel=1e-4)


def test_what_is_pasted_is_what_the_student_learns(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny.make_method("ael", **PLAIN), tiny.make_batch()
    images, mask = torch.randn_like(batch.labelled), batch.mask.flip(0)
    monkeypatch.setattr(method, "paste_labelled", lambda _: (images, mask))
    expected = method.setting.supervised(method.student(images), mask)
    torch.testing.assert_close(tiny.losses(method, batch)["supervised"], expected)


def test_excluded_classes_are_never_pasted(tiny: Any) -> None:
    method = tiny.make_method("ael", num_classes=3, excluded_classes=[0, 2], paste_probability=1.0)
    batch = tiny.make_batch(num=8, num_classes=3)
    torch.manual_seed(0)
    images, mask = method.paste_labelled(batch)
    foreign = (images != batch.labelled).any(dim=1)
    assert foreign.any()
    assert (mask[foreign] == 1).all()


def test_a_teacher_in_train_mode_keeps_statistics_of_its_own(tiny: Any) -> None:
    method = tiny.make_method("ael", teacher_mode="train", buffers="own", **PLAIN)
    before = [value.clone() for value in method.teacher.net.buffers() if value.is_floating_point()]
    tiny.losses(method, tiny.make_batch())
    after = [value for value in method.teacher.net.buffers() if value.is_floating_point()]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(module.training for module in method.teacher.modules())


def test_the_authors_settings_are_whole_and_allowed() -> None:
    parameters = dataclasses.asdict(ael.Parameters(**official.AEL))
    assert parameters == official.AEL | {"paste_scale": (0.2, 1.0), "excluded_classes": (0, 1, 2, 8, 10)}


@pytest.mark.parametrize(
    ("name_of", "value", "allowed"),
    [
        ("excluded_classes", list(range(21)), "some, not all, of the classes 0 to 20"),
        ("excluded_classes", [21], "some, not all, of the classes 0 to 20"),
        ("buffers", "own", "own with teacher_mode train"),
        ("initial_confidence", 1.5, "0 to 1, or null"),
        ("paste_scale", [1.0, 2.0], "low <= high <= 1"),
        ("absent_class", "drop", "keep or zero"),
        ("num_pasted_classes", 0, "1 and above"),
        ("presence_area", 3, "0 to 1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(tiny: Any, name_of: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{name_of} is .*allowed: .*{allowed}"):
        tiny.make_method("ael", **{name_of: value})
