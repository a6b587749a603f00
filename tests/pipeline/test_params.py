"""params.yaml: what it may say, what a table becomes, what the paper's Table A1 has."""

from __future__ import annotations

import csv
import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from ruamel.yaml import YAML

from pipeline.cell import chain
from pipeline.params import all_tables, load_params, resolve_table
from pipeline.training.setting import check_row
from tests.methods import official
from tests.params import params_text, project_params

PROJECT = Path(__file__).parents[2]
PUBLISHED = PROJECT / "reports" / "published"


def test_an_override_changes_one_line_of_the_file(tmp_path: Path) -> None:
    copy = tmp_path / "params.yaml"
    copy.write_text(params_text())
    apply_overrides(copy, ["alpha0=0.3"])
    before, after = params_text().splitlines(), copy.read_text().splitlines()
    assert len(before) == len(after)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert changed[0][1].startswith("alpha0: 0.3")


def test_what_an_experiment_left_in_the_file_is_nothing_to_the_tests(tmp_path: Path) -> None:
    """Nor to copies of the project that tests make."""
    copy = tmp_path / "params.yaml"
    copy.write_text(params_text())
    given = ["alpha0=0.3", "weight=null", "method=ael", "variant=released", "dataset=cityscapes", "partition=1-2"]
    apply_overrides(copy, [*given, "seed=3", "scale=smoke", "seeds=[1,2]", "shown.network=student"])
    assert load_params(copy)["seeds"] == [1, 2]
    assert params_text(text=copy.read_text()) == params_text()
    copy.write_text(params_text("laptop", text=copy.read_text()))
    assert load_params(copy) == project_params("laptop")


def test_the_file_is_read_as_dvc_reads_it() -> None:
    assert load_params(PROJECT / "params.yaml") == load_yaml(str(PROJECT / "params.yaml"))


def test_no_value_differs_between_the_two_readers_of_yaml() -> None:
    import yaml

    text = (PROJECT / "params.yaml").read_text()
    assert yaml.safe_load(text) == YAML(typ="safe").load(text)


def test_every_table_resolves_and_every_row_can_be_built(params: dict[str, Any]) -> None:
    for scale in params["scales"]:
        params["scale"] = scale
        for table in all_tables(params):
            for row in resolve_table(params, table):
                check_row(row)


def test_a_table_is_left_out_where_its_data_is_not_and_refused_where_there_is_no_such_data(
    params: dict[str, Any],
) -> None:
    assert "table_x5" not in all_tables(params)
    assert "table_x5" in all_tables(params | {"scale": "paper"})
    params["tables"]["table_7"]["dataset"] = "voc_blendr"
    with pytest.raises(ValueError, match=r"tables.table_7.dataset: 'voc_blendr' is not known; allowed: voc_classic, "):
        all_tables(params)


def test_the_papers_scale_is_section_4_1(params: dict[str, Any]) -> None:
    params["scale"] = "paper"
    voc, city = (resolve_table(params, table)[-1] for table in ("table_2", "table_3"))
    shared = {"labelled_batch": 16, "unlabelled_batch": 16, "optimiser": "sgd", "momentum": 0.9, "power": 0.9}
    shared |= {"head_lr_factor": 10, "flip_probability": 0.5}
    shared |= {"scale_min": 0.5, "scale_max": 2.0, "scale_law": "two_sided"}
    assert shared.items() <= voc["training"].items()
    assert shared.items() <= city["training"].items()
    of_voc = {"lr": 0.001, "weight_decay": 0.0001, "crop": 513, "epochs": 80, "warm_start_epochs": 1, "criterion": "ce"}
    of_city = {"lr": 0.01, "weight_decay": 0.0005, "crop": 769, "epochs": 200, "warm_start_epochs": 20}
    assert of_voc.items() <= voc["training"].items()
    assert (of_city | {"criterion": "ohem"}).items() <= city["training"].items()
    encoder = {"stem": "7x7", "blocks": [3, 4, 23, 3], "width": 64, "expansion": 4, "multi_grid": [2, 2, 4]}
    network = {"backbone": "resnet", "encoder": encoder, "output_stride": 8, "aspp_rates": [12, 24, 36]}
    network |= {"decoder_channels": 256, "low_level_channels": 256, "representation_channels": 256, "dropout": 0.1}
    assert (network | {"weights": "torchvision"}).items() <= voc["model"].items()
    assert voc["model"] == city["model"] | {"auxiliary": False}
    exact = {"loss_resolution": "full", "precision": "float32", "pad_label": 255, "evaluate_every_epochs": 1}
    assert exact.items() <= voc["training"].items()
    assert exact.items() <= city["training"].items()
    assert (voc["data"]["family"], city["data"]["family"]) == ("u2pl", "u2pl")
    assert (voc["evaluation"]["mode"], city["evaluation"]["mode"]) == ("centre", "slide")
    assert (voc["evaluation"]["size"], city["evaluation"]["size"]) == (513, 769)
    silent = {"decay": 0.99, "mix": "cutmix", "mix_probability": 0.5, "entropy_source": "second", "buffers": "own"}
    assert (silent | {"share_negatives": False}).items() <= voc["parameters"].items()
    suponly = resolve_table(params, "table_2")[0]["training"]
    assert (suponly["epoch_over"], voc["training"]["epoch_over"]) == ("labelled", "unlabelled")
    assert (voc["model"]["auxiliary"], city["model"]["auxiliary"]) == (False, True)
    ohem = {
        "ohem_threshold": 0.7,
        "ohem_min_kept": 8 * 100000,
        "auxiliary_weight": 0.4,
    }  # eight GPUs with two images each
    assert ohem.items() <= city["training"].items()
    first = resolve_table(params, "table_3")[0]  # SupOnly: four GPUs with four images each
    assert (first["method"], first["training"]["ohem_min_kept"]) == ("suponly", 4 * 100000)
    assert city["evaluation"]["select_mode"] == "centre"  # as released; the sliding windows measure it
    for table, of_class_0 in (("table_7", 50000), ("table_a8", 30000)):  # Cityscapes has no background
        queues = {"queue_size": 30000, "queue_size_class_0": of_class_0}
        assert all(queues.items() <= row["parameters"].items() for row in resolve_table(params, table))
    assert resolve_table(params, "table_x5")[0]["evaluation"]["mode"] == "whole"  # COCO's images exceed the crop


def test_the_released_cityscapes_code_is_a_variant_of_its_own(params: dict[str, Any]) -> None:
    params["scale"] = "paper"
    where = {"dataset": "cityscapes", "partition": "1-8", "method": "u2pl", "variant": "released_cityscapes"}
    params["tables"]["mine"] = where
    (row,) = resolve_table(params, "mine")
    check_row(row)
    expected = {"warm_start_epochs": 0, "head_lr_factor": 1, "pad_label": 0, "criterion": "ohem"}
    assert expected.items() <= row["training"].items()
    assert row["parameters"]["contrast_weight"] == 1 / 8
    assert row["parameters"]["defect_one_hot"]


def test_every_cell_of_the_papers_scale_has_a_key_before_any_data_is_there(params: dict[str, Any]) -> None:
    params["scale"] = "paper"
    cells = [cell for table in all_tables(params) for row in resolve_table(params, table) for cell in chain(row)]
    trained = {cell.key for cell in cells if cell.kind == "train" and cell.values["dataset"] != "coco"}
    assert len(trained) > 250
    assert all(cell.values["data"]["name"] in ("voc", "cityscapes", "coco") for cell in cells)


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("table_[1-7a]*.csv")), ids=lambda path: path.stem)
def test_a_table_has_a_cell_for_every_number_of_the_papers(path: Path, params: dict[str, Any]) -> None:
    if path.stem == "table_a1_hyperparameters":
        return
    with path.open() as file:
        published = list(csv.DictReader(file))
    rows = resolve_table(params, path.stem)
    columns = [name for name in published[0] if name.endswith(")")]
    places = [(line, column) for line in published for column in columns]
    wanted = [(str({name: line[name] for name in rows[0]["row"]}), column) for line, column in places]
    assert sorted((str(row["row"]), row["column"]) for row in rows) == sorted(wanted)  # each of them, and once


def test_defaults_are_those_of_table_a1() -> None:
    symbols = {
        "M": "num_anchors",
        "N": "num_negatives",
        "delta_p": "anchor_threshold",
        "lambda_c": "contrast_weight",
        "eta": "weight",
        "tau": "temperature",
        "alpha_0": "alpha0",
        "r_l": "rank_low",
        "r_h": "rank_high",
    }
    with (PUBLISHED / "table_a1_hyperparameters.csv").open() as file:
        paper = {line["symbol"]: line["default"] for line in csv.DictReader(file)}
    loaded = project_params("embedded")
    for symbol, key in symbols.items():
        text = paper[symbol]
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
        assert loaded["methods"]["u2pl"]["parameters"][key] == value, symbol


def test_a_methods_block_has_the_fields_of_its_parameters() -> None:
    for name, block in project_params()["methods"].items():
        module = importlib.import_module(f"pipeline.methods.{name}")
        assert set(block["parameters"]) == {field.name for field in fields(module.Parameters)}, name


def test_every_method_file_has_its_block() -> None:
    files = {path.stem for path in (PROJECT / "pipeline" / "methods").glob("*.py")} - {"__init__"}
    assert set(project_params()["methods"]) == files


def test_released_semantics_are_the_modules_own() -> None:

    variants = project_params()["methods"]["u2pl"]["variants"]
    assert variants["released"]["parameters"] == official.U2PL
    assert variants["released_cityscapes"]["parameters"] == official.U2PL | {"contrast_weight": 0.125}


def test_dvc_yaml_has_every_table_with_its_data_set() -> None:
    items = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())["vars"][2]["items"]
    extra = YAML(typ="safe").load((PROJECT / "reports" / "extra" / "dvc.yaml").read_text())["vars"][1]["items"]
    loaded = project_params("embedded")
    assert {*items, *extra} == set(all_tables(loaded))
    assert list(items) == [table for table in all_tables(loaded) if table not in extra]
    for table, item in items.items():
        rows = resolve_table(loaded, table)
        assert {row["dataset"] for row in rows} == {item["dataset"]}
        assert {row["data"]["source"] for row in rows} == {item["source"]}


def test_a_table_of_one_scale_is_left_out_of_the_others() -> None:
    loaded = project_params("embedded")
    items = YAML(typ="safe").load((PROJECT / "reports" / "laptop" / "dvc.yaml").read_text())["vars"][1]["items"]
    assert not set(items) & set(all_tables(loaded))
    at_laptop = loaded | {"scale": "laptop"}
    assert set(items) <= set(all_tables(at_laptop))
    for table, item in items.items():
        rows = resolve_table(at_laptop, table)
        assert {row["dataset"] for row in rows} == {item["dataset"]}
        assert "scale" not in rows[0]["row"]


def test_the_experiment_follows_the_top_level_keys(params: dict[str, Any]) -> None:
    (default,) = resolve_table(params, "experiment")
    in_table_7 = [row for row in resolve_table(params, "table_7") if row["column"].startswith("1/4")]
    assert default["parameters"] == in_table_7[2]["parameters"]
    (changed,) = resolve_table(params | {"alpha0": 0.3}, "experiment")
    assert changed["parameters"] == in_table_7[1]["parameters"]


def test_the_experiment_may_be_of_any_method(params: dict[str, Any]) -> None:
    (row,) = resolve_table(params | {"method": "mean_teacher"}, "experiment")
    assert row["method"] == "mean_teacher"
    with pytest.raises(ValueError, match=r"alpha0=0.3: method 'mean_teacher' has no 'alpha0'; it has: .*decay"):
        resolve_table(params | {"method": "mean_teacher", "alpha0": 0.3}, "experiment")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha_0": 0.3}, "unknown top-level key: 'alpha_0' is not known; allowed: .*alpha0"),
        ({"method": "u2p"}, "method: 'u2p' is not known; allowed: .*u2pl"),
        ({"dataset": "voc"}, "'voc' is not known; allowed: voc_classic"),
        ({"partition": "1-3"}, r"voc_blender: '1-3' is not known; allowed: 1-16, .*full; .*partitions"),
        ({"temperature": float("nan")}, "temperature: nan is not a finite number"),
    ],
)
def test_a_wrong_key_or_value_names_itself_and_what_is_allowed(
    change: dict[str, Any], message: str, params: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_table(params | change, "experiment")


def test_a_seeded_data_set_may_have_any_fraction_or_count(params: dict[str, Any]) -> None:
    data = params["scales"]["smoke"]["voc_blender"]["data"]
    (before,) = resolve_table(params, "experiment")
    data["partitions"] = ["1-4", "1-30", 10]
    for partition, column in (("1-30", "1/30"), (10, "10")):
        (row,) = resolve_table(params | {"partition": partition}, "experiment")
        assert (row["partition"], row["column"]) == (str(partition), column)
        check_row(row)
        assert chain(row)[-1].key
    (after,) = resolve_table(params, "experiment")
    assert [cell.key for cell in chain(after)] == [cell.key for cell in chain(before)]
    data["partitions"] = ["1-4", "x-3"]
    with pytest.raises(
        ValueError, match=r"voc_blender.data.partitions: 'x-3'; allowed are full, fractions such as 1-30"
    ):
        resolve_table(params, "experiment")
    data["partitions"] = ["1-4", "1-2"]
    with pytest.raises(ValueError, match=r"'1-8' is not known; allowed: 1-4, 1-2; "):
        resolve_table(params | {"partition": "1-8"}, "experiment")


def test_a_published_family_has_the_partitions_it_published(params: dict[str, Any]) -> None:
    params["scale"] = "laptop"
    params["scales"]["laptop"]["voc_blender"]["data"] |= {"partitions": ["1-3"]}
    (row,) = resolve_table(params | {"partition": "1-3"}, "experiment")
    with pytest.raises(ValueError, match=r"u2pl published no partition '1-3' of 'voc_blender'; it has \['1-16'"):
        chain(row)


@pytest.mark.parametrize(("key", "value"), [("alpha0", 1.5), ("rank_low", 0), ("temperature", 0.0), ("weight", -1.0)])
def test_a_value_out_of_range_is_refused_before_anything_runs(key: str, value: float, params: dict[str, Any]) -> None:
    (row,) = resolve_table(params | {key: value}, "experiment")
    with pytest.raises(ValueError, match=f"{key} is {value}.*allowed"):
        check_row(row)


def test_lists_of_different_length_in_a_table_are_refused(params: dict[str, Any]) -> None:
    params["tables"]["table_5"]["rank_low"] = [1, 3]
    with pytest.raises(ValueError, match=r"differ in length.*rank_low"):
        resolve_table(params, "table_5")


def test_a_missing_or_torn_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("scale: [")
    with pytest.raises(ValueError, match="not readable as YAML"):
        load_params(tmp_path / "params.yaml")
