"""A trained network as an MLflow model: logged to its cell's run, with a signature and an example, ready to serve."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

SERVING = Path(__file__).with_name("serving.py")
NEEDED = ("torch", "numpy", "mlflow")


def save_mlflow_model(program: Path, out: Path, *, height: int, width: int) -> Path:
    """Write `<out>/mlflow`, the exported `program` as an MLflow model of images (B, height, width, 3) uint8."""
    import mlflow

    partial = out / ".mlflow.part"
    shutil.rmtree(partial, ignore_errors=True)
    with _quiet():
        mlflow.pyfunc.save_model(str(partial), **description(program, height=height, width=width))
    shutil.rmtree(out / "mlflow", ignore_errors=True)
    partial.replace(out / "mlflow")
    return out / "mlflow"


def log_mlflow_model(program: Path, *, uri: str, experiment: str, run_id: str, size: tuple[int, int]) -> str:
    """Log the model to a run, whose state and times stay as they are; return its address, `models:/…`."""
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment)
    described = description(program, height=size[0], width=size[1])
    with _quiet():
        return Model.log(None, mlflow.pyfunc, run_id=run_id, name="model", **described).model_uri


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow warns that it would rather read the schema from type hints; the signature is the schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def description(program: Path, *, height: int, width: int) -> dict[str, Any]:
    """Return what MLflow is told of the model: code, program, signature, example, the versions it needs."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels = np.dtype(np.uint8)
    return {
        "python_model": str(SERVING),
        "artifacts": {"program": str(program)},
        "signature": ModelSignature(
            Schema([TensorSpec(pixels, (-1, height, width, 3))]),
            Schema([TensorSpec(pixels, (-1, height, width))]),
        ),
        "input_example": np.zeros((1, height, width, 3), np.uint8),
        "pip_requirements": [f"{name}=={version(name)}" for name in NEEDED],
    }
