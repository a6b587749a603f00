"""The forms in which a trained network leaves the project: a torch.export program, ONNX, an MLflow model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pipeline.files import read_json
from pipeline.reporting.provenance import commit_of
from pipeline.store import Store
from pipeline.tracking.database import Database, tracking_uri
from pipeline.trained.card import write_card
from pipeline.trained.predict import Trained
from pipeline.trained.program import Size, export


def export_as(form: str, trained: Trained, *, out: Path, size: Size | None, store: Store) -> list[str]:
    """Write one form of a trained network, and its model card, into `out`; return where they are.

    `size` is that of the images, None for any. An MLflow model comes with the program that it runs, and is logged to
    the cell's run where MLflow has one.
    """
    if size and min(size) < 1:
        raise ValueError(f"--size {size[0]} {size[1]}; height and width of at least 1 pixel are allowed")
    places = _write(form, trained, out=out, size=size, store=store)
    commit = commit_of(trained.result.get("provenance", {}))
    facts = {"cell": trained.key, "commit": commit, "steps": trained.result.get("steps")}
    figures = find_figures(store, trained)
    return [*places, str(write_card(trained, out, form=form, size=size, facts=facts, figures=figures))]


def find_figures(store: Store, trained: Trained) -> dict[str, Any] | None:
    """Return `{"miou", "iou"}` of this network as an `evaluate` cell of the store measured it, or None."""
    for path in (store.root / "done").glob("*/cell.json"):
        cell = read_json(path)
        if cell and cell["kind"] == "evaluate" and cell["upstream"] == [trained.key]:
            metrics = (read_json(path.with_name("result.json")) or {}).get("metrics", {})
            paddings = metrics.get(trained.name, {}).get(trained.epoch, {})
            return paddings.get(trained.values["evaluation"]["select"])
    return None


def _write(form: str, trained: Trained, *, out: Path, size: Size | None, store: Store) -> list[str]:
    if form == "onnx":
        from pipeline.trained.onnx import export_onnx

        return [str(export_onnx(trained, out, size=size))]
    program = export(trained, out, size=size)
    if form == "program":
        return [str(program)]
    from pipeline.trained.mlflow_model import log_mlflow_model, save_mlflow_model

    places = [str(save_mlflow_model(program, out, size=size))]
    database = Database(tracking_uri(store.root), os.environ.get("MLFLOW_EXPERIMENT_NAME", "u2pl"))
    if run := database.find(trained.key, str(store.root.resolve())):
        facts = {"uri": database.uri, "experiment": database.experiment, "run_id": run[0]}
        places.append(log_mlflow_model(program, **facts, size=size))
    return places
