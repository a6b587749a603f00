"""The forms in which a trained network leaves the project: a torch.export program, ONNX, an MLflow model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.database import Database, tracking_uri
from pipeline.store import Store
from pipeline.trained.predict import export, load_trained

Size = tuple[int, int]


def export_as(form: str, folder: Path, out: Path, *, choice: tuple[str, str], size: Size, store: Store) -> list[str]:
    """Write one form of the trained cell in `folder` into `out`; return where it is.

    `choice` is the epoch and the network, `size` height and width in pixels. An MLflow model comes with the program
    that it runs, and is logged to the cell's run where MLflow has one.
    """
    height, width = size
    trained = load_trained(folder, epoch=choice[0], network=choice[1])
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
