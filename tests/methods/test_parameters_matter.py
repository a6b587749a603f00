"""No parameter is without effect: another value of any gives other losses, or another network after three steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pipeline.training.method import Progress
from pipeline.training.setting import build_optimiser
from tests.methods.tiny import PARAMETERS

pytestmark = pytest.mark.slow
SCHEDULE = {"optimiser": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0, "head_lr_factor": 1}
NUM_STEPS, NUM_IMAGES = 3, 4

SITUATIONS: dict[str, dict[str, Any]] = {
    "ael": {"initial_confidence": None},  # or no class does better than another
    "u2pl_ael": {"initial_confidence": None, "anchor_threshold": 0.04, "rank_low": 3},
    "u2pl": {"anchor_threshold": 0.04, "rank_low": 3},  # networks at initialisation say about 1/21 of every class
}
"""In which a parameter that the tests of all methods hide comes to bear."""

OTHERS: dict[str, list[Any]] = {
    "buffers": ["own", "copy", "average"],
    "contrast": ["bce", "none"],
    "negatives": ["all", "uniform"],
    "anchors": ["lowest"],
    "positives": ["unfiltered"],
    "contrast_normaliser": ["present"],
    "queue_dtype": ["bfloat16"],
    "max_enqueue_per_class": [4],
    "entropy_source": ["first"],
    "mix": ["classmix"],
    "teacher_start": ["released"],
    "padding": ["learnt"],
    "rank_high": [8],
    "queue_size": [8],
    "queue_size_class_0": [8],
    "consistency": ["l2"],
    "fusion": ["decoder"],
    "background_class": [None],
    "background_classes": [[0, 1, 2, 3]],
    "bootstrap_threshold": [0.3],
    "teacher_mode": ["train"],
    "confidence_mean": ["pixel"],
    "initial_confidence": [0.5],
    "absent_class": ["zero"],
    "excluded_classes": [[1, 2, 3, 4, 5, 6, 7]],
    "normaliser": ["batch"],
    "partner_labels": ["eval"],
    "entropy_drop": ["low"],
    "contrast_start_epoch": [1],
    "detector_width": [8],
    "num_strong_views": [1],
    "anchor_threshold": [0.06],
    "jitter": [[0.1, 0.1, 0.1, 0.1]],
    "paste_scale": [[1.0, 1.0]],
    "confidence_threshold": [0.07],
    "decoders": [{"dropout": 1}],
}
"""What to try instead of a number's half, and of a truth its contrary."""


def others(key: str, value: Any) -> list[Any]:
    if key in OTHERS:
        return [other for other in OTHERS[key] if other != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [[number / 2 for number in value]]
    assert isinstance(value, int | float), f"say in OTHERS what {key} may be instead of {value!r}"
    return [value + 1, value - 1] if isinstance(value, int) else [value / 2]


def outcome(tiny: Any, name: str, **changes: Any) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Return what three steps of the product's own optimiser groups end with, whatever is changed."""
    torch.manual_seed(0)
    method = tiny.make_method(name, **SITUATIONS.get(name, {}) | changes)
    optimiser, history = build_optimiser(method, SCHEDULE), []
    for group in optimiser.param_groups:
        group["lr"] *= group["lr_factor"]
    for step in range(NUM_STEPS):
        batch = tiny.make_batch(step, num=NUM_IMAGES, size=tiny.SIZES.get(name, tiny.SIZE))
        even = torch.where(batch.mask == 255, 255, batch.mask // 2 * 2)  # some classes are absent
        torch.manual_seed(step)
        values = method.losses(
            dataclasses.replace(batch, mask=even), Progress(step, 4 * NUM_STEPS, step // 2, 2 * NUM_STEPS)
        )
        optimiser.zero_grad()
        tiny.total(values).backward()
        optimiser.step()
        method.after_step(step)
        history.append({key: float(value.detach()) for key, value in values.items()})
    return history, dict(method.named_buffers()) | dict(method.named_parameters())


def differ(one: Any, other: Any) -> bool:
    (losses, state), (other_losses, other_state) = one, other
    if losses != other_losses or state.keys() != other_state.keys():
        return True
    return not all(torch.equal(value, other_state[key]) for key, value in state.items())


BY_CHANCE = ("paste_power", "presence_area", "region_area")
"""What moves chances too little for a few images; tests/methods/test_ael.py looks at each alone."""

CASES = [(name, key) for name, parameters in PARAMETERS.items() for key in parameters if key not in BY_CHANCE]


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(("method_name", "key"), CASES)
def test_another_value_gives_another_result(tiny: Any, plain: dict[str, Any], method_name: str, key: str) -> None:
    if method_name not in plain:
        plain[method_name] = outcome(tiny, method_name)
    value = (tiny.PARAMETERS[method_name] | SITUATIONS.get(method_name, {}))[key]
    found = []
    for other in others(key, value):
        try:
            found.append(differ(outcome(tiny, method_name, **{key: other}), plain[method_name]))
        except ValueError:  # not of this method's
            continue
    assert any(found)
