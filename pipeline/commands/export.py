"""The forms in which a trained network leaves the project: a torch.export program, ONNX, an MLflow model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.reporting.provenance import commit_of
from pipeline.store import Store
from pipeline.tracking.database import Database, tracking_uri
from pipeline.trained.card import write_card
from pipeline.trained.predict import Trained, export, load_trained

Size = tuple[int, int]


def export_as(form: str, folder: Path, *, out: Path, choice: tuple[str, str], size: Size, store: Store) -> list[str]:
    """Write one form of the trained cell in `folder`, and its model card, into `out`; return where they are.

    `choice` is the epoch and the network, `size` height and width in pixels. An MLflow model comes with the program
    that it runs, and is logged to the cell's run where MLflow has one.
    """
    if min(size) < 1:
        raise ValueError(f"--size {size[0]} {size[1]}; height and width of at least 1 pixel are allowed")
    trained = load_trained(folder, epoch=choice[0], network=choice[1])
    places = _write(form, trained, out=out, folder=folder, size=size, store=store)
    cell, result = read_json(folder / "cell.json") or {}, read_json(folder / "result.json") or {}
    commit = commit_of(result.get("provenance", {}))
    facts = {"cell": cell["key"], "commit": commit, "steps": result.get("steps")}
    figures = find_figures(store, cell["key"], trained=trained)
    return [*places, str(write_card(trained, out, form=form, size=size, facts=facts, figures=figures))]


def find_figures(store: Store, train_key: str, *, trained: Trained) -> dict[str, Any] | None:
    """Return `{"miou", "iou"}` of this network as an `evaluate` cell of the store measured it, or None."""
    for path in (store.root / "done").glob("*/cell.json"):
        cell = read_json(path)
        if cell and cell["kind"] == "evaluate" and cell["upstream"] == [train_key]:
            metrics = (read_json(path.with_name("result.json")) or {}).get("metrics", {})
            paddings = metrics.get(trained.name, {}).get(trained.epoch, {})
            return paddings.get(trained.values["evaluation"]["select"])
    return None


def _write(form: str, trained: Trained, *, out: Path, folder: Path, size: Size, store: Store) -> list[str]:
    height, width = size
    if form == "onnx":
        from pipeline.trained.onnx import export_onnx

        return [str(export_onnx(trained, out, height=height, width=width))]
    program = export(trained, out, height=height, width=width)
    if form == "program":
        return [str(program)]
    from pipeline.trained.mlflow_model import log_mlflow_model, save_mlflow_model

    places = [str(save_mlflow_model(program, out, height=height, width=width))]
    key = json.loads((folder / "cell.json").read_text(encoding="utf-8"))["key"]
    database = Database(tracking_uri(store.root), os.environ.get("MLFLOW_EXPERIMENT_NAME", "u2pl"))
    if run := database.find(key, str(store.root.resolve())):
        facts = {"uri": database.uri, "experiment": database.experiment, "run_id": run[0]}
        places.append(log_mlflow_model(program, **facts, size=size))
    return places
