"""Methods that are the same when their difference is switched off: equal to the last bit, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

PLAIN = {"contrast": "none", "alpha0": 0.0, "mix_probability": 0.0, "buffers": "average"}


def history(tiny: Any, name: str, resolution: str, **changes: Any) -> tuple[list[dict[str, float]], Any]:
    """Return four steps' losses and the method after them."""
    torch.manual_seed(0)
    method = tiny.make_method(name, resolution=resolution, **changes)
    return tiny.train(method, steps=4), method


def assert_same_teachers(first: Any, second: Any) -> None:
    left, right = first.teacher.net.state_dict(), second.teacher.net.state_dict()
    assert all(torch.equal(value, right[key]) for key, value in left.items())


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_mean_teacher_is_cutmix_without_mixing(tiny: Any, resolution: str) -> None:
    plain, teacher = history(tiny, "mean_teacher", resolution)
    mixed, other = history(tiny, "cutmix", resolution, mix_probability=0.0)
    assert mixed == plain
    assert_same_teachers(teacher, other)


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_mean_teacher_is_u2pl_with_nothing_dropped_and_no_contrast(tiny: Any, resolution: str) -> None:
    plain, teacher = history(tiny, "mean_teacher", resolution)
    u2pl, other = history(tiny, "u2pl", resolution, **PLAIN)
    assert u2pl == plain
    assert_same_teachers(teacher, other)


@pytest.mark.parametrize("resolution", ["full", "network"])
def test_cutmix_is_u2pl_with_nothing_dropped_and_no_contrast(tiny: Any, resolution: str) -> None:
    cutmix, _ = history(tiny, "cutmix", resolution)
    u2pl, _ = history(tiny, "u2pl", resolution, **PLAIN | {"mix_probability": 1.0})
    assert u2pl == cutmix


def test_each_part_of_u2pl_makes_a_difference(tiny: Any) -> None:
    plain, _ = history(tiny, "u2pl", "network", **PLAIN)
    for part in ({"contrast": "infonce"}, {"alpha0": 0.2}, {"mix_probability": 1.0}):
        changed, _ = history(tiny, "u2pl", "network", **PLAIN | part)
        assert changed != plain, part


def test_the_supervised_part_of_mean_teacher_is_suponly_where_unlabelled_images_do_not_touch_the_norms(
    tiny: Any,
) -> None:
    losses = {}
    for name in ("suponly", "mean_teacher"):
        torch.manual_seed(0)
        method = tiny.make_method(name, pointwise=True)
        losses[name] = tiny.losses(method, tiny.make_batch())["supervised"].item()
    assert losses["mean_teacher"] == pytest.approx(losses["suponly"], rel=1e-6)
