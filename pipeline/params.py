"""From `params.yaml` to resolved rows: one flat, explicit description of every cell of a table.

The file is read with YAML 1.2 rules, as DVC reads it (`1e-3` is a number, `1_8` is not). Nothing here has a default:
a value stands in the file, in one of four blocks that are laid over each other in this order:

1. `methods.<method>`                        what the paper or the released code says of a method
2. `methods.<method>.variants.<variant>`     e.g. the authors' own protocol, or the released code's semantics
3. `scales.<scale>.common`, `.<dataset>`     data, model and schedule; method values a scale must change
4. the row of the table                      what the table varies
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.labels import PARTITIONS, column_label, row_label

SECTIONS = ("data", "model", "training", "evaluation", "parameters")
ROW_KEYS = ("dataset", "partition", "method", "variant", "seed")
BLOCKS = ("scale", "seeds", "shown", "scales", "methods", "tables")
OF_THE_SCALE = ("common", "sources", "shown")
"""The keys of a scale that are no data set."""

AS_SCALE = "as the scale"
"""A value of a variant that undoes what the method's own schedule changed."""

EXPERIMENT = "experiment"
EXPERIMENT_METHOD = "u2pl"

DEFAULT = "default"
"""Value of a top-level key that leaves the scale's and the method's own; null is a value like any other."""


def load_params(path: Path) -> dict[str, Any]:
    """Read `params.yaml`. Raises ValueError where it is missing, no YAML, or lacks a block."""
    try:
        params = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(params, dict):
        raise ValueError(f"{path}: a mapping is expected, not {type(params).__name__}")
    for block in BLOCKS:
        if block not in params:
            raise ValueError(f"{path}: the block {block!r} is missing")
    choose(params["scale"], params["scales"], where=f"{path}: scale")
    return params


def choose(value: Any, allowed: Any, *, where: str) -> Any:
    """Return `value` if it is one of `allowed`, else raise ValueError naming value, place and what is allowed."""
    if isinstance(value, list | dict) or value not in allowed:
        raise ValueError(f"{where}: {value!r} is not known; allowed: {suggest(value, allowed)}")
    return value


def suggest(value: Any, allowed: Iterable[Any]) -> str:
    """Return what is allowed as a list, and which of it was perhaps meant by `value`."""
    words = list(map(str, allowed))
    near = get_close_matches(str(value), words, n=1)
    return ", ".join(words) + (f"; did you mean {near[0]}?" if near else "")


def resolve_table(params: dict[str, Any], table: str) -> list[dict[str, Any]]:
    """Return the resolved rows of one table, rows first, then columns, then seeds.

    A list under `partition` makes columns, a list under `seed` repeats, and every other list makes
    rows: all such lists have one length and are read side by side; null means "as the method has it".
    """
    if table == EXPERIMENT:
        row = _experiment_row(params)
        labels = ("method", "variant") if row.get("variant", DEFAULT) != DEFAULT else ()
        return [_resolve(params, row, table=table, varied=labels)]
    spec = _spec(params, choose(table, params["tables"], where="tables"))
    if empty := [key for key, value in spec.items() if value == []]:
        raise ValueError(f"tables.{table}: {', '.join(empty)}: []; allowed: a value, or a list of some")
    seeds = as_list(spec["seed"]) if "seed" in spec else _seeds(params["seeds"])
    varied = {key: value for key, value in spec.items() if isinstance(value, list) and key not in ("partition", "seed")}
    lengths = {key: len(values) for key, values in varied.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"tables.{table}: the lists that make rows differ in length: {lengths}")
    elsewhere = (*varied, "partition", "seed", "scale")
    fixed = {key: value for key, value in spec.items() if key not in elsewhere}
    num_rows = next(iter(lengths.values()), 1)
    rows = []
    for index, partition, seed in product(range(num_rows), as_list(spec["partition"]), seeds):
        chosen = {key: values[index] for key, values in varied.items() if values[index] is not None}
        rows.append(
            _resolve(params, fixed | chosen | {"partition": partition, "seed": seed}, table=table, varied=varied)
        )
    return rows


def _spec(params: dict[str, Any], table: str) -> dict[str, Any]:
    """Return what params.yaml says of a table. Raises ValueError where it does not say enough."""
    spec = params["tables"][table]
    needed = ("dataset", "partition", "method")
    if not isinstance(spec, dict) or not spec.keys() >= set(needed):
        raise ValueError(f"tables.{table}: {spec!r}; it needs {', '.join(needed)}")
    return spec


def _seeds(value: Any) -> list[Any]:
    """Return the seeds of tables that name none. Raises ValueError where it is no list: `seeds: 3` could mean three."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"seeds: {value!r}; a list is expected, three seeds are [0, 1, 2]")
    return value


def as_list(value: Any) -> list[Any]:
    """Return a list as it is and anything else as a list of one."""
    return value if isinstance(value, list) else [value]


def all_tables(params: dict[str, Any]) -> list[str]:
    """Return the names of all tables that this scale has the data of, the one-cell `experiment` last.

    A table that names a `scale` is of that scale alone.
    """
    scale, tables = params["scales"][params["scale"]], []
    for name in params["tables"]:
        spec = _spec(params, name)
        is_here = spec.get("scale", params["scale"]) == params["scale"]
        if choose(spec["dataset"], PARTITIONS, where=f"tables.{name}.dataset") in scale and is_here:
            tables.append(name)
    return [*tables, EXPERIMENT]


def _experiment_row(params: dict[str, Any]) -> dict[str, Any]:
    """Collect the top-level keys that are not `default`."""
    given = {key: value for key, value in params.items() if key not in BLOCKS}
    method = choose(given["method"], params["methods"], where="method")
    own, known = (params["methods"][name]["parameters"] for name in (method, EXPERIMENT_METHOD))
    row = {key: value for key, value in given.items() if key in ROW_KEYS}
    for key in [key for key in given if key not in ROW_KEYS]:
        choose(key, [*ROW_KEYS, "scale", *known], where="params.yaml: unknown top-level key")
        if given[key] != DEFAULT:
            if key not in own:
                raise ValueError(f"{key}={given[key]}: method {method!r} has no {key!r}; it has: {suggest(key, own)}")
            row[key] = given[key]
    return row


def _resolve(params: dict[str, Any], row: dict[str, Any], *, table: str, varied: Iterable[str]) -> dict[str, Any]:
    """Lay the four blocks over each other and describe the result. See the module docstring."""
    where = f"tables.{table}"
    method = choose(row.get("method"), params["methods"], where=f"{where}.method")
    scale = params["scales"][params["scale"]]
    datasets = [key for key in scale if key not in OF_THE_SCALE]
    dataset = choose(row.get("dataset"), datasets, where=f"{where}.dataset")
    partition = _partition(row["partition"], scale[dataset]["data"], dataset=dataset, where=where)
    block = params["methods"][method]
    merged: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    merged["parameters"] = copy.deepcopy(block["parameters"])
    source = choose(scale[dataset]["data"]["source"], scale["sources"], where=f"{where}: data.source of {dataset}")
    for layer in ({"data": scale["sources"][source]}, scale["common"], scale[dataset]):
        _lay(merged, {key: value for key, value in layer.items() if key != "methods"})
    variant = row.get("variant", DEFAULT)
    of_scale = copy.deepcopy(merged)
    _lay(merged, {"training": block.get("training")})
    if variant != DEFAULT:
        variants = block.get("variants", {})
        _lay(merged, variants[choose(variant, variants, where=f"{where}.variant of {method}")])
    for layer in (scale["common"], scale[dataset]):
        _lay(merged, layer.get("methods", {}).get(method, {}))
    _restore(merged, of_scale)
    for key, value in row.items():
        if key not in ROW_KEYS:
            _set(merged, key, value=value, where=f"{where}: method {method!r}")
    _refuse_nonfinite(merged, where)
    described = {"dataset": dataset, "partition": partition, "method": method, "seed": _seed(row["seed"], where)}
    networks = {"networks": block["networks"], "representation": block["representation"]}
    return {
        "table": table,
        "scale": params["scale"],
        "row": row_label(list(varied), {"method": method, "variant": variant} | row, parameters=merged["parameters"]),
        "column": column_label(dataset, partition, whole=merged["data"].get("absent") != "skip"),
        **described,
        **networks,
        **merged,
    }


def _partition(value: Any, data: dict[str, Any], *, dataset: str, where: str) -> str:
    """Return the name of a partition that the data set has: one of its `partitions`, else of the paper's."""
    own = [str(partition) for partition in data.get("partitions", ())]
    for partition in own if data["family"] == "seeded" else ():
        if not re.fullmatch(r"full|[1-9]\d*(-[1-9]\d*)?", partition):
            place = f"{dataset}.data.partitions: {partition!r}"
            raise ValueError(f"{place}; allowed are full, fractions such as 1-30, and counts such as 100")
    known = own or PARTITIONS[dataset]
    if str(value) not in known:
        message = f"{where}.partition of {dataset}: {str(value)!r} is not known; allowed: {', '.join(known)}"
        raise ValueError(f"{message}; add others to {dataset}.data.partitions")
    return str(value)


def _seed(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}.seed: {value!r}; a whole number of at least 0 is allowed")
    return value


def _lay(merged: dict[str, Any], layer: dict[str, Any] | None) -> None:
    """Lay one block over the others. Its keys are known ones: `check_blocks` refuses others."""
    for section, values in (layer or {}).items():
        merged[section] |= copy.deepcopy(values or {})


def _restore(merged: dict[str, Any], of_scale: dict[str, Any]) -> None:
    """Give back what the scale had wherever a method or variant says so."""
    for section, values in merged.items():
        for key in [key for key, value in values.items() if value == AS_SCALE]:
            values[key] = of_scale[section][key]


def _set(merged: dict[str, Any], key: str, *, value: Any, where: str) -> None:
    """Set the one section that has `key`: the method's own parameters first, then the schedule and the rest."""
    for section in ("parameters", "training", "evaluation", "model", "data"):
        if key in merged[section]:
            merged[section][key] = value
            return
    raise ValueError(f"{where} has no {key!r}; allowed: {suggest(key, [*merged['parameters'], *merged['training']])}")


def _refuse_nonfinite(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_nonfinite(inner, f"{where}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: {value} is not a finite number")
