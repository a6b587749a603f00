"""Sampling by running counts, against counts of what comes out."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from pipeline.training.sampling import sample_members, spread_members


def test_members_are_drawn_uniformly_with_replacement_and_nothing_else_is() -> None:
    members = torch.rand(3, 40) < 0.3
    members[2] = False
    torch.manual_seed(0)
    chosen, counts = sample_members(members, 20_000)
    assert counts.tolist() == members.sum(1).tolist()
    for c in range(2):
        seen = Counter(chosen[c].tolist())
        assert set(seen) == set(members[c].nonzero()[:, 0].tolist())
        expected = 20_000 / len(seen)
        assert all(abs(number - expected) < 6 * math.sqrt(expected) for number in seen.values())


@pytest.mark.parametrize("num", [1, 5, 8, 30])
def test_a_subset_holds_different_members_each_as_likely_as_any_other(num: int) -> None:
    members = torch.zeros(2, 60, dtype=torch.bool)
    members[0, ::6] = True  # ten members
    torch.manual_seed(0)
    seen: Counter[int] = Counter()
    for _ in range(600):
        chosen, counts = spread_members(members, num)
        assert counts.tolist() == [min(num, 10), 0]
        kept = chosen[0, : min(num, 10)].tolist()
        assert len(set(kept)) == len(kept)
        seen.update(kept)
    assert set(seen) == set(range(0, 60, 6))
    expected = 60 * min(num, 10)
    assert all(abs(number - expected) <= 6 * math.sqrt(expected) for number in seen.values())
