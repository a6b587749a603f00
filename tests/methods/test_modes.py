"""The modes of methods that have several, at the edges: what `test_every_method` asks of their test parameters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

MODES: list[tuple[str, dict[str, Any]]] = [
    ("cct", {"background_classes": []}),
    ("cct", {"bootstrap_threshold": 0.9, "ramp_share": 0.0}),
    ("gct", {"joint_batch": False, "ramp_share": 0.0}),
    ("pseudoseg", {"image_labels": True}),
    ("pseudoseg", {"image_labels": True, "fusion": "decoder"}),
    ("pseudoseg", {"fusion": "attention", "inference_cam": False, "background_class": None}),
    ("pseudoseg", {"strong": False, "calibrate": False}),
    ("pc2seg", {"symmetric": True, "consistency": "l2"}),
    ("pc2seg", {"negatives": "uniform", "debiased": False}),
    ("cps", {"cutmix": False}),
]
IDS = [f"{name}-{'-'.join(map(str, changes.values()))}" for name, changes in MODES]
modes = pytest.mark.parametrize(("method_name", "changes"), MODES, ids=IDS)


@modes
@pytest.mark.parametrize("resolution", ["full", "network"])
def test_a_mode_trains_at_either_resolution_and_in_bfloat16(
    tiny: Any, method_name: str, changes: dict[str, Any], resolution: str
) -> None:
    method = tiny.make_method(method_name, resolution=resolution, auxiliary=True, **changes)
    with torch.autocast("cpu", torch.bfloat16):
        values = tiny.losses(method, tiny.make_batch())
    tiny.total(values).backward()
    assert all(value.isfinite() and value.dtype == torch.float32 for value in values.values()), values
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@modes
@pytest.mark.parametrize("num_classes", [2, 19])
def test_a_mode_bears_a_batch_of_one_without_a_valid_pixel(
    tiny: Any, method_name: str, changes: dict[str, Any], num_classes: int
) -> None:
    method, batch = tiny.make_method(method_name, num_classes=num_classes, **changes), tiny.make_batch(num=1)
    nothing = torch.zeros_like(batch.valid)
    presence = torch.zeros(1, num_classes, dtype=torch.bool)
    ignored = torch.full_like(batch.mask, 255)
    empty = dataclasses.replace(batch, mask=ignored, valid=nothing, presence=presence)
    values = tiny.losses(method, empty)
    tiny.total(values).backward()
    assert all(value.isfinite() for value in values.values()), values
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@modes
def test_a_mode_reads_nothing_on_the_host(tiny: Any, method_name: str, changes: dict[str, Any]) -> None:
    method, batch = tiny.make_method(method_name, **changes), tiny.make_batch()
    with FakeTensorMode() as mode:
        tiny.pretend_cuda(method, mode)
        values = method.losses(tiny.pretend_batch(batch, mode), tiny.make_progress())
    assert all(value.device.type == "cuda" for value in values.values())
