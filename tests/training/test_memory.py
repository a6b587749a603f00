"""The queues against lists that are appended to and cut."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.training import memory
from pipeline.training.memory import MemoryBank


def unit(values: list[float]) -> list[float]:
    length = math.sqrt(sum(value * value for value in values))
    return [value / length for value in values]


def append(bank: MemoryBank, features: torch.Tensor, counts: torch.Tensor) -> None:
    """Append the first `counts[c]` of features (C, K, D) to each queue, from rows in another order."""
    order = torch.arange(features[..., 0].numel()).flip(0)
    bank.enqueue(features.flatten(0, 1)[order], order.view(features.shape[:2]), counts=counts)


def content(bank: MemoryBank, c: int) -> list[list[float]]:
    """Return a queue's features, the oldest first."""
    capacity, filled, head = (int(values[c]) for values in (bank.capacity, bank.filled, bank.head))
    rows = [int(bank.offset[c]) + (head - filled + place) % capacity for place in range(filled)]
    return [bank.features[row].tolist() for row in rows]


@pytest.mark.parametrize("room", [2**23, 60])
def test_queues_hold_the_latest_features_of_each_class_in_order(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where five rows are gathered at a time."""
    monkeypatch.setattr(memory, "CPU_BYTES", room)
    generator = torch.Generator().manual_seed(0)
    capacities = [7, 5, 5]
    bank = MemoryBank(capacities, channels=3, dtype="float32")
    lists: list[list[list[float]]] = [[], [], []]
    for _ in range(12):
        features = torch.randn(3, 5, 3, generator=generator)
        counts = torch.randint(0, 6, (3,), generator=generator)
        append(bank, features, counts)
        for c in range(3):
            lists[c] += [unit(values) for values in features[c, : int(counts[c])].tolist()]
            lists[c] = lists[c][-capacities[c] :]
            assert len(content(bank, c)) == len(lists[c])
            for found, expected in zip(content(bank, c), lists[c], strict=True):
                assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("room", [2**23, 60])
def test_features_that_several_queues_take_are_enqueued_as_single_ones_are(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more taken than there are, each is divided once; with three classes' own rows, each time it is taken."""
    monkeypatch.setattr(memory, "CPU_BYTES", room)
    features, chosen = 9 * torch.randn(4, 3), torch.tensor([[0, 1, 3], [3, 2, 0], [1, 1, 2]])
    counts = torch.tensor([3, 2, 0])
    for dtype in ("float32", "float16"):
        shared, single = (MemoryBank([7, 5, 5], channels=3, dtype=dtype) for _ in range(2))
        shared.enqueue(features, chosen, counts=counts)
        append(single, features[chosen], counts)
        assert all(torch.equal(a, b) for a, b in zip(shared.buffers(), single.buffers(), strict=True))
        directions = [unit(features[row].tolist()) for row in (3, 2)]
        for found, expected in zip(content(shared, 1), directions, strict=True):
            assert found == pytest.approx(expected, abs=1e-3)


def test_samples_come_from_their_own_class_and_reach_every_feature() -> None:
    bank = MemoryBank([4, 4, 4], channels=2, dtype="float32")
    angles = torch.arange(12.0).view(3, 4) / 2
    append(bank, torch.stack([angles.cos(), angles.sin()], dim=2), torch.tensor([4, 2, 0]))
    torch.manual_seed(0)
    sample = bank.features[bank.draw(200)]
    seen = [{round(math.atan2(y, x) % (2 * math.pi), 3) for x, y in sample[c].tolist()} for c in range(2)]
    assert seen == [{0.0, 0.5, 1.0, 1.5}, {2.0, 2.5}]
    assert not sample[2].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_saved_bank_goes_on_as_before(dtype: str) -> None:
    bank = MemoryBank([6, 3], channels=2, dtype=dtype)
    append(bank, torch.randn(2, 3, 2), torch.tensor([3, 2]))
    other = MemoryBank([6, 3], channels=2, dtype=dtype)
    other.load_state_dict(bank.state_dict())
    features, counts = torch.randn(2, 3, 2), torch.tensor([1, 3])
    for each in (bank, other):
        append(each, features, counts)
    assert all(torch.equal(a, b) for a, b in zip(bank.buffers(), other.buffers(), strict=True))
    torch.manual_seed(0)
    drawn = bank.draw(3)
    torch.manual_seed(0)
    assert torch.equal(other.draw(3), drawn)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="queue sizes are"):
        MemoryBank([3, 0], channels=2, dtype="float32")
    with pytest.raises(ValueError, match="queue_dtype is 'int8'; allowed: float32, bfloat16, float16"):
        MemoryBank([3], channels=2, dtype="int8")
