"""CCT's perturbations of features, against what the paper says of each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.training import perturb


@pytest.fixture
def features() -> Tensor:
    torch.manual_seed(0)
    return torch.rand(3, 6, 5, 7) + 0.1


@pytest.fixture
def labels() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 4, (3, 5, 7))


def objects(*classes: int, images: int = 3, num_classes: int = 4) -> Tensor:
    return torch.tensor([c in classes for c in range(num_classes)]).expand(images, -1)


def test_feature_drop_empties_the_most_active_places_only(features: Tensor) -> None:
    dropped = perturb.feature_drop(features, (0.9, 0.9), valid=torch.ones(3, 5, 7, dtype=torch.bool))
    for image in range(3):
        activity = [[float(features[image, :, i, j].mean()) for j in range(7)] for i in range(5)]
        threshold = 0.9 * max(max(row) for row in activity)
        for i in range(5):
            for j in range(7):
                expected = features[image, :, i, j] * float(activity[i][j] < threshold)
                torch.testing.assert_close(dropped[image, :, i, j], expected)


def test_feature_drop_takes_no_notice_of_what_is_not_valid(features: Tensor) -> None:
    valid = torch.ones(3, 5, 7, dtype=torch.bool)
    valid[:, 4] = False
    expected = perturb.feature_drop(features, (0.8, 0.8), valid=valid)
    features = features.clone()
    features[:, :, 4] = 100.0
    dropped = perturb.feature_drop(features, (0.8, 0.8), valid=valid)
    assert torch.equal(dropped[:, :, :4], expected[:, :, :4])


def test_feature_noise_is_one_map_for_the_batch_within_its_strength(features: Tensor) -> None:
    change = perturb.feature_noise(features, 0.3) / features - 1
    torch.testing.assert_close(change[0], change[2])
    assert 0.25 < change.abs().max() <= 0.3 + 1e-6
    assert change.std() > 0.1


def test_channel_dropout_empties_whole_channels(features: Tensor) -> None:
    kept = perturb.channel_dropout(features, 0.5) / features
    assert torch.equal(kept.amin(dim=(2, 3)), kept.amax(dim=(2, 3)))
    assert set(kept.round().unique().tolist()) == {0.0, 2.0}


def test_objects_and_context_are_the_two_halves_of_the_features(features: Tensor, labels: Tensor) -> None:
    own = objects(1, 3)
    inside = perturb.keep_objects(features, perturb.object_map(labels, own))
    outside = perturb.keep_context(features, perturb.object_map(labels, own))
    torch.testing.assert_close(inside + outside, features)
    assert torch.equal(inside[:, 0] != 0, (labels == 1) | (labels == 3))


def test_which_classes_are_objects_may_differ_between_images(features: Tensor) -> None:
    labels = torch.ones(2, 5, 7, dtype=torch.int64)
    table = torch.tensor([[False, True], [True, False]])
    inside = perturb.keep_objects(features[:2], perturb.object_map(labels, table))
    assert torch.equal(inside[0], features[0])
    assert not inside[1].any()


def cut_out(features: Tensor, labels: Tensor, share: float) -> Tensor:
    certain = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    return perturb.guided_cutout(features, certain, objects=labels > 0, share=share)


def test_guided_cutout_empties_a_part_of_the_given_size_within_the_objects_box(features: Tensor) -> None:
    labels = torch.zeros(1, 40, 60, dtype=torch.int64)
    labels[0, 10:31, 5:46] = 2  # from 10 to 30 and 5 to 45: a box 20 high and 40 wide
    labels[0, 12, 6] = 0  # not all of the box need be the class
    whole = torch.ones(1, 2, 40, 60)
    starts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        gone = cut_out(whole, labels, 0.4)[0, 0] == 0
        rows, columns = gone.any(dim=1).nonzero().flatten(), gone.any(dim=0).nonzero().flatten()
        assert len(rows) == 8
        assert len(columns) == 16
        assert int(gone.sum()) == 8 * 16
        assert int(rows[0]) >= 10
        assert int(rows[-1]) < 30
        assert int(columns[0]) >= 5
        assert int(columns[-1]) < 45
        starts.add(int(rows[0]))
    assert len(starts) > 5


def test_guided_cutout_leaves_background_and_absent_classes_alone(features: Tensor) -> None:
    labels = torch.zeros(3, 5, 7, dtype=torch.int64)
    assert torch.equal(cut_out(features, labels, 0.9), features)


def test_guided_cutout_takes_a_box_for_every_class() -> None:
    labels = torch.zeros(1, 20, 40, dtype=torch.int64)
    labels[0, 2:13, 2:13], labels[0, 2:13, 22:33] = 1, 3
    gone = cut_out(torch.ones(1, 1, 20, 40), labels, 0.5)[0, 0] == 0
    assert int(gone[:, :20].sum()) == 25
    assert int(gone[:, 20:].sum()) == 25


def make_decoder() -> nn.Conv2d:
    torch.manual_seed(2)
    return nn.Conv2d(6, 4, 1)


def test_the_adversarial_move_has_its_radius_in_every_image(features: Tensor) -> None:
    moved = perturb.adversarial(features, make_decoder(), valid=torch.ones(3, 5, 7, dtype=torch.bool), radius=2.0)
    lengths = (moved - features).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 2.0))


def test_the_adversarial_move_is_the_power_iteration_of_the_paper(features: Tensor) -> None:
    """Against a finite difference of 1e-6 in float64, which resolves it: g = ∇_d KL(p(z) ‖ p(z + ξ d))."""
    decoder, valid = make_decoder(), torch.rand(3, 5, 7) < 0.8
    torch.manual_seed(3)
    moved = perturb.adversarial(features, decoder, valid=valid, radius=1.0) - features
    torch.manual_seed(3)
    direction = torch.randn_like(features).double().requires_grad_()
    weight, bias = decoder.weight.detach().double()[:, :, 0, 0], decoder.get_parameter("bias").detach().double()
    step = 1e-6 * direction
    near = torch.einsum("cf,bfhw->bchw", weight, features.double() + step) + bias[:, None, None]
    here = torch.einsum("cf,bfhw->bchw", weight, features.double()) + bias[:, None, None]
    divergence = here.softmax(1) * (here.log_softmax(1) - near.log_softmax(1))
    (gradient,) = torch.autograd.grad((divergence.sum(1) * valid).sum(), direction)
    for image in range(3):
        expected = gradient[image] / gradient[image].norm()
        torch.testing.assert_close(moved[image].double(), expected, atol=1e-4, rtol=1e-3)


def test_the_adversarial_move_hurts_more_than_a_random_one(features: Tensor) -> None:
    decoder, valid = make_decoder(), torch.ones(3, 5, 7, dtype=torch.bool)
    here = decoder(features).softmax(1)

    def divergence(moved: Tensor) -> float:
        return float((here * (here.log() - decoder(moved).log_softmax(1))).sum().detach())

    noise = torch.randn_like(features)
    random_move = noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert divergence(perturb.adversarial(features, decoder, valid=valid, radius=1.0)) > 1.5 * divergence(
        features + random_move
    )


def test_the_adversarial_move_leaves_no_gradient_in_the_decoder(features: Tensor) -> None:
    decoder = make_decoder()
    features.requires_grad_()
    moved = perturb.adversarial(features, decoder, valid=torch.ones(3, 5, 7, dtype=torch.bool), radius=1.0)
    assert decoder.weight.grad is None
    moved.sum().backward()
    torch.testing.assert_close(features.grad, torch.ones_like(features))
    assert decoder.weight.grad is None


def test_no_valid_place_means_no_move_and_no_failure(features: Tensor) -> None:
    moved = perturb.adversarial(features, make_decoder(), valid=torch.zeros(3, 5, 7, dtype=torch.bool), radius=2.0)
    torch.testing.assert_close(moved, features)


def test_every_perturbation_runs_without_a_host_decision_on_cuda() -> None:
    with FakeTensorMode(), torch.device("cuda"):
        features, labels = torch.rand(2, 6, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
        own, valid = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 8, 8, dtype=torch.bool)
        for perturbed in (
            perturb.channel_dropout(features, 0.5),
            perturb.feature_drop(features, (0.7, 0.9), valid=valid),
            perturb.feature_noise(features, 0.3),
            perturb.keep_objects(features, perturb.object_map(labels, own)),
            perturb.keep_context(features, perturb.object_map(labels, own)),
            cut_out(features, labels, 0.4),
            perturb.adversarial(features, nn.Conv2d(6, 4, 1), valid=valid, radius=2.0),
        ):
            assert perturbed.device.type == "cuda"
            assert perturbed.shape == features.shape
