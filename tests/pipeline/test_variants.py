"""Variants are the authors' own settings, and data sets have the values that methods have on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.check import check_table
from pipeline.params import resolve_table
from pipeline.training.setting import check_row
from tests.methods import official
from tests.params import project_params

PROJECT = Path(__file__).parents[2]


def row_of(method: str, variant: str = "default", *, dataset: str = "voc_blender", scale: str = "paper") -> Any:
    params = project_params(scale)
    params["tables"]["mine"] = {"dataset": dataset, "partition": "1-8", "method": method, "variant": variant}
    (row,) = resolve_table(params, "mine")
    return row


def test_the_official_variant_is_the_authors_settings() -> None:
    for name, block in project_params()["methods"].items():
        authors = getattr(official, name.upper(), None)
        if authors is not None and "official" in block["variants"]:
            changed = block["parameters"] | block["variants"]["official"].get("parameters", {})
            plain = {key: list(value) if isinstance(value, tuple) else value for key, value in authors.items()}
            assert {key: changed[key] for key in plain} == plain, name


@pytest.mark.parametrize(
    "method", ["cct", "gct", "pseudoseg", "pc2seg", "cps", "ael", "u2pl_ael", "unimatch", "unimatch_v2", "augseg"]
)
def test_an_official_variant_changes_settings_and_can_be_built(method: str) -> None:
    params = project_params("embedded")
    names = [name for name in params["methods"][method]["variants"] if name.startswith("official")]
    assert "official" in names
    for variant in ["default", *names]:
        dataset = "cityscapes" if variant.endswith("cityscapes") else "voc_blender"
        params["tables"]["mine"] = {"dataset": dataset, "partition": "1-8", "method": method, "variant": variant}
        (row,) = resolve_table(params, "mine")
        check_row(row)
        if variant == "default":
            default = row
        else:
            assert (row["parameters"], row["training"]) != (default["parameters"], default["training"])


@pytest.mark.parametrize("method", ["cps", "unimatch", "augseg"])
@pytest.mark.parametrize("dataset", ["voc_blender", "cityscapes"])
def test_whose_authors_have_a_lighter_network_have_it_as_official(method: str, dataset: str) -> None:
    variant = "official_cityscapes" if dataset == "cityscapes" else "official"
    network = {"output_stride": 16, "aspp_rates": [6, 12, 18], "low_level_channels": 48, "auxiliary": False}
    assert network.items() <= row_of(method, variant, dataset=dataset)["model"].items()


def test_pixels_kept_are_counted_over_the_whole_batch_of_all_gpus() -> None:
    for method in ("unimatch", "unimatch_v2"):  # 200,000 on each of four
        row = row_of(method, "official_cityscapes", dataset="cityscapes")
        assert row["training"]["ohem_min_kept"] == 4 * 200_000
    for variant, dataset in (
        ("official", "voc_blender"),
        ("official_cityscapes", "cityscapes"),
    ):  # 100,000 on each of 8
        assert row_of("ael", variant, dataset=dataset)["training"]["ohem_min_kept"] == 8 * 100_000


def test_ael_has_the_areas_of_the_data_set() -> None:
    names = ("num_pasted_classes", "presence_area", "region_area")
    for method in ("ael", "u2pl_ael"):
        for dataset, expected in {"voc_classic": (1, 0.03, 0.03), "cityscapes": (3, 0.01, 0.005)}.items():
            parameters = row_of(method, dataset=dataset)["parameters"]
            assert tuple(parameters[name] for name in names) == expected
    city = row_of("ael", "official_cityscapes", dataset="cityscapes")
    own = official.AEL | dict(zip(names, (3, 0.01, 0.005), strict=True)) | {"confidence_threshold": 0.0}
    assert city["parameters"] == own
    assert (city["training"]["crop"], city["training"]["epochs"]) == (769, 200)
    # Losses are divided by eight GPUs once too often, the weight decay is not: their product stays.
    for row in (city, row_of("u2pl_ael", "official", dataset="cityscapes")):
        assert row["training"]["lr"] == 0.01 / 8
        assert row["training"]["lr"] * row["training"]["weight_decay"] == pytest.approx(0.01 * 0.0001)


def test_cps_has_the_rates_that_its_authors_ranks_come_to() -> None:
    """Losses are divided by their number once too often, the weight decay is not; on VOC the rate makes up for it."""
    voc, city = row_of("cps", "official"), row_of("cps", "official_cityscapes", dataset="cityscapes")
    assert (voc["training"]["lr"], voc["training"]["weight_decay"]) == pytest.approx((0.0025, 4 * 0.0001))
    assert (city["training"]["lr"], city["training"]["weight_decay"]) == pytest.approx((0.02 / 8, 8 * 0.0001))


SCHEDULES = {
    ("cct", "official"): (320, 10, 80, 0.001, 10, 0.0001),
    ("gct", "official"): (321, 8, 20, 0.001, 10, 0.0005),
    ("pseudoseg", "official"): (513, 64, 30, 0.007, 1, 0.0001),
    ("pc2seg", "official"): (513, 64, 30, 0.007, 1, 0.0001),
    ("cps", "official"): (512, 8, 34, 0.0025, 1, 0.0004),
    ("cps", "official_cityscapes"): (800, 8, 137, 0.0025, 1, 0.0008),
    ("ael", "official"): (513, 16, 80, 0.00125, 10, 0.0008),
    ("ael", "official_cityscapes"): (769, 16, 200, 0.00125, 10, 0.0008),
    ("u2pl_ael", "official"): (513, 16, 80, 0.00125, 10, 0.0008),
    ("unimatch", "official"): (321, 8, 80, 0.001, 10, 0.0001),
    ("unimatch", "official_cityscapes"): (801, 8, 240, 0.005, 1, 0.0001),
    ("unimatch_v2", "official"): (518, 16, 60, 0.000005, 40, 0.01),
    ("unimatch_v2", "official_cityscapes"): (798, 8, 180, 0.000005, 40, 0.01),
    ("augseg", "official"): (512, 16, 80, 0.001, 10, 0.0001),
    ("augseg", "official_cityscapes"): (800, 16, 240, 0.01, 10, 0.0005),
}
"""Crop, images of either kind a step, epochs, rate, the heads' over it, decay: as tests/methods/official.py has it."""


@pytest.mark.parametrize(("method", "variant"), SCHEDULES)
def test_an_official_schedule_is_the_authors_without_a_warm_start(method: str, variant: str) -> None:
    dataset = "cityscapes" if variant.endswith("cityscapes") else "voc_blender"
    training = row_of(method, variant, dataset=dataset)["training"]
    keys = ("crop", "labelled_batch", "epochs", "lr", "head_lr_factor", "weight_decay")
    assert tuple(training[key] for key in keys) == SCHEDULES[method, variant]
    assert training["unlabelled_batch"] == training["labelled_batch"]
    assert training["warm_start_epochs"] == 0
    assert training["optimiser"] == ("adamw" if method == "unimatch_v2" else "sgd")
    assert training["steps_per_epoch"] == (1000 if method in ("pseudoseg", "pc2seg") else None)
    by_hard_pixels = dataset == "cityscapes" or method == "ael"
    assert training["criterion"] == ("ohem" if by_hard_pixels else "ce")


def test_every_official_variant_has_its_schedule_here() -> None:
    methods = project_params()["methods"].items()
    found = {(name, variant) for name, block in methods for variant in block.get("variants", {})}
    assert {place for place in found if place[1].startswith("official")} == set(SCHEDULES)


def test_cct_has_a_tenth_of_its_authors_rate_in_the_encoder() -> None:
    training = row_of("cct", "official")["training"]
    assert (training["lr"], training["head_lr_factor"]) == (0.001, 10)


@pytest.mark.parametrize("scale", ["smoke", "embedded", "paper"])
def test_cityscapes_has_no_background_whose_queue_is_longer(scale: str) -> None:
    for method in ("u2pl", "u2pl_ael"):
        parameters = row_of(method, dataset="cityscapes", scale=scale)["parameters"]
        assert parameters["queue_size_class_0"] == parameters["queue_size"]
        voc = row_of(method, scale=scale)["parameters"]
        assert voc["queue_size_class_0"] > voc["queue_size"]


def test_as_released_padding_is_background_where_the_best_epoch_is_chosen_too() -> None:
    for variant, padding, select in (("default", 255, "padding_ignored"), ("released", 0, "padding_background")):
        row = row_of("u2pl", variant)
        assert (row["training"]["pad_label"], row["evaluation"]["select"]) == (padding, select)


def test_the_experiment_takes_a_variant_and_says_so(params: dict[str, Any]) -> None:
    (plain,) = resolve_table(params, "experiment")
    (released,) = resolve_table(params | {"variant": "released"}, "experiment")
    check_table([released])
    assert plain["row"] == {"method": "U2PL (w/ CutMix)"}
    assert released["row"] == {"method": "U2PL (w/ CutMix)", "variant": "released"}
    assert released["parameters"]["anchors"] == "lowest"
    with pytest.raises(ValueError, match="variant of u2pl: 'official' is not known; allowed: released"):
        resolve_table(params | {"variant": "official"}, "experiment")
