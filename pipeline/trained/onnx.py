"""A trained network as an ONNX file, checked in ONNX Runtime against the network it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.files import written_whole
from pipeline.trained.predict import Trained
from pipeline.trained.program import BATCH, Size, examples, exportable, free_sides, no_program

TOLERANCE = 1e-3
"""Of logits in float32: ONNX Runtime fuses and orders sums in its own way."""


def export_onnx(trained: Trained, out: Path, *, size: Size | None) -> Path:
    """Write `<out>/model.onnx`: RGB float32 0-255 (B, 3, height, width) to logits (B, C, height, width).

    Batches of any number, images of the given size; None: of any whose sides exceed the output stride. Raises
    ValueError where the packages of the extra `onnx` are not there, where the network cannot be exported so, or where
    the file's logits are not the network's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error}; `pip install onnx onnxscript onnxruntime` first") from None
    model = exportable(trained)
    first, *others = examples(trained, size)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    try:
        program = torch.onnx.export(
            model, (first,), **names, **options, dynamic_shapes=({0: BATCH, **free_sides(size)},)
        )
    except Exception as error:  # of many kinds, private ones of torch among them
        raise ValueError(no_program(error, trained, size=size)) from error
    assert program is not None
    with written_whole(out / "model.onnx") as partial:
        program.save(str(partial))
        session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
        for images in (first[:1], *others):
            with torch.no_grad():
                expected = model(images).numpy()
            worst = float(np.abs(expected - session.run(None, {"images": images.numpy()})[0]).max())
            if not worst <= TOLERANCE:  # nor NaN
                raise ValueError(f"the ONNX file's logits differ from the network's by up to {worst:g}")
    return out / "model.onnx"
