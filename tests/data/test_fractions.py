from __future__ import annotations

import pytest

from pipeline.data.partition import PARTITIONS, labelled_count


def test_fractions_round_up_as_published() -> None:
    counts = [labelled_count(10582, partition) for partition in PARTITIONS]
    assert counts == [662, 1323, 2646, 5291, 10582]
    assert [labelled_count(1464, partition) for partition in PARTITIONS] == [92, 183, 366, 732, 1464]
    assert [labelled_count(2975, partition) for partition in PARTITIONS] == [186, 372, 744, 1488, 2975]


@pytest.mark.parametrize("partition", ["1_8", "1/8", "0-8", "9-8", "1-0", "", "half", "1-8-2", "-1-8", "0", "101"])
def test_an_impossible_partition_is_refused_with_what_is_allowed(partition: str) -> None:
    with pytest.raises(
        ValueError, match=r"allowed are 'full', fractions|must lie above 0 and at most at 1|1 to 100 can be"
    ):
        labelled_count(100, partition)
