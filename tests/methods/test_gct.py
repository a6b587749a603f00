"""GCT: who learns from which loss, and the targets by pixel loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.methods import gct
from pipeline.training import flaw
from pipeline.training.method import Progress
from tests.methods import official


class FirstClass(nn.Module):
    """A detector that calls the first class's probability a flaw."""

    def forward(self, image: Tensor, probabilities: Tensor) -> Tensor:
        return 10 * probabilities[:, :1] - 0.3


def make_gct(tiny: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    return tiny.make_method("gct", **changes)


@pytest.mark.parametrize("joint_batch", [True, False])
def test_each_loss_touches_one_of_the_three_networks(tiny: Any, joint_batch: bool) -> None:
    method = make_gct(tiny, joint_batch=joint_batch, flaw_threshold=0.0)
    parts = {"": method.student, "_partner": method.partner, "detector": method.detector}
    for name in tiny.losses(method, tiny.make_batch()):
        method.zero_grad()
        tiny.losses(method, tiny.make_batch())[name].backward()
        reached = {key for key, part in parts.items() if any(p.grad is not None for p in part.parameters())}
        own = "detector" if name == "detector" else "_partner" if name.endswith("_partner") else ""
        assert reached == {own}, name


def naive_cleaned(values: list[list[float]], valid: list[list[bool]], *, threshold: float) -> list[list[float]]:
    """Clamp, stretch what is valid, saturate: an 8 x 8 map is too small to be blurred (8 // 16 = 0)."""
    clamped = [[max(0.0, value) for value in row] for row in values]
    counted = [clamped[y][x] for y in range(8) for x in range(8) if valid[y][x]]
    low, high = min(counted), max(counted)
    if high <= 0.1:
        return [[0.0] * 8 for _ in range(8)]
    stretched = [[(value - low) / (high - low) for value in row] for row in clamped]
    return [[1.0 if value > threshold else value for value in row] for row in stretched]


def test_the_weight_of_the_consistency_starts_to_rise_when_the_warm_start_is_over(tiny: Any) -> None:
    def consistency(step: int, **changes: float) -> float:
        method = make_gct(tiny, flaw_threshold=0.4, **changes)
        method.detector = FirstClass()
        torch.manual_seed(1)
        losses = method.losses(tiny.make_batch(), Progress(step, 10, step, 10, 4))
        return float(losses["consistency"].detach())

    full = consistency(4, ramp_share=0.0)
    assert full > 0
    assert consistency(4, ramp_share=0.5) == pytest.approx(full * math.exp(-5), rel=1e-5)
    assert consistency(7, ramp_share=0.5) == pytest.approx(full, rel=1e-5)


def test_correction_and_consistency_are_the_papers(tiny: Any) -> None:
    method, batch = make_gct(tiny, ramp_share=0.0, flaw_threshold=0.4), tiny.make_batch()
    method.detector = FirstClass()
    losses = tiny.losses(method, batch)
    images = torch.cat([batch.labelled, batch.unlabelled])
    seen = [network(images).logits.softmax(1).detach() for network in method.networks()]
    valid = torch.cat([batch.mask != 255, batch.valid])[:, ::4, ::4]
    correction, consistency, count, num_bad, num_taken = 0.0, 0.0, 0, 0, 0
    for image in range(4):
        raw = [(10 * prediction[image, 0] - 0.3).tolist() for prediction in seen]
        own, partner = (naive_cleaned(values, valid[image].tolist(), threshold=0.4) for values in raw)
        for y, x in valid[image].nonzero().tolist():
            count += 1
            both_bad = own[y][x] == 1 and partner[y][x] == 1
            num_bad += both_bad
            correction += both_bad * raw[0][y][x] ** 2
            better = seen[1] if partner[y][x] < own[y][x] else seen[0]
            num_taken += partner[y][x] < own[y][x]
            for c in range(21):
                consistency += (float(seen[0][image, c, y, x]) - float(better[image, c, y, x])) ** 2 / 21
    assert num_bad > 0
    assert num_taken > 0
    assert float(losses["correction"].detach()) == pytest.approx(correction / count, rel=1e-4)
    assert float(losses["consistency"].detach()) == pytest.approx(100 * consistency / count, rel=1e-4)


def test_the_detector_learns_the_ideal_flaw_of_labelled_images(tiny: Any) -> None:
    method, batch = make_gct(tiny), tiny.make_batch()
    method.detector = FirstClass()
    loss = tiny.losses(method, batch)["detector"]
    images = torch.cat([batch.labelled, batch.unlabelled])
    labels, known = batch.mask[:, ::4, ::4], (batch.mask != 255)[:, ::4, ::4]
    expected = []
    for network in method.networks():
        prediction = network(images).logits.softmax(1).detach()[:2]
        ideal = flaw.ideal_flaw(prediction, labels.where(known, torch.tensor(0)), valid=known)
        errors = [
            (10 * float(prediction[image, 0, y, x]) - 0.3 - float(ideal[image, 0, y, x])) ** 2
            for image, y, x in known.nonzero().tolist()
        ]
        expected.append(sum(errors) / len(errors))
    assert float(loss.detach()) == pytest.approx(10 * sum(expected) / 2, rel=1e-4)


def test_the_consistency_rises_as_a_sigmoid(tiny: Any) -> None:
    def consistency(step: int) -> float:
        method = make_gct(tiny, flaw_threshold=0.4)
        method.detector = FirstClass()
        return float(tiny.losses(method, tiny.make_batch(), step=step)["consistency"].detach())

    assert consistency(0) == pytest.approx(consistency(9) * math.exp(-5), rel=1e-4)


def test_the_detector_has_a_learning_rate_of_its_own(tiny: Any) -> None:
    method = make_gct(tiny, detector_lr_factor=0.3)
    factors = {name: method.lr_factor(name, 10.0) for name, _ in method.named_parameters()}
    assert {factor for name, factor in factors.items() if name.startswith("detector.")} == {0.3}
    assert {factor for name, factor in factors.items() if ".encoder." in name} == {1.0}
    assert factors["partner.classifier.8.bias"] == 10.0


def test_the_detector_can_be_trained_by_sgd() -> None:
    torch.manual_seed(0)
    detector = flaw.FlawDetector(3, width=8, at_stride_4=True)
    optimiser = torch.optim.SGD(detector.parameters(), lr=0.01, momentum=0.9)
    labels = torch.zeros(4, 16, 16, dtype=torch.int64)
    history = []
    for _ in range(60):
        wrong = (torch.rand(4, 1, 2, 2) < 0.4).repeat_interleave(8, 2).repeat_interleave(8, 3)
        right = functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
        prediction = torch.where(wrong, right.roll(1, 1), right)
        ideal = flaw.ideal_flaw(prediction, labels, valid=labels == 0)
        loss = (detector(torch.zeros(4, 3, 16, 16), prediction) - ideal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    assert sum(history[:3]) / 3 > 0.1
    assert sum(history[-10:]) / 10 < 0.06


@pytest.mark.parametrize(
    "wrong", [{"detector_width": 5}, {"detector_lr_factor": 0.0}, {"flaw_threshold": 1.5}, {"consistency_weight": -1.0}]
)
def test_a_value_that_makes_no_sense_is_refused_with_what_is_allowed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .* allowed"):
        gct.Parameters(**official.GCT | wrong)


def test_the_authors_settings_are_recorded() -> None:
    authors = gct.Parameters(**official.GCT)
    assert (authors.correction_weight, authors.consistency_weight, authors.flaw_threshold) == (1.0, 100.0, 0.6)
    assert (authors.detector_weight, authors.detector_width, authors.ramp_share) == (10.0, 64, 3 / 20)
