"""How many steps a row trains, told from the sizes that its lists have or will have."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands.steps import num_steps
from pipeline.data.partition import write_partitions
from pipeline.data.sources import prepare
from pipeline.files import write_json
from pipeline.labels import PARTITIONS
from tests.pipeline.test_forecast import row_of


def test_steps_are_those_of_the_published_lists() -> None:
    assert num_steps(row_of("u2pl", scale="paper")) == 80 * ((10582 - 2646) // 16)
    assert num_steps(row_of("u2pl", scale="paper", dataset="voc_classic", partition="1-16")) == 52_400
    assert num_steps(row_of("suponly", scale="paper", dataset="voc_classic", partition="1-16")) == 480
    assert num_steps(row_of("u2pl", scale="embedded")) == 440


def test_a_partition_that_was_added_since_the_lists_were_written_counts_as_if_there_were_none(tmp_path: Path) -> None:
    facts = {"train": 10582, "val": 1449, "partitions": {"1-4": {"labelled": 100, "unlabelled": 50}}}
    write_json(tmp_path / "partitions" / "voc_blender" / "summary.json", facts)
    listed, added = (row_of("suponly", scale="paper", dataset="voc_blender") for _ in range(2))
    added["partition"] = "1-5"
    assert num_steps(listed, tmp_path) == 80 * 7  # of 100 images, 16 at once
    assert num_steps(added, tmp_path) == num_steps(added)
    write_json(tmp_path / "partitions" / "folder" / "summary.json", facts)
    with pytest.raises(ValueError, match="lists of folder are not there yet"):
        num_steps(added | {"dataset": "folder"}, tmp_path)


@pytest.mark.parametrize("dataset", ["voc_classic", "voc_blender", "cityscapes"])
def test_lists_of_drawn_images_have_the_sizes_that_were_told(dataset: str, tmp_path: Path) -> None:
    rows = [row_of("u2pl", dataset=dataset, partition=name) for name in PARTITIONS[dataset]]
    told = [num_steps(row, tmp_path) for row in rows]
    data = rows[0]["data"]
    prepare(data, tmp_path / data["source"])
    write_partitions(data, dataset, root=tmp_path, out=tmp_path / "partitions" / dataset)
    assert [num_steps(row, tmp_path) for row in rows] == told
