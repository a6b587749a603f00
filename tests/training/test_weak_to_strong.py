"""Labels of weak views and their loss: against pixel loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pipeline.training.parameters import check_interval
from pipeline.training.weak_to_strong import Weak, certainty, confident_loss, weak_labels


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return 3 * torch.randn(3, 4, 5, 6)


def probabilities(scores: Tensor) -> list[float]:
    powers = [math.exp(float(score)) for score in scores]
    return [power / sum(powers) for power in powers]


def test_the_loss_equals_pixel_loops(logits: Tensor) -> None:
    torch.manual_seed(1)
    weak = Weak(torch.randint(4, (3, 5, 6)), torch.rand(3, 5, 6))
    weak.labels[:, 0] = 255
    total, known = 0.0, 0
    for image in range(3):
        for row in range(5):
            for column in range(6):
                label = int(weak.labels[image, row, column])
                if label == 255:
                    continue
                known += 1
                if weak.confidence[image, row, column] >= 0.6:
                    total -= math.log(probabilities(logits[image, :, row, column])[label])
    assert float(confident_loss(logits, weak, threshold=0.6)) == pytest.approx(total / known, rel=1e-5)


def test_nothing_known_or_nothing_confident_costs_nothing_but_stays_attached(logits: Tensor) -> None:
    logits.requires_grad_()
    unknown = Weak(torch.full((3, 5, 6), 255), torch.ones(3, 5, 6))
    unsure = Weak(torch.zeros(3, 5, 6, dtype=torch.long), torch.full((3, 5, 6), 0.5))
    for weak in (unknown, unsure):
        loss = confident_loss(logits, weak, threshold=0.95)
        assert loss.detach() == 0
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient.any()


def test_a_threshold_of_zero_is_the_mean_over_what_is_known(logits: Tensor) -> None:
    labels = torch.randint(4, (3, 5, 6))
    labels[0] = 255
    expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(confident_loss(logits, Weak(labels, torch.rand(3, 5, 6)), threshold=0.0), expected)


def test_labels_are_the_likeliest_class_where_valid_and_carry_no_gradient(logits: Tensor) -> None:
    valid = torch.ones(3, 10, 12, dtype=torch.bool)
    valid[1, :4] = False  # two of the five rows of the map
    weak = weak_labels(logits.requires_grad_(), valid)
    assert (weak.labels[1, :2] == 255).all()
    assert not weak.confidence.requires_grad
    for image, row, column in ((0, 0, 0), (1, 2, 3), (2, 4, 5)):
        likely = probabilities(logits[image, :, row, column].detach())
        assert int(weak.labels[image, row, column]) == likely.index(max(likely))
        assert float(weak.confidence[image, row, column]) == pytest.approx(max(likely), rel=1e-5)


def test_certainty_equals_pixel_loops_over_valid_pixels(logits: Tensor) -> None:
    torch.manual_seed(2)
    valid = torch.rand(3, 5, 6) < 0.7
    valid[2] = False
    sure = certainty(logits, valid)
    for image in range(2):
        values = []
        for row in range(5):
            for column in range(6):
                if valid[image, row, column]:
                    shares = probabilities(logits[image, :, row, column])
                    entropy = -sum(share * math.log(share) for share in shares)
                    values.append((1 - entropy / math.log(4)) * max(shares))
        assert float(sure[image]) == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert sure[2] == 0


def test_certainty_goes_from_none_to_all() -> None:
    valid = torch.ones(2, 1, 1, dtype=torch.bool)
    sure = certainty(torch.tensor([[0.0, 0.0], [100.0, -100.0]])[:, :, None, None], valid)
    torch.testing.assert_close(sure, torch.tensor([0.0, 1.0]))


def test_pasted_labels_keep_their_confidence() -> None:
    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[:, 2:4, 4:] = True
    old = Weak(torch.zeros(2, 4, 4, dtype=torch.long), torch.full((2, 4, 4), 0.25))
    new = Weak(torch.full((2, 4, 4), 255), torch.full((2, 4, 4), 0.75))
    pasted = old.paste(inside, new)
    assert torch.equal(pasted.labels == 255, pasted.confidence == 0.75)
    assert (pasted.labels == 255).nonzero().tolist() == [[i, 1, column] for i in range(2) for column in (2, 3)]


@pytest.mark.parametrize("values", [(0.4, 0.02), (0.0, 0.4), (0.1, 1.5), (0.1,)])
def test_a_range_that_is_none_is_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"box_area is .*0 < low <= high <= 1"):
        check_interval("box_area", values, most=1)  # type: ignore[arg-type]
