"""The model card that leaves with a network: what it is, what it was trained on and how, how good it is, its limits.

The sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019) that can be filled from a cell;
nothing in it is written by hand, so nothing in it can be out of date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.published import TERMS
from pipeline.data.sources import EMBEDDED
from pipeline.labels import method_label
from pipeline.reporting.paper import data_phrase
from pipeline.reporting.rows import data_of
from pipeline.trained.predict import Trained

SECTIONS = ("model", "training", "parameters", "evaluation")
INPUT = """\
import numpy as np
from PIL import Image

image = Image.open("image.jpg").convert("RGB").resize(({width}, {height}))
images = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None]  # (B, 3, {height}, {width}), 0-255
"""
PROGRAM = """\
import torch

program = torch.export.load("model.pt2").module()
classes = program(torch.from_numpy(images)).argmax(1)  # (B, {height}, {width}), class ids
"""
ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
classes = session.run(None, {{"images": images}})[0].argmax(1)  # (B, {height}, {width}), class ids
"""
SERVED = (
    "\nOr behind HTTP: `mlflow models serve -m mlflow --env-manager local`, images (B, {height}, {width}, 3) uint8 in."
)


def write_card(
    trained: Trained, out: Path, *, form: str, size: tuple[int, int], facts: Mapping[str, Any], figures: Any
) -> Path:
    """Write `<out>/README.md`.

    `facts` is what is known of where the network comes from (key, commit, …); `figures` are the `{"miou", "iou"}` in
    percent of this network on its validation images, or None where it was never evaluated.
    """
    values = trained.values
    phrase = data_phrase(data_of(values), values["dataset"])
    method, partition = method_label(values["method"]), values["partition"].replace("-", "/")
    parts = [
        f"# {method}, {phrase}, partition {partition}, seed {values['seed']}\n",
        f"A network for semantic segmentation: every pixel of a photograph gets one of {values['data']['num_classes']} "
        f"classes. It is the {trained.name} of {method} as of the {trained.epoch} epoch.\n",
        _table({name: value for name, value in facts.items() if value not in (None, "")}),
        "## How to load it\n",
        _loading(form, size),
        "## Data and their terms\n",
        _data(values, phrase, partition=partition),
        "## How good it is\n",
        _figures(trained, figures),
        "## Limits\n",
        _limits(trained, size, figures=figures),
        "## Settings\n",
        _table({f"{section}.{key}": value for section in SECTIONS for key, value in values[section].items()}),
    ]
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".README.part.md"
    partial.write_text("\n".join(parts), encoding="utf-8")
    partial.replace(out / "README.md")
    return out / "README.md"


def _table(facts: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_written(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else f"`{json.dumps(value)}`"


def _loading(form: str, size: tuple[int, int]) -> str:
    code = INPUT + (ONNX if form == "onnx" else PROGRAM)
    written = f"```python\n{code}```\n" + (SERVED + "\n" if form == "mlflow" else "")
    return written.format(height=size[0], width=size[1])


def _data(values: dict[str, Any], phrase: str, *, partition: str) -> str:
    """Say what the network has seen, and under which terms that, and the weights it began with, come."""
    name, weights = values["data"]["name"], values["model"]["weights"]
    seen = f"Trained on {phrase}: partition {partition} with masks, " + (
        "no other image." if values["method"] == "suponly" else "the other training images without."
    )
    if name in EMBEDDED:
        terms = "The images are drawn by this project's code, under its licence (MIT); no photograph is among them."
    else:
        terms = TERMS.get(name, "The images are somebody's own. Their terms are not known here: ask who has them.")
    begun = (
        f"The encoder began with weights from `{weights}`, whose own terms apply."
        if weights
        else ("The network began with random weights.")
    )
    return f"{seen}\n\n{terms}\n\n{begun}\n"


def _figures(trained: Trained, figures: Any) -> str:
    if figures is None:
        return "It was not evaluated: the store has no `evaluate` cell of it.\n"
    block = trained.values["evaluation"]
    rows = {f"class {index}": None if iou is None else f"{iou:.2f}" for index, iou in enumerate(figures["iou"])}
    return (
        f"mIoU **{figures['miou']:.2f} %** on the validation images (mode `{block['mode']}`, size {block['size']}, "
        f"{block['select'].replace('_', ' ')}). IoU of each class in percent, `null` where it does not occur:\n\n"
        + _table(rows)
    )


def _limits(trained: Trained, size: tuple[int, int], *, figures: Any) -> str:
    values = trained.values
    lines = [
        f"Images must be {size[0]} x {size[1]} pixels; it was trained on crops of {values['training']['crop']}.",
        "It knows its classes only: what is none of them gets one of them, with no warning.",
        "One training with one seed; other seeds give other figures.",
    ]
    if figures is not None and trained.epoch == "best":
        lines.append(
            "The epoch was chosen on the images that it is measured on, so the figures are somewhat optimistic."
        )
    if values["data"]["name"] in EMBEDDED:
        lines.append("It has seen drawings alone. On photographs it is of no use.")
    return "\n".join(f"- {line}" for line in lines) + "\n"
