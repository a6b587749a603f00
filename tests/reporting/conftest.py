"""Rows as the pipeline writes them, made by hand: resolved rows of the paper's tables and measured ones."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.reporting.page import write_report
from pipeline.reporting.rows import Shown

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
DATASETS = {"table_1": "voc_classic", "table_3": "cityscapes"} | {f"table_a{n}": "cityscapes" for n in (2, 3, 7, 8)}
METHODS = {
    "SupOnly": "suponly",
    "MT": "mean_teacher",
    "CutMix": "cutmix",
    "U2PL (w/ CutMix)": "u2pl",
    "U2PL (w/ L_c)": "u2pl",
    "U2PL (w/ L_b)": "u2pl",
}
RATES = {"1e-1": 100, "1e-2": 10, "1e-3": 1, "1e-4": 0.1, "1e-5": 0.01}

FEW = ("table_2", "table_7", "table_a2", "table_a6", "table_x3")

Row = dict[str, Any]


@pytest.fixture(scope="session")
def published_dir() -> Path:
    return PUBLISHED


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    return measured_row


@pytest.fixture(scope="session")
def make_table() -> Callable[..., list[Row]]:
    return table_rows


@pytest.fixture(scope="session")
def make_reports() -> Callable[[Path], Path]:
    return write_reports


@pytest.fixture
def reports_dir(tmp_path: Path) -> Path:
    """A whole `reports/embedded` with every table of the paper, seeds in table_x3, a diverged run and a hole."""
    return write_reports(tmp_path / "embedded")


@pytest.fixture
def few(reports_dir: Path) -> Path:
    """`reports_dir` with a table of each kind only: figures cost time."""
    for path in [*reports_dir.glob("cells/*.json"), *reports_dir.glob("metrics/*.json")]:
        if path.stem not in FEW:
            path.unlink()
    return reports_dir


@pytest.fixture
def page_of(few: Path) -> Callable[..., str]:
    def page(**choices: Any) -> str:
        return write_page(few, **choices).read_text(encoding="utf-8")

    return page


def write_page(folder: Path, **choices: Any) -> Path:
    """The page of a scale whose curves are not at hand and whose cells have the keys under which they were measured."""
    known = {
        "shown": Shown(),
        "curves": lambda _: None,
        "reason": lambda _: "not measured yet",
        "key_of": lambda _: None,
    }
    return write_report(folder, **(known | choices))


def resolved_row(table: str, labels: dict[str, str], column: str, *, seed: int = 0, **changes: Any) -> Row:
    dataset = DATASETS.get(table, "voc_blender")
    name = labels.get("method", "U2PL (w/ CutMix)")
    method = METHODS.get(name, name.lower().split(" ")[0])
    row = {
        "table": table,
        "scale": "embedded",
        "row": labels,
        "column": column,
        "dataset": dataset,
        "partition": column.partition(" ")[0].replace("/", "-").lower(),
        "method": method,
        "seed": seed,
        "data": {"name": "streets" if dataset == "cityscapes" else "shapes", "crop": 64},
        "model": {"width": 16, "stem": "7x7", "aspp_rates": [2, 4, 6]},
        "training": {"lr": 0.006, "lr_factor": RATES.get(labels.get("lr_base", ""), 1), "epochs": 20},
        "parameters": {"alpha0": 0.2, "tau": 0.5} if method == "u2pl" else {},
        "evaluation": {"mode": "whole"},
    }
    return row | changes


def measured_row(table: str, labels: dict[str, str], column: str, *, miou: float, seed: int = 0, **changes: Any) -> Row:
    row = resolved_row(table, labels, column, seed=seed)
    spread = np.random.default_rng(int(miou * 100)).normal(0, 9, 21)
    iou = np.clip(miou + spread - spread.mean(), 0, 100).round(2)
    figures: dict[str, Row] = {"padding_ignored": {"miou": miou, "iou": [*iou[:20].tolist(), None]}}
    figures["padding_background"] = {"miou": miou + 0.1, "iou": iou.tolist()}
    lower = {padding: each | {"miou": max(each["miou"] - 1, 0)} for padding, each in figures.items()}
    metrics = {"student": {"best": lower, "last": lower}}
    if row["method"] != "suponly":
        metrics["teacher"] = {"best": figures, "last": lower}
    else:
        metrics["student"] = {"best": figures, "last": lower}
    identity = f"{row['method']}{row['parameters']}{row['training']}{row['partition']}{row['dataset']}{seed}"
    key = np.random.default_rng(list(identity.encode())).bytes(32).hex()
    measured = {
        "key": key,
        "train_key": key[::-1],
        "state": "done",
        "metrics": metrics,
        "best_epoch": 18,
        "steps": 400,
        "train_s": 30.0,
        "evaluate_s": 1.5,
        "peak_memory_mib": 837.1,
        "cost_units": 4.515 if row["method"] == "u2pl" else 1.0,
        "provenance": {
            "commit": "0f3c2a9d1b7e4c55aa0199e2d7f0c3b4a5968712",
            "dirty": False,
            "node": "n001",
            "job": "local-4711",
            "gpu": "",
            "versions": {"python": "3.11.9", "torch": "2.14.1"},
            "restarts": 0,
            "started": 1767607200.4,  # 2026-01-05 10:00:00 UTC
            "ended": 1767607230.9,
        },
    }
    return row | measured | changes


def table_rows(table: str, *, seeds: tuple[int, ...] = (0,)) -> list[Row]:
    """Measured rows of the paper's table for the methods of `METHODS`: plausible figures, mostly in its order."""
    rows = []
    with (PUBLISHED / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            columns = [name for name in record if name.endswith(")")]
            labels = {name: text for name, text in record.items() if name not in (*columns, "reproduced_by_authors")}
            if "method" in labels and labels["method"] not in METHODS:
                continue
            for column in columns:
                for seed in seeds:
                    words = f"{table}{labels}{column}{seed}"
                    chance = np.random.default_rng(list(words.encode())).normal(0, 0.5)
                    miou = round(max(0.4, 22 + 0.55 * float(record[column]) + chance), 4)
                    rows.append(measured_row(table, labels, column, miou=miou, seed=seed))
    return rows


def write_reports(folder: Path) -> Path:
    for name in ("cells", "metrics"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cell = {"a": "b"}, "c (1)"
    measured_only = set(measured_row("t", *cell, miou=1)) - set(resolved_row("t", *cell))
    shutil.copytree(PUBLISHED, folder.parent / "published")
    for path in sorted(PUBLISHED.glob("table_*.csv")):
        if path.stem == "table_a1_hyperparameters":
            continue
        rows = table_rows(path.stem)
        if path.stem == "table_a5":
            rows[0] |= {"state": "diverged", "diverged": {"step": 41, "losses": {"supervised": "nan"}}}
        _write(folder, path.stem, rows, measured_only)
    seeds = [row | {"table": "table_x3"} for row in table_rows("table_2", seeds=(0, 1, 2))]
    seeds = [row for row in seeds if row["partition"] in ("1-8", "1-4")]
    _write(folder, "table_x3", seeds, measured_only)
    kept = json.loads((folder / "metrics" / "table_7.json").read_text())[1:]
    (folder / "metrics" / "table_7.json").write_text(json.dumps(kept))
    return folder


def _write(folder: Path, table: str, rows: list[Row], measured_only: set[str]) -> None:
    cells = [{name: value for name, value in row.items() if name not in {*measured_only, "diverged"}} for row in rows]
    (folder / "cells" / f"{table}.json").write_text(json.dumps(cells))
    (folder / "metrics" / f"{table}.json").write_text(json.dumps(rows))
