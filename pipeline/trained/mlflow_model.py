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

from pipeline.trained.program import Size

SERVING = Path(__file__).with_name("serving.py")
NEEDED = ("torch", "numpy", "mlflow")
ANY_EXAMPLE = (64, 96)
"""The size of the example where images may have any."""


def save_mlflow_model(program: Path, out: Path, *, size: Size | None) -> Path:
    """Write `<out>/mlflow`, the exported `program` as an MLflow model of images (B, height, width, 3) uint8.

    `size` is that of the images, None for any.
    """
    import mlflow

    partial = out / ".mlflow.part"
    shutil.rmtree(partial, ignore_errors=True)
    with _quiet():
        mlflow.pyfunc.save_model(str(partial), **description(program, size=size))
    shutil.rmtree(out / "mlflow", ignore_errors=True)
    partial.replace(out / "mlflow")
    return out / "mlflow"


def log_mlflow_model(program: Path, *, uri: str, experiment: str, run_id: str, size: Size | None) -> str:
    """Log the model to a run, whose state and times stay as they are; return its address, `models:/…`."""
    import mlflow
    from mlflow.models import Model

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(experiment_id=experiment)
    described = description(program, size=size)
    with _quiet():
        return Model.log(None, mlflow.pyfunc, run_id=run_id, name="model", **described).model_uri


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow warns that it would rather read the schema from type hints; the signature is the schema."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def description(program: Path, *, size: Size | None) -> dict[str, Any]:
    """Return what MLflow is told of the model: code, program, signature, example, the versions it needs."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels, sides, example = np.dtype(np.uint8), size or (-1, -1), size or ANY_EXAMPLE
    return {
        "python_model": str(SERVING),
        "artifacts": {"program": str(program)},
        "signature": ModelSignature(
            Schema([TensorSpec(pixels, (-1, *sides, 3))]),
            Schema([TensorSpec(pixels, (-1, *sides))]),
        ),
        "input_example": np.zeros((1, *example, 3), np.uint8),
        "pip_requirements": [f"{name}=={version(name)}" for name in NEEDED],
    }
