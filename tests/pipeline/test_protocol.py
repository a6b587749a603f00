"""One protocol: what the methods of a table are compared under is the same for all, and what differs is named here."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.data import embedded_shapes, embedded_streets
from pipeline.params import all_tables, load_params, resolve_table
from tests.params import FILE, project_params

SCALES = list(load_params(FILE)["scales"])
VARY_IT = ("experiment", "table_a5", "table_x1", "table_x2")
"""Tables whose purpose is another schedule, or the released code's."""

UNCHANGED = ("-", "fixmatch", "equal_steps")
"""Variants of the other tables that leave the protocol as it is."""

OF_SUPONLY = {"epoch_over", "steps_per_epoch", "ohem_min_kept"}
"""As published it passes over its labelled list, so takes fewer steps, and ran on half as many GPUs on Cityscapes."""

TEACHERS = ("mean_teacher", "cutmix", "u2pl", "ael", "u2pl_ael")
"""Whose teachers the paper and the released code move alike; others have their authors' decay."""


def rows_of(scale: str) -> list[dict[str, Any]]:
    """The rows of a scale's tables that are under the protocol."""
    params = project_params(scale)
    tables = [table for table in all_tables(params) if table not in VARY_IT]
    rows = [row for table in tables for row in resolve_table(params, table)]
    return [row for row in rows if row["row"].get("variant", "-") in UNCHANGED]


@pytest.mark.parametrize("scale", SCALES)
def test_rows_on_one_data_set_have_one_network_schedule_and_measure(scale: str) -> None:
    found: dict[str, list[Any]] = {}
    own: dict[str, list[Any]] = {}
    for row in rows_of(scale):
        shared = {key: value for key, value in row["training"].items() if key not in OF_SUPONLY}
        found.setdefault(row["dataset"], []).append([row["data"], row["model"], row["evaluation"], shared])
        if row["method"] != "suponly":
            own.setdefault(row["dataset"], []).append({key: row["training"][key] for key in OF_SUPONLY})
    for same in (*found.values(), *own.values()):
        assert same == same[:1] * len(same)


@pytest.mark.parametrize("scale", SCALES)
def test_what_u2pl_is_compared_with_has_its_teacher_its_mixing_and_its_weight(scale: str) -> None:
    rows = [row["parameters"] for row in rows_of(scale) if row["method"] in TEACHERS]
    for key in ("decay", "mix_probability", "weight"):
        values = [parameters[key] for parameters in rows if key in parameters]
        assert len(values) > 1
        assert values == values[:1] * len(values), key


def test_no_crop_of_the_embedded_data_goes_beyond_its_image() -> None:
    """As the words of Table X1 say, whose row with learnt padding so equals the default's."""
    smallest = {"voc_blender": min(embedded_shapes.SIZE), "cityscapes": min(embedded_streets.SIZE)}
    for row in rows_of("embedded"):
        training = row["training"]
        assert training["crop"] <= smallest.get(row["dataset"], min(embedded_shapes.SIZE)) * training["scale_min"]
