"""What U2PL's published lists are, by the pipeline's own partition stage: nesting, fine masks, overlap with val."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.layout import read_ids
from pipeline.data.lists import U2PL_FOLDERS, published_ids
from pipeline.data.partition import check_partition, partition_facts

SPLITS = Path(__file__).parents[3] / "shared" / "data" / "splits"
pytestmark = pytest.mark.skipif(
    not SPLITS.is_dir(), reason="U2PL's lists are not beside the checkout (../shared/data/splits)"
)
COUNTS = {
    "voc_classic": {"1-16": (92, 10490), "1-8": (183, 10399), "1-4": (366, 10216), "1-2": (732, 9850),
                    "full": (1464, 9118)},
    "voc_blender": {"1-16": (662, 9920), "1-8": (1323, 9259), "1-4": (2646, 7936), "1-2": (5291, 5291)},
    "cityscapes": {"1-16": (186, 2789), "1-8": (372, 2603), "1-4": (744, 2231), "1-2": (1488, 1487)},
}  # fmt: skip


@pytest.fixture
def facts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The facts of one data set's lists, fetched from the mirror and verified."""
    dataset = request.param
    (tmp_path / "splits").symlink_to(SPLITS)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    chosen = {}
    for role, partition in U2PL_FOLDERS:
        if role == dataset:
            labelled, others = published_ids("u2pl", dataset, partition=partition, folder=tmp_path / "fetched")
            assert others is not None
            chosen[partition] = (labelled, others)
    val = read_ids(SPLITS / ("cityscapes" if dataset == "cityscapes" else "pascal") / "val.txt")
    assert len(val) == (500 if dataset == "cityscapes" else 1449)
    for partition, (labelled, unlabelled) in chosen.items():
        check_partition(labelled, unlabelled, val=val, name=f"{dataset}/{partition}")
    assert len({frozenset([*labelled, *unlabelled]) for labelled, unlabelled in chosen.values()}) == 1
    fine = set(read_ids(SPLITS / "pascal" / "1464" / "labeled.txt"))
    return partition_facts(chosen, fine)["partitions"] | {"dataset": dataset}


def of(facts: dict[str, Any], what: str) -> dict[str, Any]:
    return {partition: values[what] for partition, values in facts.items() if partition != "dataset"}


def shared(facts: dict[str, Any]) -> dict[tuple[str, str], int]:
    names = list(of(facts, "fine"))
    return {(small, large): facts[small]["in_common"][large] for small, large in combinations(names, 2)}


@pytest.mark.parametrize("facts", COUNTS, indirect=True)
def test_counts_are_the_published_ones(facts: dict[str, Any]) -> None:
    counts = {name: (facts[name]["labelled"], facts[name]["unlabelled"]) for name in of(facts, "labelled")}
    assert counts == COUNTS[facts["dataset"]]


@pytest.mark.parametrize("facts", ["voc_classic"], indirect=True)
def test_classic_lists_lie_within_the_fine_masks_but_not_within_each_other(facts: dict[str, Any]) -> None:
    assert of(facts, "fine") == of(facts, "labelled")
    pairs = shared(facts)
    assert [pairs[pair] for pair in (("1-16", "1-8"), ("1-8", "1-4"), ("1-4", "1-2"))] == [9, 42, 188]
    assert all(facts[name]["in_common"]["full"] == facts[name]["labelled"] for name in ("1-16", "1-8", "1-4", "1-2"))


@pytest.mark.parametrize("facts", ["voc_blender"], indirect=True)
def test_blender_lists_nest_up_to_a_quarter_and_prefer_fine_masks(facts: dict[str, Any]) -> None:
    assert of(facts, "fine") == {"1-16": 662, "1-8": 1323, "1-4": 1464, "1-2": 1464}
    assert shared(facts) == {
        ("1-16", "1-8"): 662, ("1-16", "1-4"): 662, ("1-16", "1-2"): 662,
        ("1-8", "1-4"): 1323, ("1-8", "1-2"): 1323, ("1-4", "1-2"): 1978,
    }  # fmt: skip


@pytest.mark.parametrize("facts", ["cityscapes"], indirect=True)
def test_no_list_of_cityscapes_lies_within_another(facts: dict[str, Any]) -> None:
    pairs = shared(facts)
    known = {("1-16", "1-8"): 28, ("1-16", "1-4"): 111, ("1-8", "1-4"): 81, ("1-4", "1-2"): 388}
    assert known.items() <= pairs.items()
    assert all(common < facts[small]["labelled"] for (small, _), common in pairs.items())
