"""Keys: what changes a result changes the key, what only says where something lies does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cell import chain, weights_identity
from pipeline.data.sources import folder_digest
from pipeline.params import resolve_table
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """A row that trains on a folder of one's own."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(b"an image")
    params = project_params("laptop")
    params["scales"]["laptop"]["sources"]["voc"]["path"] = str(tmp_path / "mine")
    return resolve_table(params, "experiment")[0]


def keys(row: dict[str, Any]) -> list[str]:
    folder_digest.cache_clear()
    weights_identity.cache_clear()
    return [cell.key for cell in chain(row)]


def with_data(row: dict[str, Any], **values: str) -> dict[str, Any]:
    return row | {"data": row["data"] | values}


def test_where_ones_own_folder_lies_and_how_it_is_called_is_no_part_of_a_key(own: dict[str, Any]) -> None:
    place = Path(own["data"]["path"])
    shutil.copytree(place, place.with_name("moved"))
    assert keys(with_data(own, path=str(place.with_name("moved")), title="other")) == keys(own)


def test_what_is_in_ones_own_folder_is_a_part_of_every_key(own: dict[str, Any]) -> None:
    before = keys(own)
    (Path(own["data"]["path"]) / "a.jpg").write_bytes(b"another image")
    assert not set(before) & set(keys(own))


def test_weights_of_a_path_count_by_content(own: dict[str, Any], tmp_path: Path) -> None:
    def at(path: Path) -> list[str]:
        return keys(own | {"model": own["model"] | {"weights": str(path)}})

    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    torch.save({"a": torch.zeros(1)}, one)
    shutil.copy(one, two)
    assert at(one) == at(two)
    torch.save({"a": torch.ones(1)}, two)
    assert not set(at(one)) & set(at(two))
    assert not set(at(one)) & set(keys(own))


def test_a_row_of_a_table_is_a_chain_whose_cells_build_on_each_other(own: dict[str, Any]) -> None:
    warm, train, evaluate = chain(own)
    assert (warm.kind, train.kind, evaluate.kind) == ("warm_start", "train", "evaluate")
    assert train.upstream == (warm.key,)
    assert evaluate.upstream == (train.key,)
