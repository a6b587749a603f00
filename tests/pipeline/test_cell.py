"""Keys: what changes a result changes the key, what only says where something lies does not."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import cell
from pipeline.cell import chain, code_hash, forget_code, weights_identity
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
    return [one.key for one in chain(row)]


def with_data(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    return row | {"data": row["data"] | values}


def test_where_ones_own_folder_lies_and_how_it_is_called_is_no_part_of_a_key(own: dict[str, Any]) -> None:
    place = Path(own["data"]["path"])
    shutil.copytree(place, place.with_name("moved"))
    assert keys(with_data(own, path=str(place.with_name("moved")), title="other")) == keys(own)
    assert keys(with_data(own, classes=["nothing", *map(str, range(20))])) == keys(own)


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


def test_a_row_that_many_tables_have_is_one_computation(params: dict[str, Any]) -> None:
    """U2PL as it is, at a quarter of blender and of Cityscapes."""
    for tables in (("table_2", "table_4", "table_5", "table_6", "table_7", "table_a4", "table_a5", "table_a6"),
                   ("table_3", "table_a2", "table_a3", "table_a7", "table_a8")):  # fmt: skip
        (own,) = [
            chain(row)[-1].key
            for row in resolve_table(params, tables[0])
            if (row["method"], row["partition"]) == ("u2pl", "1-4")
        ]
        for table in tables[1:]:
            assert own in [chain(row)[-1].key for row in resolve_table(params, table)], table


TRAINED = {"warm_start", "train suponly", "train ael", "train u2pl"}
MEASURED = {"evaluate", "reliability"}
IMPORTED_BY = {
    "training/engine.py": TRAINED,
    "training/schedule.py": TRAINED,
    "training/teacher.py": TRAINED - {"warm_start"},  # by the methods
    "training/mixing.py": {"train ael", "train u2pl"},
    "training/class_bank.py": {"train ael"},  # by the method's adaptive.py
    "training/memory.py": {"train u2pl"},  # by pixel_contrast.py, by the method
    "methods/u2pl.py": {"train u2pl"},
    "methods/cutmix.py": set(),
    "models/decoder.py": TRAINED | MEASURED,  # by segnet.py, by build.py
    "models/backbones/timm.py": set(),  # of the other backbone
    "evaluation/confusion.py": TRAINED | MEASURED,  # the loop measures too
    "evaluation/reliability.py": {"reliability"},
    "data/augment.py": TRAINED | MEASURED,
    "data/download.py": set(),
}
"""Of some files, by which of these kinds of cells they are imported, through whatever others."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the code, which keys are made from."""
    copied = tmp_path / "pipeline"
    shutil.copytree(PROJECT / "pipeline", copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cell, "PACKAGE", copied)
    yield copied
    forget_code()


def code() -> dict[str, str]:
    """The hash of the code of each kind of cell."""
    forget_code()
    trained = {
        f"train {method}": code_hash("train", method, backbone="resnet") for method in ("suponly", "ael", "u2pl")
    }
    return trained | {
        kind: code_hash(kind, "", backbone="resnet") for kind in ("warm_start", "evaluate", "reliability")
    }


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.mark.parametrize("file", IMPORTED_BY)
def test_a_statement_changes_the_code_of_those_kinds_that_import_it(file: str, package: Path) -> None:
    before = code()
    with (package / file).open("a") as source:
        source.write("\nADDED = 1\n")
    assert changed(before, code()) == IMPORTED_BY[file]


def with_other_words(text: str) -> str:
    """The same code with other docstrings, comments and empty lines."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            number = node.body[0].lineno - 1
            lines[number] = lines[number].replace('"""', '"""In other words: ', 1)
    return "\n".join(["# A comment.", "", *lines, "", "", "# Another.", ""])


def test_comments_docstrings_and_layout_change_no_code(package: Path) -> None:
    before = code()
    engine = package / "training" / "engine.py"
    engine.write_text(
        engine.read_text().replace("CHECKPOINT_S = ", '"""Words under a constant."""\nCHECKPOINT_S = ', 1)
    )
    for path in package.rglob("*.py"):
        text = path.read_text()
        path.write_text(with_other_words(text))
        assert text.count("In other words") < path.read_text().count("In other words") or not text
    assert code() == before


def test_code_outside_the_science_changes_no_code(package: Path) -> None:
    before = code()
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] not in cell.SCIENCE:
            path.write_text(path.read_text() + "\nADDED = 1\n")
    assert code() == before


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("parameters", {"alpha0": 0.3}, ["train", "evaluate"]),
        ("evaluation", {"select": "padding_background"}, ["train", "evaluate"]),  # of which epoch is kept
        ("evaluation", {"select_mode": "whole"}, ["train", "evaluate"]),
        ("training", {"evaluate_every_epochs": 2}, ["train", "evaluate"]),
        ("training", {"lr": 0.5}, ["warm_start", "train", "evaluate"]),
        ("training", {"epochs": 50}, ["warm_start", "train", "evaluate"]),  # the schedule is the whole run's
        ("model", {"dropout": 0.5}, ["warm_start", "train", "evaluate"]),
        ("data", {"order": "independent"}, ["warm_start", "train", "evaluate"]),
    ],
    ids=str,
)
def test_a_value_changes_the_keys_of_the_cells_that_read_it_and_of_those_after(
    section: str, change: dict[str, Any], expected: list[str], params: dict[str, Any]
) -> None:
    (row,) = resolve_table(params, "experiment")
    assert row[section] | change != row[section]
    pairs = zip(chain(row), chain(row | {section: row[section] | change}), strict=True)
    assert [before.kind for before, after in pairs if before.key != after.key] == expected
