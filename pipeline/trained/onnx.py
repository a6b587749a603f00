"""A trained network as an ONNX file, checked in ONNX Runtime against the network it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.trained.predict import Exported, Trained

TOLERANCE = 1e-3
"""Of logits in float32: ONNX Runtime fuses and orders sums in its own way."""


def export_onnx(trained: Trained, out: Path, *, height: int, width: int) -> Path:
    """Write `<out>/model.onnx`: RGB float32 0-255 (B, 3, height, width) to logits (B, C, height, width).

    Batches of any size. Raises ValueError where the packages of the extra `onnx` are not there, or where the file's
    logits are not the network's.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error}; `pip install onnx onnxscript onnxruntime` first") from None
    network = trained.network.cpu().float().to(memory_format=torch.contiguous_format)
    model = Exported(network).eval()
    images = 255 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    batch: Any = torch.export.Dim("batch", max=1024)
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
    options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    program = torch.onnx.export(model, (images,), **names, **options, dynamic_shapes=({0: batch},))
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".model.part.onnx"
    assert program is not None
    program.save(str(partial))
    session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(images[:1]).numpy()
    worst = float(np.abs(expected - session.run(None, {"images": images[:1].numpy()})[0]).max())
    if not worst <= TOLERANCE:  # nor NaN
        raise ValueError(f"the ONNX file's logits differ from the network's by up to {worst:g}")
    partial.replace(out / "model.onnx")
    return out / "model.onnx"
