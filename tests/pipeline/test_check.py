"""What is wrong in params.yaml is said before anything runs."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import modify_yaml

from pipeline.check import check_row, check_shown, check_table
from pipeline.labels import row_label
from pipeline.params import all_tables, resolve_table
from stages import cells
from tests.params import params_text, project_params

PARAMS = project_params()


def experiment() -> dict[str, Any]:
    (row,) = resolve_table(PARAMS, "experiment")
    return copy.deepcopy(row)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("evaluation", "mode", "center", r"evaluation mode is 'center'; allowed are \('whole', 'centre', 'slide'\)"),
        ("evaluation", "size", None, "evaluation size is None; mode 'centre' needs 1 pixel or more"),
        ("evaluation", "select", "padding", "evaluation.select: 'padding'; allowed: padding_ignored, padding_backgr"),
        ("evaluation", "precision", "fp16", "evaluation.precision: 'fp16'; allowed: float32, bfloat16"),
        ("evaluation", "select_mode", "none", "evaluation mode is 'none'"),
        ("evaluation", "batch_images", 0, "evaluation.batch_images: 0; a whole number of at least 1"),
        ("evaluation", "stride", 2, r"evaluation: unknown or missing \['stride'\]; it has: mode, size"),
        ("training", "flip_probability", 2, "flip_probability is 2; allowed are 0 to 1"),
        ("training", "scale_min", 3.0, "scale_min, scale_max are 3.0, .*; allowed: 0 < min <= max"),
        ("training", "momentum", -1, r"momentum: -1; at least 0 and below 1 is allowed"),
        ("training", "auxiliary_weight", -1, r"auxiliary_weight: -1; 0 and above is allowed"),
        ("training", "ohem_threshold", 2, "ohem_threshold is 2; allowed: a probability, 0 to 1"),
        ("parameters", "num_anchors", 50.5, "num_anchors is 50.5; allowed: whole numbers from 1"),
        ("parameters", "buffers", "none", "buffers is 'none'; allowed: average, own, copy"),
        ("model", "weights", "own/w.pth", "model.weights is 'own/w.pth'; allowed: null, .* or the absolute path"),
        ("model", "weights", "/nowhere/w.pth", "model.weights is '/nowhere/w.pth'; allowed: null"),
        ("data", "order", "nest", "data.order is 'nest'; allowed are"),
        ("data", "absent", "skipp", "data.absent is 'skipp'; allowed are"),
    ],
)
def test_a_value_that_a_later_stage_could_not_use_is_refused(section: str, key: str, value: Any, message: str) -> None:
    row = experiment()
    check_row(row)
    row[section][key] = value
    with pytest.raises(ValueError, match=rf"experiment \(u2pl\)(: |\.){message}"):
        check_row(row)


@pytest.mark.parametrize(("resolution", "pixels"), [("full", 8 * 65**2), ("network", 8 * 17**2)])
def test_ohem_that_would_keep_every_pixel_is_refused(resolution: str, pixels: int) -> None:
    row = experiment()
    row["training"] |= {"criterion": "ohem", "loss_resolution": resolution, "labelled_batch": 8, "crop": 65}
    row["training"]["ohem_min_kept"] = pixels - 1
    check_row(row)
    row["training"]["ohem_min_kept"] = pixels
    with pytest.raises(ValueError, match=rf"training.ohem_min_kept: {pixels}; fewer than the loss's {pixels} pixels"):
        check_row(row)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("mean_teacher", {"buffers": "own"}, "buffers is 'own'; allowed: average, copy"),
        ("cutmix", {"buffers": "own"}, "buffers is 'own'; allowed: average, copy"),
        ("augseg", {"buffers": "own"}, "buffers is 'own'; allowed: average, copy"),
        ("augseg", {"max_operations": 2.5}, "max_operations is 2.5; allowed: whole numbers from 0"),
        ("unimatch_v2", {"buffers": "own"}, "buffers is 'own'; allowed: average, copy"),
        ("unimatch_v2", {"decay": 1.5}, "decay is 1.5; allowed: at least 0 and below 1"),
        ("cct", {"background_classes": [99]}, r"background_classes is \[99\]; allowed: of 0 to 20"),
        (
            "cct",
            {"drop_range": [0.9, 0.7]},
            r"drop_range is \[0\.9, 0\.7\]; allowed: two numbers, 0 < low <= high <= 1",
        ),
        ("cct", {"bootstrap_threshold": 5.0}, "bootstrap_threshold is 5.0; allowed: 0 to 1"),
        ("pseudoseg", {"background_class": 99}, "background_class is 99; allowed: null, or 0 to 20"),
        (
            "ael",
            {"excluded_classes": [40]},
            "excluded_classes is .*40.*; allowed: some, not all, of the classes",
        ),
        ("u2pl_ael", {"excluded_classes": [40]}, "excluded_classes is .*40.*; allowed: some, not all, of the classes"),
        ("u2pl_ael", {"rank_low": 21, "rank_high": 22}, "rank_low is 21; allowed: 1 to 20 with 21 classes"),
    ],
)
def test_a_parameter_that_a_method_could_not_use_is_refused(method: str, changes: dict[str, Any], message: str) -> None:
    (row,) = resolve_table(PARAMS | {"method": method}, "experiment")
    row = copy.deepcopy(row)
    check_row(row)
    row["parameters"] |= changes
    with pytest.raises(ValueError, match=rf"experiment \({method}\): {message}"):
        check_row(row)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"seed": [0, 0]}, r"U2PL \(w/ CutMix\)"),
        ({"partition": ["1-4", "1-4"]}, r"U2PL \(w/ CutMix\)"),
        ({"contrast": ["infonce", "infonce"], "temperature": [0.5, 0.1]}, r"U2PL \(w/ L_c\)"),
    ],
)
def test_rows_that_no_label_tells_apart_are_refused(spec: dict[str, Any], told: str) -> None:
    table = {"dataset": "voc_blender", "partition": "1-4", "method": "u2pl"} | spec
    rows = resolve_table(PARAMS | {"tables": {"table_7": table}}, "table_7")
    with pytest.raises(ValueError, match=rf"tables\.table_7: two rows are method {told}, 1/4 \(2646\), seed 0"):
        check_table(rows)


@pytest.mark.parametrize(
    ("spec", "labels"),
    [
        ({"lr_factor": [1, 3]}, [{"lr_base": "1e-3"}, {"lr_base": "x 3"}]),
        ({"method": ["suponly", "u2pl"], "temperature": [None, 0.1]}, [{"tau": "-"}, {"tau": "0.1"}]),
    ],
)
def test_values_that_the_paper_has_no_word_for_have_a_label(spec: dict[str, Any], labels: list[dict[str, str]]) -> None:
    table = {"dataset": "voc_blender", "partition": "1-4", "method": "u2pl"} | spec
    rows = resolve_table(PARAMS | {"tables": {"table_7": table}}, "table_7")
    check_table(rows)
    assert [{name: row["row"][name] for name in label} for row, label in zip(rows, labels, strict=True)] == labels


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("alpha0", "high", "alpha0 is 'high'; allowed is a number"),
        ("weight", "1e-3", "weight is '1e-3'; allowed is a number"),
        ("num_anchors", [50], r"num_anchors is \[50\]; allowed is a whole number"),
        ("dpa", 1, "dpa is 1; allowed is true or false"),
        ("rank_low", True, "rank_low is True; allowed is a whole number"),
        ("contrast", 3, "contrast is 3; allowed is a word"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_is_allowed(key: str, value: Any, told: str) -> None:
    row = experiment()
    row["parameters"][key] = value
    with pytest.raises(ValueError, match=rf"experiment \(u2pl\): {told}"):
        check_row(row)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("crop", "4.8.0", "'4.8.0'; allowed is a number$"),
        ("epochs", [2], r"\[2\]; allowed is a number$"),
        ("epochs", True, "True; allowed is a number$"),
        ("lr", None, "None; allowed is a number$"),
        ("steps_per_epoch", "all", "'all'; allowed is a number or null$"),
        ("compile", "yes", "'yes'; allowed is true or false$"),
        ("channels_last", 1, "1; allowed is true or false$"),
        ("optimiser", None, "None; allowed is a word"),
    ],
)
def test_a_value_of_the_schedule_of_another_kind_is_named_too(key: str, value: Any, told: str) -> None:
    row = experiment()
    row["training"][key] = value
    with pytest.raises(ValueError, match=rf"experiment \(u2pl\): training\.{key} is {told}"):
        check_row(row)


@pytest.mark.parametrize(("spec", "told"), [(None, "None"), ({"dataset": "voc_blender", "method": "cps"}, "{'dataset")])
def test_a_table_that_says_too_little_is_named(spec: Any, told: str) -> None:
    params = PARAMS | {"tables": {"mine": spec}}
    for ask in (lambda: all_tables(params), lambda: resolve_table(params, "mine")):
        with pytest.raises(ValueError, match=rf"tables\.mine: {told}.*; it needs dataset, partition, method"):
            ask()


def test_what_tables_show_has_known_names() -> None:
    with pytest.raises(ValueError, match="shown: netwrok not known; allowed: network, epoch, padding, classes"):
        check_shown({"netwrok": "teacher"}, [experiment()])


def test_a_table_of_the_papers_has_the_papers_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or it could not be printed beside it, which would be found out after its trainings."""
    table = {"dataset": "voc_blender", "partition": ["1-4"], "method": "cps", "variant": ["default", "official"]}
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(cells, "load_params", lambda _: PARAMS | {"tables": PARAMS["tables"] | {"table_2": table}})
    assert cells.main() == 1
    told = "params.yaml: tables.table_2: its rows are labelled by variant, the paper's by method; rename it"
    assert told in capsys.readouterr().err


def test_a_method_without_a_label_goes_by_its_name() -> None:
    assert row_label(["method"], {"method": "mine"}, parameters={}) == {"method": "mine"}


@pytest.mark.parametrize("classes", [[], [21], [-1], [0, 21]])
def test_classes_that_are_not_there_cannot_be_shown(classes: list[int]) -> None:
    check_shown({"classes": [0, 20]}, [experiment()])
    with pytest.raises(ValueError, match=r"shown\.classes: \[.*\]; null, or some of 0 to 20 are allowed"):
        check_shown({"classes": classes}, [experiment()])


@pytest.mark.parametrize("key", ["method", "seed"])
def test_a_key_that_is_missing_is_named(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setattr(cells, "load_params", lambda _: {name: PARAMS[name] for name in PARAMS if name != key})
    assert cells.main() == 1
    said = capsys.readouterr().err
    assert f"params.yaml: the key '{key}' is missing" in said
    assert said.endswith(f"It is still there: correct it, or undo every edit of params.yaml by\n  {cells.UNDO}\n")


def test_what_undoes_a_refused_value_does_so(tmp_path: Path) -> None:
    """Of the same size and written in the same second, and DVC has removed the rows."""
    kept = {"params.yaml": "alpha0: 0.2\n", "reports/smoke/cells/a.json": "[]", "reports/smoke/shown.json": "{}"}
    for name, text in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / "params.yaml").write_text("alpha0: 9.9\n")
    shutil.rmtree(tmp_path / "reports")
    subprocess.run(cells.UNDO, cwd=tmp_path, shell=True, check=True)
    assert {name: (tmp_path / name).read_text() for name in kept} == kept


def test_a_top_level_value_counts_although_it_is_the_default_of_another_method() -> None:
    for method, key, own in (("unimatch", "weight", 0.5), ("pc2seg", "temperature", 0.07)):
        u2pls = PARAMS["methods"]["u2pl"]["parameters"][key]
        (as_it_has,) = resolve_table(PARAMS | {"method": method}, "experiment")
        (given,) = resolve_table(PARAMS | {"method": method, key: u2pls}, "experiment")
        assert as_it_has["parameters"][key] == own
        assert given["parameters"][key] == u2pls != own


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(ValueError, match=rf"tables\.experiment\.seed: {seed}; a whole number of at least 0 is allowed"):
        resolve_table(PARAMS | {"seed": seed}, "experiment")


@pytest.mark.parametrize("key", ["seed", "partition", "method"])
def test_an_empty_list_in_a_table_is_refused(key: str) -> None:
    table = {"dataset": "voc_blender", "partition": ["1-4"], "method": "u2pl"} | {key: []}
    with pytest.raises(ValueError, match=rf"tables\.table_7: {key}: \[\]; allowed"):
        resolve_table(PARAMS | {"tables": {"table_7": table}}, "table_7")


@pytest.mark.parametrize("own", [False, True])
def test_dvc_writes_params_back_as_they_are(own: bool, tmp_path: Path) -> None:
    """With the blocks of one's own, too: `dvc exp run -S` would rewrap what one has just edited."""
    project = Path(__file__).parents[2]
    text = params_text()
    for place, block in (("tables:\n", "table.yaml"), ("scales:\n", "scale.yaml")) if own else ():
        text = text.replace(f"\n{place}", f"\n{place}{(project / 'reports' / 'own' / block).read_text()}", 1)
    (tmp_path / "params.yaml").write_text(text)
    with modify_yaml(str(tmp_path / "params.yaml")) as params:
        params["seed"] = params["seed"]
    assert (tmp_path / "params.yaml").read_text() == text
