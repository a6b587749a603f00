"""Rows: one JSON mapping for each cell of a table, resolved, measured, or a hole that says why it is one.

A measured row is the resolved row plus what came out; nothing here parses a name or asks a tracker.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

RESOLVED = ("table", "scale", "row", "column", "dataset", "partition", "method", "seed", "data", "model", "training")
MEASURED = ("key", "train_key", "state", "metrics", "train_s", "provenance")
SETTINGS = ("data", "model", "training", "parameters", "evaluation")
"""The sections of a row that hold what decides its figures."""

CALLED = ("title", "classes")
"""Keys of a data block that change no figure: how the data and their classes are called."""

STATES = ("done", "diverged")
MISSING = "missing"
"""The state of a hole: a resolved row plus `state` and `reason`."""

STALE = "measured under other values"
"""How the reason of a hole begins whose cell has changed since it was measured."""

OLDER = "older_code"
"""The field of a measured row that is true where its cell has another key today: the code that decides it changed."""

ASKED = "asked_key"
"""The field of a measured row that holds the key its cell has today; equal ones are one computation."""

NOISE_TABLE = "table_x3"
"""The table whose cells have several seeds; it lends its noise to tables that have one."""

EQUAL_STEPS_TABLE = "table_x2"
"""The table that has SupOnly with as many steps as the other methods train."""

NETWORKS = ("deployed", "student", "teacher")
EPOCHS = ("best", "last")
PADDINGS = ("padding_ignored", "padding_background")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Which of a row's figures a table shows. `deployed` is the last network of the row, the teacher if it has one."""

    network: str = "deployed"
    epoch: str = "best"
    padding: str = "padding_ignored"
    classes: tuple[int, ...] | None = None  # whose mean IoU is meant; None: all

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", None if self.classes is None else tuple(self.classes))
        for name, allowed in (("network", NETWORKS), ("epoch", EPOCHS), ("padding", PADDINGS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}: allowed are {', '.join(allowed)}")

    def __str__(self) -> str:
        padding = "padding ignored" if self.padding == "padding_ignored" else "padding counted as background"
        classes = "" if self.classes is None else f", mean of {len(self.classes)} classes"
        return f"{self.network} network, {self.epoch} epoch, {padding}{classes}"


BY_DEFAULT = Shown()


def read_shown(reports_dir: Path) -> Shown:
    """Read `reports/<scale>/shown.json`, which the `cells` stage writes from `params.yaml`."""
    return Shown(**json.loads((reports_dir / "shown.json").read_text(encoding="utf-8")))


def read_rows(path: Path, *, measured: bool = True) -> list[Row]:
    """Read `reports/<scale>/metrics/<table>.json`, or with `measured=False` `reports/<scale>/cells/<table>.json`.

    Raises ValueError naming file, row and field where the file is missing, torn or lacks something.
    """
    stage = f"{'evaluate' if measured else 'cells'}{f'@{path.stem}' if measured else ''}"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; `dvc repro {stage}` writes it") from None
    except ValueError as error:
        raise ValueError(f"{path}: torn or edited ({error}); `dvc repro -f {stage}` writes it again") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a list of rows is expected, not {type(rows).__name__}")
    for index, row in enumerate(rows):
        check_row(row, f"{path}, row {index}", measured=measured)
    return rows


def check_row(row: Any, where: str, *, measured: bool = True) -> None:
    """Raise ValueError unless `row` has the fields of a resolved (or measured) row and sane figures."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: a mapping is expected, not {type(row).__name__}")
    if lacking := [name for name in RESOLVED if name not in row]:
        raise ValueError(f"{where}: lacks {', '.join(lacking)}")
    if not row["row"] or not isinstance(row["row"], dict):
        raise ValueError(f"{where}: row = {row['row']!r}; the labels of its row are expected, e.g. {{'tau': '0.5'}}")
    if not measured or row.get("state") == MISSING:
        return
    if lacking := [name for name in MEASURED if name not in row]:
        raise ValueError(f"{where}: lacks {', '.join(lacking)}; is it a measured row?")
    if row["state"] not in STATES:
        raise ValueError(f"{where}: state = {row['state']!r}; allowed are {', '.join(STATES)}")
    if row["state"] == "diverged" and "diverged" not in row:
        raise ValueError(f"{where}: diverged, but does not say at which step")
    _check_metrics(row, where)


def _check_metrics(row: Row, where: str) -> None:
    if not row["metrics"] and row["state"] == "done":
        raise ValueError(f"{where}: done, but has no metrics")
    for network, epochs in row["metrics"].items():
        for epoch, paddings in epochs.items():
            for padding, figures in paddings.items():
                miou = figures.get("miou")
                if not isinstance(miou, int | float) or not math.isfinite(miou) or not 0 <= miou <= 100:
                    raise ValueError(f"{where}: metrics.{network}.{epoch}.{padding}.miou = {miou!r}; 0-100 is allowed")


def with_holes(
    cells: Iterable[Row],
    measured: Iterable[Row],
    *,
    reason: Callable[[Row], str],
    key_of: Callable[[Row], str | None] = lambda cell: None,
) -> list[Row]:
    """Return the measured row of every cell, in the cells' order, and a hole where there is none.

    A row measured under other values than the cell's is stale and counts as none; its hole says what changed.
    `reason(cell)` says why a cell was never measured; `key_of(cell)` is the key of its evaluation today, None where
    that is not known. A row with another key is kept and marked (`OLDER`), and so is one that lacks a setting: it came
    with newer code.
    """
    by_identity = {_identity(row): row for row in measured}
    found = []
    for cell in cells:
        if _identity(cell) not in by_identity:
            found.append(cell | {"state": MISSING, "reason": reason(cell)})
            continue
        row = _called_as(cell, by_identity[_identity(cell)])
        if all(_known(row.get(name), value, section=name) == row.get(name) for name, value in cell.items()):
            asked = key_of(cell) or row["key"]
            lacks = any(row.get(name) != value for name, value in cell.items())
            found.append(row | {ASKED: asked, OLDER: lacks or asked != row["key"]})
        else:
            changes = ", ".join(differing_settings(row, cell)) or "its cell changed"
            found.append(cell | {"state": MISSING, "reason": f"{STALE} ({changes})"})
    return found


def _called_as(cell: Row, row: Row) -> Row:
    """Return a measured row whose data and classes are called as its cell has it now."""
    content = {name: value for name, value in row["data"].items() if name not in CALLED}
    return row | {"data": content | {name: cell["data"][name] for name in CALLED if name in cell["data"]}}


def has_equal_steps(folder: Path) -> bool:
    """Tell whether a scale's reports have the table of SupOnly with equal steps."""
    return (folder / "cells" / f"{EQUAL_STEPS_TABLE}.json").exists()


def read_noise_rows(folder: Path) -> list[Row]:
    """Read the rows of several seeds of a scale's reports, without figures where their cells changed since; or none."""
    cells, measured = (folder / part / f"{NOISE_TABLE}.json" for part in ("cells", "metrics"))
    if not measured.exists() or not cells.exists():
        return read_rows(measured) if measured.exists() else []
    return with_holes(read_rows(cells, measured=False), read_rows(measured), reason=lambda _: "not measured")


def _known(measured: Any, asked: Any, *, section: str) -> Any:
    """Return of the settings asked for those that a measured row has too."""
    if section not in SETTINGS or not isinstance(measured, dict):
        return asked
    return {name: value for name, value in asked.items() if name in measured}


def differing_settings(row_a: Row, row_b: Row) -> list[str]:
    """Return the settings in which two rows differ, each as `training.lr: 0.1 → 0.2`."""
    changes = []
    for section in SETTINGS:
        values_a, values_b = row_a.get(section, {}), row_b.get(section, {})
        for key in dict.fromkeys([*values_a, *values_b]):
            a, b = values_a.get(key, "unset"), values_b.get(key, "unset")
            if a != b:
                changes.append(f"{section}.{key}: {a} → {b}")
    return changes


def data_of(row: Row) -> str:
    """Return the name of the data that a row was measured on, which may only play the role in `row["dataset"]`."""
    return row["data"].get("title", row["data"]["name"])


def num_labelled(row: Row) -> int | None:
    """Return how many labelled images a row trained on where its images are drawn; None where lists say it.

    Of the pool that is labelled from, the partition's fraction, rounded up as the published counts are.
    """
    data, (share, _, whole) = row["data"], row["partition"].partition("-")
    if "num_fine" not in data:
        return None
    pool = data["num_fine"] + (0 if data["labelled_from"] == data["fine"] else data["num_coarse"])
    if row["partition"] == "full":
        return pool
    return -(-pool * int(share) // int(whole)) if whole else int(share)


def _identity(row: Row) -> str:
    return json.dumps([row["row"], row["column"], row["seed"]], sort_keys=True)


def network_of(row: Row, network: str) -> str | None:
    """Return the key in `metrics` that `network` means for this row, or None where the method has no such network."""
    if network == "deployed":
        return list(row["metrics"])[-1] if row["metrics"] else None
    return network if network in row["metrics"] else None


def figures_of(row: Row, shown: Shown) -> dict[str, Any] | None:
    """Return the chosen `{"miou", "iou"}` of a row, or None where it has none."""
    if row["state"] == MISSING:
        return None
    network = network_of(row, shown.network)
    if network is None:
        return None
    figures = row["metrics"][network].get(shown.epoch, {}).get(shown.padding)
    if figures is None or shown.classes is None:
        return figures
    chosen = [figures["iou"][index] or 0.0 for index in shown.classes]  # as everywhere, an absent class counts 0
    return figures | {"miou": sum(chosen) / len(chosen)}


def why_missing(row: Row, shown: Shown) -> str:
    """Say why `figures_of(row, shown)` is None."""
    if row["state"] == MISSING:
        return str(row["reason"])
    if not row["metrics"]:
        return f"diverged at step {row['diverged']['step']}, before its first evaluation"
    if network_of(row, shown.network) is None:
        return f"{row['method']} has no {shown.network}"
    return f"no figure for: {shown}"


def canonical(labels: dict[str, Any], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the labels called `names` in one order and spelling, so that `1e-3`, `0.001` and 0.001 are one row."""
    return tuple((name, _spelling(labels[name])) for name in names)


def _spelling(value: Any) -> str:
    try:
        return f"{float(value):.12g}"
    except (TypeError, ValueError):
        return str(value)
