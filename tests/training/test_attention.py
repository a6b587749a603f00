"""PseudoSeg's attention and fusion, against loops over the formulas of the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training import attention


@pytest.fixture
def valid() -> Tensor:
    places = torch.ones(2, 3, 4, dtype=torch.bool)
    places[1, :, 3] = False
    return places


def test_activation_maps_are_the_rectified_class_scores_over_their_maximum(valid: Tensor) -> None:
    torch.manual_seed(0)
    features, weight = torch.randn(2, 5, 3, 4), torch.randn(3, 5)
    present = torch.tensor([[True, False, True], [True, True, True]])
    maps = attention.activation_maps(features, weight, present=present, valid=valid)
    for image in range(2):
        for k in range(3):
            scores = [
                [
                    max(0.0, sum(float(weight[k, f] * features[image, f, y, x]) for f in range(5)))
                    * float(present[image, k] and valid[image, y, x])
                    for x in range(4)
                ]
                for y in range(3)
            ]
            highest = max(map(max, scores)) or 1.0
            expected = torch.tensor([[score / highest for score in row] for row in scores])
            torch.testing.assert_close(maps[image, k], expected, atol=1e-5, rtol=0)


def test_the_gradient_of_the_classifier_gives_the_same_maps(valid: Tensor) -> None:
    """Grad-CAM proper: weights are the class score's gradient averaged over the map."""
    torch.manual_seed(1)
    features, classifier = torch.randn(2, 5, 3, 4, requires_grad=True), torch.nn.Linear(5, 3)
    scores = classifier(features.mean(dim=(2, 3)))
    everywhere = torch.ones_like(valid)
    ours = attention.activation_maps(
        features, classifier.weight, present=torch.ones(2, 3, dtype=torch.bool), valid=everywhere
    )
    for k in range(3):
        (gradient,) = torch.autograd.grad(scores[:, k].sum(), features, retain_graph=True)
        cam = (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).clamp(min=0)
        torch.testing.assert_close(ours[:, k], cam / cam.amax(dim=(1, 2), keepdim=True), atol=1e-5, rtol=0)


def test_attention_propagates_as_the_formula_says_and_never_looks_at_padding(valid: Tensor) -> None:
    torch.manual_seed(2)
    query, key, scores = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4), torch.rand(2, 2, 3, 4)
    spread = attention.propagate(query, key, scores=scores, valid=valid)
    places = [(y, x) for y in range(3) for x in range(4)]
    for image in range(2):
        for y, x in places:
            weights = {
                (i, j): math.exp(float(query[image, :, y, x] @ key[image, :, i, j]) / math.sqrt(6))
                for i, j in places
                if valid[image, i, j]
            }
            total = sum(weights.values())
            for k in range(2):
                borrowed = sum(w / total * float(scores[image, k, i, j]) for (i, j), w in weights.items())
                expected = borrowed + float(scores[image, k, y, x])
                assert float(spread[image, k, y, x]) == pytest.approx(expected, abs=1e-5)


def test_an_image_of_nothing_but_padding_stays_finite() -> None:
    nothing = torch.zeros(1, 3, 4, dtype=torch.bool)
    maps = attention.activation_maps(
        torch.randn(1, 5, 3, 4), torch.randn(2, 5), present=torch.ones(1, 2), valid=nothing
    )
    spread = attention.propagate(torch.randn(1, 6, 3, 4), torch.randn(1, 6, 3, 4), scores=maps, valid=nothing)
    assert spread.isfinite().all()
    assert attention.pooled(torch.randn(1, 5, 3, 4), nothing).isfinite().all()


def test_the_background_scores_two_minus_the_best_class_at_its_place_in_the_order() -> None:
    scores = torch.rand(2, 3, 4, 4) * 2
    for place in (0, 2, 3):
        complete = attention.with_background(scores, place)
        assert complete.shape[1] == 4
        torch.testing.assert_close(complete[:, place], 2 - scores.amax(dim=1))
        others = [c for c in range(4) if c != place]
        torch.testing.assert_close(complete[:, others], scores)
    assert attention.with_background(scores, None) is scores


def test_calibration_divides_both_logits_by_their_common_root_mean_square(valid: Tensor) -> None:
    torch.manual_seed(3)
    first, second = 3 * torch.randn(2, 4, 3, 4), 0.2 * torch.randn(2, 4, 3, 4)
    squares = [
        float(logits[image, c, y, x]) ** 2
        for logits in (first, second)
        for image in range(2)
        for c in range(4)
        for y in range(3)
        for x in range(4)
        if valid[image, y, x]
    ]
    scale = 1 / math.sqrt(sum(squares) / len(squares))
    ours = attention.calibrate(first, second, valid=valid)
    torch.testing.assert_close(ours[0], first * scale)
    torch.testing.assert_close(ours[1], second * scale)


def test_sharpening_is_the_normalised_power() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2]).view(1, 3, 1, 1)
    powers = [0.5**2, 0.3**2, 0.2**2]
    expected = torch.tensor([power / sum(powers) for power in powers]).view(1, 3, 1, 1)
    torch.testing.assert_close(attention.sharpen(probabilities, 0.5), expected)
    torch.testing.assert_close(attention.sharpen(probabilities, 1.0), probabilities)
    assert attention.sharpen(probabilities, 0.001).flatten().tolist() == [1, 0, 0]  # 0.5 ** 1000 is 0 in float32


@pytest.mark.parametrize(("num_classes", "background"), [(2, 0), (19, None), (21, 0), (21, 20)])
def test_the_head_gives_logits_of_every_class_and_no_gradient_to_the_backbone(
    num_classes: int, background: int | None
) -> None:
    head, features, valid = make_head(num_classes, background)
    logits = head(features, torch.ones(2, num_classes, dtype=torch.bool), valid=valid)
    assert logits.shape == (2, num_classes, 3, 3)
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in head.named_parameters() if "classifier" not in name)
    assert head.classifier.weight.grad is None
    assert all(tensor.grad is None for tensor in features)


def make_head(num_classes: int, background: int | None) -> tuple[attention.SelfAttentionCam, list[Tensor], Tensor]:
    torch.manual_seed(4)
    head = attention.SelfAttentionCam(
        [4, 8], num_classes=num_classes, attention_channels=8, background_class=background
    )
    features = [torch.randn(2, 4, 6, 6, requires_grad=True), torch.randn(2, 8, 3, 3, requires_grad=True)]
    return head, features, torch.ones(2, 12, 12, dtype=torch.bool)


def test_classes_that_are_not_present_have_no_map() -> None:
    head, features, valid = make_head(4, 0)
    present = torch.tensor([[True, True, False, False], [True, False, False, True]])
    seen = []
    head.classify.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(features, present, valid=valid)
    assert seen[0].shape[1] == 4
    assert torch.equal(seen[0].amax(dim=(2, 3))[:, 1:] > 0, present[:, 1:])


def test_the_classifier_finds_what_its_scores_say_and_never_the_background() -> None:
    head, features, valid = make_head(4, 1)
    found = head.predicted(features, valid, threshold=0.5)
    scores = head.scores(features, valid)
    assert torch.equal(found[:, [0, 2, 3]], scores >= 0)
    assert not found[:, 1].any()


def test_the_classifiers_loss_is_the_mean_over_known_images_and_teaches_the_last_stage() -> None:
    head, features, valid = make_head(4, 0)
    present = torch.tensor([[True, False, True, True], [False, False, False, False]])
    loss = head.classification_loss(features, present, valid=valid)
    score = head.scores(features, valid)[0].detach()
    expected = sum(
        -math.log(1 / (1 + math.exp(-s if t else s))) for s, t in zip(score.tolist(), [0, 1, 1], strict=True)
    )
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-5)
    loss.backward()
    last = features[1].grad
    assert last is not None
    assert last[0].any()
    assert not last[1].any()


def test_the_classes_of_a_mask_leave_out_what_is_ignored() -> None:
    mask = torch.full((3, 2, 2), 255)
    mask[0, 0, 0], mask[0, 1, 1], mask[1] = 2, 0, 1
    assert attention.classes_in(mask, 3).tolist() == [[True, False, True], [False, True, False], [False] * 3]


def test_the_attention_needs_no_host_decision_on_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        head, features, valid = make_head(4, 0)
        logits = head(features, head.predicted(features, valid, threshold=0.5), valid=valid)
        first, second = attention.calibrate(logits, logits, valid=attention.sample_nearest(valid, (3, 3)))
        assert attention.sharpen((first.softmax(1) + second.softmax(1)) / 2, 0.5).device.type == "cuda"
        present = attention.classes_in(torch.zeros(2, 8, 8, dtype=torch.int64), 4)
        assert head.classification_loss(features, present, valid=valid).device.type == "cuda"
