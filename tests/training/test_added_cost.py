"""What U2PL adds to its networks at the paper's sizes stays a twentieth of them."""

from __future__ import annotations

import pytest

from tests.benchmarks.counting import count
from tests.benchmarks.step import SHARE, paper_row, split


@pytest.mark.slow
def test_u2pl_adds_a_twentieth_to_the_bytes_and_operations_of_its_networks() -> None:
    networks, rest = split(count(paper_row("u2pl", 4)))
    assert rest.moved_bytes <= SHARE * networks.moved_bytes
    assert rest.operations <= SHARE * networks.operations
    assert networks.operations > 2e13  # the two forwards and a backward of ResNet-101 at 513 pixels were counted
