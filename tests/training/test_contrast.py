"""The contrastive loss against its formulas, without anything of the package."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training import memory
from pipeline.training.contrast import PixelContrast, binary_contrast, contrast, info_nce
from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels

Make = Callable[..., Pixels]
Hyper = Callable[..., ContrastParameters]


def cosine(left: list[float], right: list[float]) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left) * sum(b * b for b in right))


@pytest.mark.parametrize("room", [1, 400, 2**20])
@pytest.mark.parametrize("shared", [False, True])
def test_infonce_and_binary_losses_are_their_formulas(shared: bool, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sets of negatives are drawn at a time."""
    monkeypatch.setattr(memory, "CPU_BYTES", room)
    torch.manual_seed(0)
    num_classes, num_anchors, num_negatives, temperature = 3, 4, 5, 0.5
    anchors, positives = torch.randn(num_classes, num_anchors, 6), torch.randn(num_classes, 6)
    features = functional.normalize(torch.randn(20, 6), dim=1)
    drawn = torch.randint(20, (num_classes, 1 if shared else num_anchors, num_negatives))
    unit, means = functional.normalize(anchors, dim=2) / temperature, functional.normalize(positives, dim=1)
    formulas = (info_nce, binary_contrast)
    found = {formula: contrast(unit, means, features=features, drawn=drawn, formula=formula) for formula in formulas}
    for c in range(num_classes):
        nce = binary = 0.0
        for i in range(num_anchors):
            z = anchors[c, i].tolist()
            plus = cosine(z, positives[c].tolist()) / temperature
            minus = [cosine(z, features[k].tolist()) / temperature for k in drawn[c, 0 if shared else i]]
            nce -= math.log(math.exp(plus) / (math.exp(plus) + sum(math.exp(value) for value in minus)))
            for value in minus:
                sure, wrong = 1 / (1 + math.exp(-plus)), 1 / (1 + math.exp(-value))
                binary -= (math.log(sure) + math.log(1 - wrong)) / num_negatives
        assert found[info_nce][c] == pytest.approx(nce / num_anchors, rel=1e-5)
        assert found[binary_contrast][c] == pytest.approx(binary / num_anchors, rel=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_made_at_once_is_autograds(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CPU_BYTES", 400)  # three of the twelve sets at a time
    torch.manual_seed(0)
    anchors, positives = torch.randn(3, 4, 6, requires_grad=True), torch.randn(3, 6)
    features, given = torch.randn(20, 6), torch.randn(3)
    drawn = torch.randint(20, (3, 1 if shared else 4, 5))
    positive = (anchors * positives[:, None]).sum(dim=2)  # (3, 4)
    negative = (anchors[:, :, None] * features[drawn]).sum(dim=3)  # (3, 4, 5)
    softplus = functional.softplus
    plain = {
        info_nce: softplus(negative.logsumexp(dim=2) - positive),
        binary_contrast: softplus(-positive) + softplus(negative).mean(dim=2),
    }
    for formula, expected in plain.items():
        losses = contrast(anchors, positives, features=features, drawn=drawn, formula=formula)
        torch.testing.assert_close(losses, expected.mean(dim=1))
        found, right = (
            torch.autograd.grad((value * given).sum(), anchors, retain_graph=True)[0]
            for value in (losses, expected.mean(dim=1))
        )
        torch.testing.assert_close(found, right)


def naive_loss(student: Tensor, teacher: Tensor, classes: list[int], *, class_of_turn: bool = False) -> float:
    """The loss of `one_anchor_each`, in which each class has one anchor, and one negative feature or none.

    `class_of_turn` is the released loop over the present classes: turn i takes anchor and positive of class i.
    """
    loss = 0.0
    for turn, c in enumerate(classes):
        label = turn if class_of_turn else c
        if label not in classes or c < 3:  # no anchor, or no negative: ranks are ids, and r_l = 3
            continue
        z, positive = (maps[0, :, 0, classes.index(label)].tolist() for maps in (student, teacher))
        plus = math.exp(cosine(z, positive) / 0.5)
        minus = math.exp(cosine(z, teacher[1, :, 0, 0].tolist()) / 0.5)
        loss -= math.log(plus / (plus + 256 * minus))
    return loss / 5


def one_anchor_each(classes: list[int], num_classes: int = 5) -> tuple[Tensor, Tensor, Pixels]:
    """Make pixels of which each class has one sure anchor; to the teacher all unreliable ones look alike."""
    torch.manual_seed(0)
    labels = torch.full((2, 1, 8), 255)
    labels[0, 0, : len(classes)] = torch.tensor(classes)
    labels[1] = classes[0]
    logits = torch.zeros(2, num_classes, 1, 8)
    for place, c in enumerate(classes):
        logits[0, c, 0, place] = 9.0
    logits[1] = torch.arange(num_classes, 0, -1.0)[:, None, None]  # ranks are the class ids
    anchorable, negatable = labels != 255, labels != 255
    anchorable[1], negatable[0] = False, False
    student, teacher = torch.randn(2, 6, 1, 8), torch.randn(2, 6, 1, 8)
    teacher[1] = teacher[1, :, :, :1]
    return student, teacher, Pixels(labels, logits.softmax(1), anchorable, negatable, 1)


def test_the_whole_loss_is_the_papers(hyper: Hyper) -> None:
    student, teacher, pixels = one_anchor_each([3, 4])
    loss = PixelContrast(hyper(), num_classes=5, channels=6)(student, teacher, pixels)
    assert loss > 0
    assert loss == pytest.approx(naive_loss(student, teacher, [3, 4]), rel=1e-5)


def test_the_released_class_index_fails_the_papers_reference_and_meets_its_own(hyper: Hyper) -> None:
    student, teacher, pixels = one_anchor_each([0, 3, 4])
    contrast = PixelContrast(hyper(defect_class_index=True), num_classes=5, channels=6)
    loss = contrast(student, teacher, pixels)
    assert loss != pytest.approx(naive_loss(student, teacher, [0, 3, 4]), rel=1e-3)
    assert loss == pytest.approx(naive_loss(student, teacher, [0, 3, 4], class_of_turn=True), rel=1e-5)


def gradient_by_class(contrast: PixelContrast, pixels: Pixels) -> set[int]:
    """Return the labels of the pixels whose student representation gets a gradient, several times in a row."""
    torch.manual_seed(0)
    touched: set[int] = set()
    for _ in range(3):
        student = torch.randn(4, 8, 12, 12, requires_grad=True)
        teacher = torch.randn(4, 8, 12, 12, requires_grad=True)
        contrast(student, teacher, pixels).backward()
        assert teacher.grad is None
        assert student.grad is not None
        moved = student.grad.abs().sum(1) > 0
        assert not (moved & ~pixels.anchorable).any()
        touched |= set(pixels.labels[moved].tolist())
    return touched


def test_every_class_present_gets_a_gradient_at_its_anchors_and_nothing_else_does(
    hyper: Hyper, make_pixels: Make
) -> None:
    pixels = make_pixels(classes=[0, 7, 12, 15], size=12)
    assert gradient_by_class(PixelContrast(hyper(), num_classes=21, channels=8), pixels) == {0, 7, 12, 15}


@pytest.mark.parametrize(("classes", "reached"), [([0, 7, 12, 15], {0}), ([1, 3], {1}), ([5, 12, 15], set())])
def test_the_released_class_index_reaches_only_ids_below_the_number_of_classes(
    classes: list[int], reached: set[int], hyper: Hyper, make_pixels: Make
) -> None:
    contrast = PixelContrast(hyper(defect_class_index=True), num_classes=21, channels=8)
    assert gradient_by_class(contrast, make_pixels(classes=classes, size=12)) == reached


def test_each_class_is_contrasted_with_its_own_queue(hyper: Hyper) -> None:
    student, teacher, pixels = one_anchor_each([0, 3, 4])
    contrast = PixelContrast(hyper(rank_low=1), num_classes=5, channels=6)
    contrast(student, teacher, pixels)
    assert contrast.memory is not None
    assert contrast.memory.filled.tolist() == [0, 8, 8, 8, 8]  # rank 0 is no negative, ranks 1 to 4 are


def test_a_single_class_or_none_gives_a_finite_loss(hyper: Hyper, make_pixels: Make) -> None:
    for classes in ([7], [0]):
        contrast = PixelContrast(hyper(), num_classes=21, channels=8)
        student = torch.randn(4, 8, 6, 6, requires_grad=True)
        loss = contrast(student, torch.randn(4, 8, 6, 6), make_pixels(classes=classes))
        loss.backward()
        assert loss.isfinite()
        assert loss > 0
    pixels = make_pixels()
    nothing = pixels._replace(
        labels=torch.full_like(pixels.labels, 255),
        anchorable=torch.zeros_like(pixels.anchorable),
        negatable=torch.zeros_like(pixels.negatable),
    )
    student = torch.randn(4, 8, 6, 6, requires_grad=True)
    loss = PixelContrast(hyper(), num_classes=21, channels=8)(student, torch.randn(4, 8, 6, 6), nothing)
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_without_queues_negatives_are_of_this_batch_and_nothing_is_remembered(hyper: Hyper, make_pixels: Make) -> None:
    contrast = PixelContrast(hyper(queue=False), num_classes=21, channels=8)
    assert not contrast.state_dict()
    student = torch.randn(4, 8, 6, 6)
    assert contrast(student, torch.randn(4, 8, 6, 6), make_pixels()) > 0


def test_queues_remember_negatives_of_earlier_batches(hyper: Hyper, make_pixels: Make) -> None:
    contrast = PixelContrast(hyper(), num_classes=21, channels=8)
    contrast(torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6), make_pixels())
    pixels = make_pixels(1)
    quiet = pixels._replace(negatable=torch.zeros_like(pixels.negatable))
    assert contrast(torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6), quiet) > 0


def test_shared_negatives_have_the_same_expected_loss(hyper: Hyper, make_pixels: Make) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6)
    means = []
    for share in (False, True):
        contrast = PixelContrast(hyper(share_negatives=share, queue=False, num_negatives=8), num_classes=21, channels=8)
        means.append(torch.stack([contrast(student, teacher, make_pixels()) for _ in range(100)]).mean().item())
    assert means[0] == pytest.approx(means[1], rel=0.01)


def test_the_normaliser_is_all_classes_or_those_present(hyper: Hyper) -> None:
    student, teacher, pixels = one_anchor_each([3, 4])
    losses = {}
    for normaliser in ("classes", "present"):
        contrast = PixelContrast(hyper(contrast_normaliser=normaliser), num_classes=5, channels=6)
        losses[normaliser] = contrast(student, teacher, pixels).item()
    assert losses["present"] * 2 == pytest.approx(losses["classes"] * 5, rel=1e-5)


def test_autocast_changes_nothing(hyper: Hyper) -> None:
    student, teacher, pixels = one_anchor_each([3, 4])
    plain = PixelContrast(hyper(), num_classes=5, channels=6)(student, teacher, pixels)
    with torch.autocast("cpu", torch.bfloat16):
        cast = PixelContrast(hyper(), num_classes=5, channels=6)(student, teacher, pixels)
    assert torch.equal(plain, cast)
