"""How the blocks of params.yaml lie over each other, and what is said of a key that none of them has."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline.check import check_blocks
from pipeline.params import all_tables, resolve_table

MINE = {"dataset": "voc_blender", "partition": "1-4", "method": "u2pl", "variant": "mine"}

OF_A_SCHEDULE = (
    "scales.smoke.common.training",
    "scales.smoke.voc_blender.training",
    "methods.u2pl.training",
    "methods.u2pl.variants.mine.training",
    "scales.smoke.common.methods.u2pl.training",
    "scales.smoke.voc_blender.methods.u2pl.training",
    "tables.mine",
)
"""Where the value of a schedule may stand, the weakest first."""

OF_A_METHOD = (
    "methods.u2pl.parameters",
    "methods.u2pl.variants.mine.parameters",
    "scales.smoke.common.methods.u2pl.parameters",
    "scales.smoke.voc_blender.methods.u2pl.parameters",
    "tables.mine",
)
"""Where the value of a method may stand, the weakest first."""

NEAR = {"parameters": "alpha0", "training": "power", "evaluation": "select_mode", "model": "decoder_channels"} | {
    "data": "partition_seed"
}
"""A key of each section."""


@pytest.fixture
def mine(params: dict[str, Any]) -> dict[str, Any]:
    """The project's params with a table `mine` of one row, of a variant `mine` of U2PL that says nothing yet."""
    params["tables"]["mine"] = dict(MINE)
    params["methods"]["u2pl"]["variants"]["mine"] = {}
    return params


def put(params: dict[str, Any], place: str, **values: Any) -> None:
    """Set values at a dotted place, whose blocks are made where they are not."""
    block = params
    for name in place.split("."):
        block = block.setdefault(name, {})
    block |= values


@pytest.mark.parametrize("count", range(1, len(OF_A_SCHEDULE) + 1))
def test_of_the_places_of_a_schedules_value_the_last_wins(count: int, mine: dict[str, Any]) -> None:
    for number, place in enumerate(OF_A_SCHEDULE[:count], start=1):
        put(mine, place, power=number)
    (row,) = resolve_table(mine, "mine")
    assert row["training"]["power"] == count


@pytest.mark.parametrize("count", range(1, len(OF_A_METHOD) + 1))
def test_of_the_places_of_a_methods_value_the_last_wins(count: int, mine: dict[str, Any]) -> None:
    for number, place in enumerate(OF_A_METHOD[:count], start=1):
        put(mine, place, temperature=number)
    (row,) = resolve_table(mine, "mine")
    assert row["parameters"]["temperature"] == count


def test_what_lies_elsewhere_is_not_laid(mine: dict[str, Any]) -> None:
    """Another variant, another method's values, another data set's, another scale's."""
    (before,) = resolve_table(mine, "mine")
    for place in ("methods.u2pl.variants.released", "methods.cutmix", "scales.smoke.common.methods.cutmix"):
        put(mine, f"{place}.training", power=5)
    for place in ("smoke.voc_classic.training", "smoke.cityscapes.methods.u2pl.training", "paper.common.training"):
        put(mine, f"scales.{place}", power=6)
    assert resolve_table(mine, "mine") == [before]


def test_as_the_scale_undoes_what_the_method_changed_and_not_what_lies_above(mine: dict[str, Any]) -> None:
    put(mine, "scales.smoke.voc_blender.training", power=2)
    put(mine, "methods.u2pl.training", power=3, lr=3)
    put(mine, "methods.u2pl.variants.mine.training", power="as the scale", lr="as the scale")
    put(mine, "scales.smoke.common.methods.u2pl.training", lr=5)
    (row,) = resolve_table(mine, "mine")
    assert (row["training"]["power"], row["training"]["lr"]) == (2, 5)


def test_a_row_shares_nothing_with_the_file_or_another_row(mine: dict[str, Any]) -> None:
    mine["tables"]["mine"]["seed"] = [0, 1]
    kept = copy.deepcopy(mine)
    one, other = resolve_table(mine, "mine")
    for section in ("data", "model", "training", "evaluation", "parameters"):
        one[section]["changed"] = True
    one["model"]["encoder"]["blocks"].append(1)
    assert mine == kept
    assert resolve_table(mine, "mine")[1] == other


def test_seeds_of_the_top_level_repeat_every_row_of_tables_that_name_none(params: dict[str, Any]) -> None:
    for table in all_tables(params):
        once, twice = (resolve_table(params | {"seeds": seeds}, table) for seeds in ([0], [0, 1]))
        names_its_own = table == "experiment" or "seed" in params["tables"][table]
        assert len(twice) == len(once) * (1 if names_its_own else 2), table
        if not names_its_own:
            assert twice[::2] == once
            assert [row | {"seed": 0} for row in twice[1::2]] == once
            assert [row["seed"] for row in twice] == [0, 1] * len(once)


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("methods.u2pl", "parameters"),
        ("methods.u2pl.parameters", "alpha0"),
        ("methods.u2pl.training", "power"),
        ("methods.u2pl.variants.mine", "parameters"),
        *((f"methods.u2pl.variants.mine.{section}", near) for section, near in NEAR.items()),
        ("scales.smoke.sources.voc", "num_classes"),
        ("scales.smoke.voc_blender.methods.u2pl", "parameters"),
        *((f"scales.smoke.common.methods.u2pl.{section}", near) for section, near in NEAR.items()),
        *((f"scales.smoke.{place}.methods", "cutmix") for place in ("common", "voc_blender")),
        *((f"scales.smoke.common.{section}", near) for section, near in NEAR.items() if section != "parameters"),
        ("scales.smoke.common", "training"),
        ("scales.smoke", "voc_classic"),
        ("scales.paper.common.training", "epoch_over"),  # nor is it the scale that is run
        ("scales.laptop.shown", "epoch"),
    ],
)
def test_a_misspelt_key_is_refused_with_its_place_and_what_was_meant(
    place: str, near: str, mine: dict[str, Any]
) -> None:
    check_blocks(mine)
    wrong = f"{near[:-1]}_{near[-1]}"
    put(mine, place, **{wrong: {}})
    with pytest.raises(ValueError, match=rf"^{place}: '{wrong}' is not known; allowed: .*; did you mean {near}\?$"):
        check_blocks(mine)


@pytest.mark.parametrize("names", ["sky", ["sky"], ["sky", "sky"], ["sky", 1], []])
def test_names_of_classes_are_as_many_as_there_are_classes(names: object, mine: dict[str, Any]) -> None:
    put(mine, "scales.smoke.sources.voc", num_classes=2, classes=["sky", "tree"])
    check_blocks(mine)
    put(mine, "scales.smoke.sources.voc", classes=names)
    with pytest.raises(
        ValueError, match=r"^scales\.smoke\.sources\.voc\.classes: .*; null, or a list of 2 different names"
    ):
        check_blocks(mine)


def test_a_misspelt_key_of_a_row_is_refused_with_what_was_meant(mine: dict[str, Any]) -> None:
    put(mine, "tables.mine", powr=1)
    message = r"^tables\.mine: method 'u2pl' has no 'powr'; allowed: alpha0, .*; did you mean power\?$"
    with pytest.raises(ValueError, match=message):
        resolve_table(mine, "mine")


@pytest.mark.parametrize("place", ["scales.paper.common.training", "methods.cct.variants.official"])
def test_a_block_that_is_no_mapping_is_named(place: str, mine: dict[str, Any]) -> None:
    above, _, name = place.rpartition(".")
    put(mine, above, **{name: 3})
    with pytest.raises(ValueError, match=rf"^{place}: 3; a mapping is expected$"):
        check_blocks(mine)


@pytest.mark.parametrize("seeds", [3, [], None])
def test_seeds_are_a_list(seeds: Any, mine: dict[str, Any]) -> None:
    """`seeds: 3` could mean three of them."""
    with pytest.raises(ValueError, match=r"^seeds: .*; a list is expected, three seeds are \[0, 1, 2\]$"):
        resolve_table(mine | {"seeds": seeds}, "mine")
    mine["tables"]["mine"]["seed"] = 3
    (row,) = resolve_table(mine | {"seeds": seeds}, "mine")
    assert row["seed"] == 3
