"""The moving average: decay, buffers, modes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.training.teacher import Teacher, confidence, pseudo_labels


class Net(nn.Module):
    """One layer with weight, bias, and batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.5))

    def forward(self, images: torch.Tensor, *, auxiliary: bool = False) -> torch.Tensor:
        assert not auxiliary, "nobody asks a teacher for it"
        return self.layers(images)


def make(**changes: Any) -> tuple[Any, Any]:
    """Return a student that has moved away from its teacher, in weights and statistics."""
    torch.manual_seed(0)
    student: Any = Net()
    given: dict[str, Any] = {"decay": 0.99, "buffers": "average"} | changes
    teacher = Teacher(student, **given)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    student(torch.randn(4, 3, 5, 5))
    return student, teacher


@pytest.mark.parametrize(("step", "decay"), [(0, 0.0), (1, 0.5), (9, 0.9), (98, 98 / 99), (5000, 0.99)])
def test_weights_follow_with_the_ramped_decay(step: int, decay: float) -> None:
    student, teacher = make()
    before = [parameter.clone() for parameter in teacher.net.parameters()]
    teacher.update(student, step)
    for own, old, new in zip(teacher.net.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(own, decay * old + (1 - decay) * new)


@pytest.mark.parametrize("buffers", ["average", "own", "copy"])
def test_statistics_are_averaged_left_alone_or_copied(buffers: str) -> None:
    student, teacher = make(buffers=buffers)
    before = teacher.net.layers[1].running_mean.clone()
    teacher.update(student, 3)
    new = student.layers[1].running_mean
    expected = {"average": 0.75 * before + 0.25 * new, "own": before, "copy": new}[buffers]
    torch.testing.assert_close(teacher.net.layers[1].running_mean, expected)
    assert teacher.net.layers[1].num_batches_tracked == (1 if buffers == "copy" else 0)


def test_a_teacher_starts_as_its_student_with_or_without_statistics() -> None:
    student, teacher = make()
    teacher.start(student, buffers=False)
    assert torch.equal(teacher.net.layers[0].weight, student.layers[0].weight)
    assert not teacher.net.layers[1].running_mean.any()
    teacher.start(student)
    assert all(torch.equal(a, b) for a, b in zip(teacher.net.buffers(), student.buffers(), strict=True))


def test_a_teacher_labels_in_eval_mode_and_observes_in_train_mode() -> None:
    _, teacher = make(buffers="own")
    teacher.train()
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(teacher(images), teacher(images))
    assert not teacher.net.layers[1].running_mean.any()
    teacher.observe(images)
    assert teacher.net.layers[1].running_mean.any()
    assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_what_it_observes_moves_only_statistics_of_its_own(buffers: str) -> None:
    _, teacher = make(buffers=buffers)
    before = [buffer.clone() for buffer in teacher.net.buffers()]
    images = torch.randn(2, 3, 5, 5)
    assert not torch.equal(teacher.observe(images), teacher(images))
    assert all(torch.equal(one, other) for one, other in zip(teacher.net.buffers(), before, strict=True))


def test_nothing_a_teacher_says_carries_a_gradient() -> None:
    _, teacher = make()
    images = torch.randn(2, 3, 5, 5, requires_grad=True)
    assert not teacher(images).requires_grad
    assert not teacher.observe(images).requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay": 1.0}, "decay is 1.0; allowed"),
        ({"buffers": "none"}, "buffers is 'none'; allowed: average, own, copy"),
    ],
)
def test_a_teacher_refuses_what_it_does_not_know(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_pseudo_labels_are_the_most_likely_classes_of_valid_pixels() -> None:
    logits = torch.tensor([[[0.0, 3.0], [1.0, 0.0]], [[1.0, 2.0], [0.0, 4.0]]])[None]  # (1, 2, 2, 2)
    valid = torch.tensor([[[True, True], [True, False]]])
    assert pseudo_labels(logits, valid).tolist() == [[[1, 0], [0, 255]]]
    wide = valid.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert pseudo_labels(logits, wide).tolist() == [[[1, 0], [0, 255]]]


def test_confidence_is_the_largest_probability() -> None:
    logits = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(confidence(logits), logits.softmax(1).max(1).values)
