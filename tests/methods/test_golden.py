"""Five CPU steps of every method against the losses on record: where they change, results change.

A change that is meant to change them rewrites the record, and says so in its commit:

    python tests/methods/test_golden.py            # all methods
    python tests/methods/test_golden.py u2pl gct   # these only
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

RECORD = Path(__file__).with_name("golden.json")
TOLERANCE = 2e-3
"""Relative. Other CPUs round convolutions differently, and five steps let that grow; a changed formula moves more."""

ABSOLUTE = {"gct": 2e-3}
"""Instead of 1e-4: of two flaws that are all but equal, rounding decides whose prediction is the better one."""


def five_steps(tiny: Any, name: str) -> list[dict[str, float]]:
    torch.manual_seed(0)
    return tiny.train(tiny.make_method(name), steps=5, lr=0.01)


def test_five_steps_give_the_losses_on_record(tiny: Any, name: str) -> None:
    expected = json.loads(RECORD.read_text(encoding="utf-8"))[name]
    for step, (found, recorded) in enumerate(zip(five_steps(tiny, name), expected, strict=True)):
        assert found == pytest.approx(recorded, rel=TOLERANCE, abs=ABSOLUTE.get(name, 1e-4)), f"step {step}"
    assert all(any(step[loss] for step in expected) for loss in expected[0])  # one that is always 0 says nothing


def rewrite(names: list[str]) -> None:
    """Write the losses of `names`, or of every method, into the record."""
    folder = Path(__file__).resolve().parent
    sys.path[:0] = [str(folder), str(folder.parents[1])]
    import tiny

    if absent := [name for name in names if name not in tiny.PARAMETERS]:
        sys.exit(f"{', '.join(absent)}: not under PARAMETERS in tests/methods/parameters.py; add an entry there first")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for name in names or tiny.METHODS:
        record[name] = [{key: round(value, 6) for key, value in step.items()} for step in five_steps(tiny, name)]
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    rewrite(sys.argv[1:])
