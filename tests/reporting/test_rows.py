from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.partition import labelled_count
from pipeline.reporting.rows import (
    ASKED,
    OLDER,
    RESOLVED,
    Shown,
    canonical,
    figures_of,
    num_labelled,
    read_rows,
    why_missing,
    with_holes,
)

Row = dict[str, Any]
LABELS, COLUMN = {"tau": "0.5"}, "1/4 (2646)"


@pytest.fixture
def row(make_row: Callable[..., Row]) -> Row:
    return make_row("table_a6", LABELS, COLUMN, miou=61.5)


def write(path: Path, rows: Any) -> Path:
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


@pytest.mark.parametrize("partition", ["1-16", "1-8", "1-3", "1-2", "full", "7"])
def test_labelled_images_are_counted_as_partitions_are_made(row: Row, partition: str) -> None:
    drawn = {"num_fine": 128, "num_coarse": 385, "fine": "train"}
    for labelled_from, pool in (("train", 128), ("train_aug", 513)):
        found = row | {"partition": partition, "data": row["data"] | drawn | {"labelled_from": labelled_from}}
        assert num_labelled(found) == labelled_count(pool, partition)
    assert num_labelled(row) is None


def test_rows_are_read_as_they_were_written(tmp_path: Path, row: Row) -> None:
    assert read_rows(write(tmp_path / "table_a6.json", [row])) == [row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {}}, "done, but has no metrics"),
        ({"state": "finished"}, "state = 'finished'; allowed are done, diverged"),
        ({"state": "diverged"}, "does not say at which step"),
        ({"row": {}}, "the labels of its row are expected"),
        ({"metrics": {"student": {"best": {"padding_ignored": {"miou": None}}}}}, "miou = None; 0-100 is allowed"),
        ({"metrics": {"student": {"best": {"padding_ignored": {"miou": 100.5}}}}}, "0-100 is allowed"),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_by_file_place_and_field(
    tmp_path: Path, row: Row, change: Row, message: str
) -> None:
    path = write(tmp_path / "table_a6.json", [row, row | change])
    with pytest.raises(ValueError, match="row 1: ") as caught:
        read_rows(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_row_that_lacks_a_field_is_refused_by_name(tmp_path: Path, row: Row) -> None:
    del row["key"], row["train_s"]
    with pytest.raises(ValueError, match="row 0: lacks key, train_s"):
        read_rows(write(tmp_path / "table_a6.json", [row]))


@pytest.mark.parametrize(("text", "message"), [("[{", "torn or edited"), ("{}", "a list of rows"), ("[3]", "mapping")])
def test_a_torn_file_names_the_file_and_how_to_mend_it(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_rows(write(tmp_path / "table_a6.json", text))


def test_a_missing_file_names_the_stage_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dvc repro evaluate@table_1"):
        read_rows(tmp_path / "table_1.json")
    with pytest.raises(ValueError, match="dvc repro cells`"):
        read_rows(tmp_path / "table_1.json", measured=False)


@pytest.mark.parametrize("field", ["network", "epoch", "padding"])
def test_an_unknown_choice_of_figures_names_what_is_allowed(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} = 'ema': allowed are"):
        Shown(**{field: "ema"})


def test_the_deployed_network_is_the_last_of_the_row(row: Row, make_row: Callable[..., Row]) -> None:
    supervised = make_row("table_2", {"method": "SupOnly"}, COLUMN, miou=50)
    assert figures_of(row, Shown()) == row["metrics"]["teacher"]["best"]["padding_ignored"]
    assert figures_of(supervised, Shown()) == supervised["metrics"]["student"]["best"]["padding_ignored"]


def test_every_choice_shows_its_own_figures(row: Row) -> None:
    for network in ("student", "teacher"):
        for epoch in ("best", "last"):
            for padding in ("padding_ignored", "padding_background"):
                shown = Shown(network=network, epoch=epoch, padding=padding)
                assert figures_of(row, shown) == row["metrics"][network][epoch][padding]


def test_a_method_without_a_teacher_says_so(make_row: Callable[..., Row]) -> None:
    supervised, shown = make_row("table_2", {"method": "SupOnly"}, COLUMN, miou=50), Shown(network="teacher")
    assert figures_of(supervised, shown) is None
    assert why_missing(supervised, shown) == "suponly has no teacher"


def test_labels_that_mean_one_number_are_one_row() -> None:
    spelt = [canonical({"lr_base": value}, ["lr_base"]) for value in ("1e-3", "0.001", 0.001, "1e-03")]
    assert len(set(spelt)) == 1
    assert canonical({"method": "MT"}, ["method"]) != canonical({"method": "CutMix"}, ["method"])


def as_cell(row: Row) -> Row:
    measured = {"key", "train_key", "state", "metrics", "best_epoch", "steps", "train_s", "provenance"}
    return {name: value for name, value in row.items() if name not in measured}


def test_a_cell_without_a_measured_row_becomes_a_hole_with_its_reason(row: Row) -> None:
    other = as_cell(row) | {"seed": 1}
    found = with_holes([as_cell(row), other], [row], reason=lambda cell: f"out of memory, seed {cell['seed']}")
    assert found[0] == row | {ASKED: row["key"], OLDER: False}
    assert (found[1]["state"], found[1]["reason"]) == ("missing", "out of memory, seed 1")


def test_a_row_measured_under_other_values_is_a_hole_that_says_what_changed(row: Row) -> None:
    cell = as_cell(row) | {"training": row["training"] | {"epochs": 40}}
    [hole] = with_holes([cell], [row], reason=lambda cell: "never")
    assert hole["reason"] == "measured under other values (training.epochs: 20 → 40)"


def test_a_setting_that_came_later_makes_a_row_older_and_no_hole(row: Row) -> None:
    cell = as_cell(row)
    later = cell | {"training": cell["training"] | {"scale_law": "two_sided"}}
    [kept] = with_holes([later], [row], reason=lambda _: "never run")
    assert kept["state"] == row["state"]
    assert kept[OLDER]
    changed = later | {"training": later["training"] | {"epochs": 40}}
    [hole] = with_holes([changed], [row], reason=lambda _: "never run")
    assert hole["reason"].startswith("measured under other values (training.epochs: ")


def test_a_measured_row_that_no_cell_asks_for_is_left_out(row: Row) -> None:
    assert with_holes([], [row], reason=lambda cell: "never") == []


def test_the_mean_of_chosen_classes_counts_an_absent_one_as_zero(make_row: Any) -> None:
    row = make_row("table_2", {"method": "SupOnly"}, COLUMN, miou=50)
    figures = row["metrics"]["student"]["best"]["padding_ignored"]
    figures["iou"] = [80.0, None, 40.0, 20.0]
    chosen = figures_of(row, Shown(classes=(0, 1, 2)))
    assert chosen is not None
    assert chosen["miou"] == pytest.approx(40.0)
    assert chosen["iou"] == figures["iou"]
    assert figures["miou"] == 50
    assert "mean of 3 classes" in str(Shown(classes=(0, 1, 2)))


def test_other_names_of_data_and_classes_make_no_row_stale(row: Row) -> None:
    """Nor older: names are no part of a key."""
    named = row | {"data": row["data"] | {"title": "mine", "classes": ["a", "b"]}}
    cell = {name: value for name, value in named.items() if name in RESOLVED}
    (found,) = with_holes([cell], [row], reason=lambda _: "never")
    assert (found["state"], found[OLDER], found["data"]) == ("done", False, named["data"])
    renamed = cell | {"data": row["data"] | {"title": "yours"}}
    (found,) = with_holes([renamed], [named], reason=lambda _: "never")
    assert (found[OLDER], found["data"]) == (False, renamed["data"])


def test_a_row_whose_cell_has_another_key_today_is_kept_and_marked(row: Row) -> None:
    other = as_cell(row) | {"seed": 1}
    keys = {row["seed"]: "other", 1: None}
    rows = [row, row | {"seed": 1}]
    found = with_holes([as_cell(row), other], rows, reason=lambda _: "", key_of=lambda cell: keys[cell["seed"]])
    assert [(each[OLDER], each[ASKED]) for each in found] == [(True, "other"), (False, row["key"])]
