"""What `mlflow models serve` runs: the exported program behind images in, class ids out. Needs torch, numpy and mlflow.

MLflow copies this file into the model and executes it there, so it imports nothing of the pipeline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Served(PythonModel):
    """RGB images (B, height, width, 3) uint8 to class ids (B, height, width) uint8."""

    def load_context(self, context: Any) -> None:
        """Load the program that was exported with the model."""
        self.program = torch.export.load(context.artifacts["program"]).module()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> Any:
        """Return the class of every pixel. Of another hint than an array MLflow would make a schema, and complain."""
        images = torch.from_numpy(np.asarray(model_input)).permute(0, 3, 1, 2).float()  # (B, 3, height, width)
        with torch.no_grad():
            return self.program(images).argmax(1).to(torch.uint8).numpy()


set_model(Served())
