"""What holds for every file in pipeline/methods: batches at the edges, devices, precision, isolation of the teacher."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from pipeline.methods import augseg, gct
from pipeline.training import photometric
from pipeline.training.attention import SelfAttentionCam
from pipeline.training.flaw import FlawDetector
from pipeline.training.teacher import Teacher


def check_step(tiny: Any, method: Any, batch: Any) -> dict[str, torch.Tensor]:
    """Do one step; every loss is a finite scalar and every gradient finite."""
    values = tiny.losses(method, batch)
    tiny.total(values).backward()
    assert all(value.shape == () and value.isfinite() for value in values.values()), values
    gradients = [parameter.grad for parameter in method.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    method.after_step(0)
    return values


def test_every_method_has_test_parameters(tiny: Any) -> None:
    assert sorted(tiny.PARAMETERS) == tiny.METHODS


@pytest.mark.parametrize("num_classes", [2, 19, 21])
def test_a_step_is_finite_with_few_and_many_classes(tiny: Any, name: str, num_classes: int) -> None:
    method = tiny.make_method(name, num_classes=num_classes)
    check_step(tiny, method, tiny.make_batch(num_classes=num_classes))


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_a_step_is_finite_at_either_loss_resolution(tiny: Any, name: str, resolution: str) -> None:
    check_step(tiny, tiny.make_method(name, resolution=resolution), tiny.make_batch())


def test_a_batch_of_one_is_trained_on(tiny: Any, name: str) -> None:
    check_step(tiny, tiny.make_method(name), tiny.make_batch(num=1))


@pytest.mark.parametrize("only", [0, 7])
def test_a_batch_of_a_single_class_is_trained_on(tiny: Any, name: str, only: int) -> None:
    batch = tiny.make_batch()
    check_step(tiny, tiny.make_method(name), dataclasses.replace(batch, mask=torch.full_like(batch.mask, only)))


def test_no_labelled_pixel_leaves_the_supervised_loss_at_zero(tiny: Any, name: str) -> None:
    batch = tiny.make_batch()
    empty = dataclasses.replace(batch, mask=torch.full_like(batch.mask, 255))
    values = check_step(tiny, tiny.make_method(name), empty)
    assert values["supervised"] == 0


def test_no_valid_pixel_at_all_leaves_every_loss_finite(tiny: Any, name: str) -> None:
    batch = tiny.make_batch()
    empty = dataclasses.replace(batch, mask=torch.full_like(batch.mask, 255), valid=torch.zeros_like(batch.valid))
    check_step(tiny, tiny.make_method(name), empty)


def test_bfloat16_autocast_gives_finite_float32_losses(tiny: Any, name: str) -> None:
    method, batch = tiny.make_method(name), tiny.make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        values = tiny.losses(method, batch)
    tiny.total(values).backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in values.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_nothing_reads_a_value_on_the_host_or_mixes_devices(tiny: Any, name: str) -> None:
    batch, method = tiny.make_batch(), tiny.make_method(name)
    with FakeTensorMode() as mode:
        tiny.pretend_cuda(method, mode)
        on_device = tiny.pretend_batch(batch, mode)
        if name in tiny.HOST_DECISIONS:
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                method.losses(on_device, tiny.make_progress())
            return
        values = method.losses(on_device, tiny.make_progress())
        method.after_step(0)
    assert all(value.device.type == "cuda" for value in values.values())


def test_no_gradient_reaches_a_teacher(tiny: Any, name: str) -> None:
    method = tiny.make_method(name)
    teachers = [module for module in method.modules() if isinstance(module, Teacher)]
    assert bool(teachers) == ("teacher" in method.predictors())
    if teachers:
        assert [teacher.net for teacher in teachers] == [method.predictors()["teacher"]]
    tiny.total(tiny.losses(method, tiny.make_batch())).backward()
    students = {parameter.data_ptr() for network in method.networks() for parameter in network.parameters()}
    for teacher in teachers:
        assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
        assert not students & {parameter.data_ptr() for parameter in teacher.parameters()}


def test_the_students_learn(tiny: Any, name: str) -> None:
    method = tiny.make_method(name)
    tiny.train(method, steps=3)  # blocks begin as the identity, whose insides have no gradient
    method.zero_grad()
    tiny.total(tiny.losses(method, tiny.make_batch(3), step=3)).backward()
    for network in method.networks():
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.count_nonzero(), key


def test_equal_seeds_give_equal_losses(tiny: Any, name: str) -> None:
    torch.manual_seed(3)
    first = tiny.train(tiny.make_method(name), steps=2)
    torch.manual_seed(3)
    assert tiny.train(tiny.make_method(name), steps=2) == first


def test_a_restored_method_goes_on_as_the_one_that_was_saved(tiny: Any, name: str) -> None:
    torch.manual_seed(0)
    method = tiny.make_method(name)
    tiny.train(method, steps=3)
    torch.manual_seed(1)
    other = tiny.make_method(name)
    other.load_state_dict(method.state_dict())
    assert tiny.train(other, steps=2, first=3) == tiny.train(method, steps=2, first=3)
    left, right = method.state_dict(), other.state_dict()
    assert all(torch.equal(left[key], right[key]) for key in left)


def without_neighbours(method: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take out by what pixels see others, besides the student: views of colours, GCT's detector, a batch norm."""
    monkeypatch.setattr(photometric, "colour_view", lambda images, **_: images)
    monkeypatch.setattr(augseg, "random_view", lambda images, **_: images)
    monkeypatch.setattr(gct, "clean", lambda flaw, *, valid: flaw.clamp(0, 1))
    for module in method.modules():
        if isinstance(module, FlawDetector):
            torch.manual_seed(0)
            module.layers = torch.nn.Sequential(torch.nn.Conv2d(3 + method.setting.num_classes, 1, 1))
        elif isinstance(module, SelfAttentionCam):
            module.classify.eval()
    return method


def test_padding_never_changes_a_loss(tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that sees one pixel at a time, garbage in padding can reach a loss through its labels alone."""
    batch = tiny.make_batch()
    garbage, found = 100 * torch.randn_like(batch.unlabelled), []
    for where in (torch.zeros_like(batch.valid), ~batch.valid, batch.valid):
        torch.manual_seed(0)
        method = without_neighbours(tiny.make_method(name, pointwise=True), monkeypatch)
        unlabelled = torch.where(where[:, None], garbage, batch.unlabelled)
        values = tiny.losses(method, dataclasses.replace(batch, unlabelled=unlabelled))
        found.append({key: value.item() for key, value in values.items()})
    clean, in_padding, in_images = found
    assert in_padding == pytest.approx(clean, rel=1e-6)
    assert (in_images == pytest.approx(clean, rel=1e-2)) == (name == "suponly")  # garbage elsewhere does


def test_predictors_are_networks_that_map_images_to_logits(tiny: Any, name: str) -> None:
    method = tiny.make_method(name).eval()
    predictors = method.predictors()
    assert next(iter(predictors)) == "student"
    for network in predictors.values():
        assert network(tiny.make_batch().labelled).logits.shape == (2, 21, 8, 8)
