"""What is U2PL's own, beyond what the contrast's and the entropy's tests hold."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch

from pipeline.methods.u2pl import Method, Parameters
from pipeline.training import mixing
from pipeline.training.entropy import reliability
from tests.methods import official
from tests.params import project_params


def test_the_unsupervised_loss_weighs_reliable_pixels_by_the_inverse_of_their_share(tiny: Any) -> None:
    method = tiny.make_method("u2pl", weight=1.0)
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 21, 5, 5), torch.randint(21, (2, 5, 5))
    labels[0, :2] = 255
    found = reliability(torch.rand(2, 5, 5), labels != 255, share=0.2)
    losses = []
    for b in range(2):
        for y in range(5):
            for x in range(5):
                if found.reliable[b, y, x]:
                    powers = [math.exp(value) for value in logits[b, :, y, x].tolist()]
                    losses.append(-math.log(powers[int(labels[b, y, x])] / sum(powers)))
    assert len(losses) == 32  # of 40 valid ones
    expected = 40 / 32 * sum(losses) / 32
    assert method.unsupervised(logits, labels, found=found).item() == pytest.approx(expected, rel=1e-5)


def test_the_share_of_unreliable_pixels_falls_by_epoch_unless_it_is_told_to_stay(tiny: Any) -> None:
    thresholds = {}
    for dpa in (True, False):
        torch.manual_seed(0)
        method = tiny.make_method("u2pl", dpa=dpa)
        found = []
        for step in (0, 1, 8):  # epochs 0, 0 and 4 of 5
            torch.manual_seed(0)
            again = copy.deepcopy(method)
            again.losses(tiny.make_batch(), tiny.make_progress(step))
            found.append(float(again.threshold))
        thresholds[dpa] = found
    assert thresholds[True][0] == thresholds[True][1] < thresholds[True][2]
    assert len(set(thresholds[False])) == 1


def test_the_second_pass_alone_moves_the_statistics_of_a_teacher_with_its_own(tiny: Any) -> None:
    method = tiny.make_method("u2pl")
    before = copy.deepcopy(method.teacher.net.state_dict())
    tiny.losses(method, tiny.make_batch())
    after = method.teacher.net.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved
    assert all("running_" in key or key.endswith("num_batches_tracked") for key in moved)
    statistics = {key: after[key].clone() for key in moved}
    method.after_step(5)
    assert all(torch.equal(value, method.teacher.net.state_dict()[key]) for key, value in statistics.items())


@pytest.mark.parametrize("changes", [{"alpha0": 0.0}, {"entropy_source": "first"}], ids=str)
def test_statistics_of_its_own_move_where_nothing_else_asks_for_the_second_pass(
    tiny: Any, changes: dict[str, Any]
) -> None:
    method = tiny.make_method("u2pl", contrast="none", **changes)
    before = copy.deepcopy(method.teacher.net.state_dict())
    tiny.losses(method, tiny.make_batch())
    after = method.teacher.net.state_dict()
    assert all(not torch.equal(value, before[key]) for key, value in after.items() if key.endswith("running_mean"))


@pytest.mark.parametrize("mix", ["cutmix", "cutout", "classmix"])
def test_images_and_labels_are_mixed_alike_in_each_kind(tiny: Any, mix: str) -> None:
    torch.manual_seed(0)
    method = tiny.make_method("u2pl", mix=mix)
    labels = torch.randint(4, (3, 8, 8))
    images = labels[:, None].float().expand(-1, 3, -1, -1) + 10 * torch.arange(1, 4).view(3, 1, 1, 1)
    inside, mixed, marked = mixing.mix(images, labels, way=mix, probability=1.0, num_classes=21)
    assert inside.any(dim=(1, 2)).all()
    assert not inside.all()
    for b in range(3):
        outside = mixed[b, 0][~inside[b]], marked[b][~inside[b]]
        assert torch.equal(outside[0], images[b, 0][~inside[b]])
        assert torch.equal(outside[1], labels[b][~inside[b]])
        if mix == "cutout":
            assert (mixed[b][:, inside[b]] == 0).all()
            assert (marked[b][inside[b]] == 255).all()
        else:
            following = (b + 1) % 3
            assert torch.equal(mixed[b][:, inside[b]], images[following][:, inside[b]])
            assert torch.equal(marked[b][inside[b]], labels[following][inside[b]])
    losses = tiny.losses(method, tiny.make_batch())
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_entropy_is_from_the_pass_that_is_named(tiny: Any) -> None:
    thresholds = []
    for source in ("first", "second"):
        torch.manual_seed(0)
        method = tiny.make_method("u2pl", entropy_source=source)
        tiny.losses(method, tiny.make_batch())
        thresholds.append(float(method.threshold))
    assert thresholds[0] != thresholds[1]


def test_the_released_teacher_is_the_student_through_its_first_epoch(tiny: Any) -> None:
    torch.manual_seed(0)
    method = tiny.make_method("u2pl", teacher_start="released")
    fresh = copy.deepcopy(method.teacher.net)
    with torch.no_grad():
        for tensor in (*method.student.parameters(), *method.student.buffers()):
            tensor.add_(1)  # the warm start
    method.begin()
    same = [
        torch.equal(a, b) for a, b in zip(method.teacher.net.parameters(), method.student.parameters(), strict=True)
    ]
    assert all(same)
    assert all(torch.equal(a, b) for a, b in zip(method.teacher.net.buffers(), fresh.buffers(), strict=True))
    equal = []
    for step in range(4):  # two steps an epoch
        tiny.train(method, steps=1, first=step)
        pairs = zip(method.teacher.net.parameters(), method.student.parameters(), strict=True)
        equal.append(all(torch.equal(a, b) for a, b in pairs))
    assert equal == [True, True, False, False]


def test_padding_is_learnt_only_where_it_is_asked_for(tiny: Any) -> None:
    batch = tiny.make_batch()
    nothing = dataclasses.replace(batch, valid=torch.zeros_like(batch.valid))
    everything = dataclasses.replace(batch, valid=torch.ones_like(batch.valid))
    values = {}
    for padding in ("ignored", "learnt"):
        for case, given in (("nothing", nothing), ("everything", everything)):
            torch.manual_seed(0)
            method = tiny.make_method("u2pl", padding=padding)
            values[padding, case] = tiny.losses(method, given)["unsupervised"].item()
    assert values["ignored", "nothing"] == 0
    assert values["learnt", "nothing"] == values["learnt", "everything"] == values["ignored", "everything"]


@pytest.mark.parametrize("negatives", ["unreliable", "reliable", "all"])
def test_padding_is_never_a_negative(tiny: Any, negatives: str) -> None:
    """With a network that sees one pixel at a time, garbage in padding reaches the contrast as negatives alone."""
    batch = tiny.make_batch()
    garbage = torch.where(batch.valid[:, None], batch.unlabelled, 100 * torch.randn_like(batch.unlabelled))
    found = []
    for unlabelled in (batch.unlabelled, garbage):
        torch.manual_seed(0)
        method = tiny.make_method("u2pl", pointwise=True, negatives=negatives)
        losses = tiny.losses(method, dataclasses.replace(batch, unlabelled=unlabelled))
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[0]["contrastive"] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_released_semantics_are_valid_differ_from_the_papers_and_train(tiny: Any) -> None:
    default = tiny.PARAMETERS["u2pl"]
    assert not [key for key, value in official.U2PL.items() if default[key] == value]
    Parameters(**default | official.U2PL)
    small = official.U2PL | {"num_anchors": 6, "num_negatives": 3}
    torch.manual_seed(0)
    values = tiny.train(tiny.make_method("u2pl", **small), steps=3)
    assert all(math.isfinite(loss) for step in values for loss in step.values())
    torch.manual_seed(0)
    assert values != tiny.train(tiny.make_method("u2pl"), steps=3)


def test_the_released_variant_of_the_parameter_file_is_these_values() -> None:
    variants = project_params()["methods"]["u2pl"]["variants"]
    assert variants["released"]["parameters"] == official.U2PL


@pytest.mark.parametrize("key", sorted(official.U2PL))
def test_each_released_value_alone_can_be_trained(tiny: Any, key: str) -> None:
    torch.manual_seed(0)
    values = tiny.train(tiny.make_method("u2pl", **{key: official.U2PL[key]}), steps=1)
    assert all(math.isfinite(loss) for loss in values[0].values())


@pytest.mark.parametrize("negatives", ["unreliable", "reliable", "all"])
@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize("contrast", ["infonce", "bce"])
def test_every_row_of_the_ablations_contrasts_something(tiny: Any, negatives: str, queue: bool, contrast: str) -> None:
    torch.manual_seed(0)
    method = tiny.make_method("u2pl", negatives=negatives, queue=queue, contrast=contrast)
    assert tiny.losses(method, tiny.make_batch())["contrastive"] > 0
    assert method.monitors()["method/contrasted_classes"] > 1


def test_the_contrast_trains_the_representation_and_the_encoder_but_not_the_classifier(tiny: Any) -> None:
    method = tiny.make_method("u2pl")
    tiny.losses(method, tiny.make_batch())["contrastive"].backward()
    student = method.student
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.represent.parameters())
    assert student.encoder.conv1[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in student.classifier.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_a_rank_that_leaves_no_class_is_refused_when_the_method_is_built(tiny: Any) -> None:
    with pytest.raises(ValueError, match="rank_low is 3; allowed: 1 to 1 with 2 classes"):
        tiny.make_method("u2pl", num_classes=2, rank_low=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha0": 1.0}, "alpha0 is 1.0; allowed: at least 0 and below 1"),
        ({"entropy_source": "third"}, "entropy_source is 'third'; allowed: first or second"),
        ({"teacher_start": "late"}, "teacher_start is 'late'; allowed: copy or released"),
        ({"padding": "zero"}, "padding is 'zero'; allowed: ignored or learnt"),
        ({"weight": -1.0}, "weight is -1.0; allowed: 0 and above"),
        ({"mix_probability": 2}, "mix_probability is 2; allowed: 0 to 1"),
        ({"decay": 1.0}, "decay is 1.0; allowed"),
    ],
)
def test_values_out_of_range_are_refused(tiny: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Parameters(**tiny.PARAMETERS["u2pl"] | changes)


def test_monitors_are_finite_scalars(tiny: Any) -> None:
    for changes in ({}, {"alpha0": 0.0, "contrast": "none"}, {"queue": False}):
        method: Method = tiny.make_method("u2pl", **changes)
        tiny.losses(method, tiny.make_batch())
        assert all(math.isfinite(float(value)) for value in method.monitors().values())


def test_monitors_say_how_many_pixels_are_reliable_and_how_full_each_queue_is(tiny: Any) -> None:
    method: Method = tiny.make_method("u2pl")
    tiny.losses(method, tiny.make_batch())
    values = method.monitors()
    share = 1 - method.hyper.alpha0 * (1 - tiny.make_progress().epoch_fraction)
    assert float(values["method/reliable_share"]) == pytest.approx(share, abs=0.02)
    memory = method.contrast.memory
    filled = [float(values[f"queue/class_{index}"]) for index in range(len(memory.capacity))]
    assert filled == pytest.approx((memory.filled / memory.capacity).tolist())
    assert max(filled) > 0
