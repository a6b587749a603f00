"""The model card that leaves with a network: what it is, what it was trained on and how, how good it is, its limits.

The sections are those of Mitchell et al., "Model Cards for Model Reporting" (2019) that can be filled from a cell;
nothing in it is written by hand, so nothing in it can be out of date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.normalise import MEAN
from pipeline.data.published import TERMS
from pipeline.data.sources import EMBEDDED
from pipeline.files import written_whole
from pipeline.labels import method_label
from pipeline.reporting.classes import class_names
from pipeline.reporting.paper import data_phrase
from pipeline.reporting.rows import data_of
from pipeline.trained.predict import Trained
from pipeline.trained.program import Size, smallest_side

Figures = dict[str, Any]
"""`{"miou", "iou"}` in percent, as an `evaluate` cell measured them."""

SECTIONS = ("model", "training", "parameters", "evaluation")
READ = """\
import numpy as np
from PIL import Image, ImageOps

image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
pixels = np.asarray(image, dtype=np.float32)  # (H, W, 3), 0-255
"""
CROP = """\
height, width = {height}, {width}
top, left = max(0, len(pixels) - height) // 2, max(0, len(pixels[0]) - width) // 2
pixels = pixels[top : top + height, left : left + width]  # the centre, or all of a smaller image
above, before = (height - len(pixels)) // 2, (width - len(pixels[0])) // 2
padded = np.tile(np.array({mean}, dtype=np.float32), (height, width, 1))  # the mean colour
padded[above : above + len(pixels), before : before + len(pixels[0])] = pixels
pixels = padded
"""
BATCH = """\
images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (B, 3, {height}, {width})
"""
PROGRAM = """\
import torch

program = torch.export.load("model.pt2").module()
with torch.no_grad():
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
    trained: Trained, out: Path, *, form: str, size: Size | None, facts: Mapping[str, Any], figures: Figures | None
) -> Path:
    """Write `<out>/README.md`.

    `size` is that of the images it takes, None for any; `facts` is what is known of where the network comes from (key,
    commit, …); `figures` are the `{"miou", "iou"}` in percent of this network on its validation images, or None where
    it was never evaluated.
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
        _as_measured(values["evaluation"], size),
        "## Data and their terms\n",
        _data(values, phrase, partition=partition),
        "## How good it is\n",
        _figures(trained, figures),
        "## Limits\n",
        _limits(trained, size, figures=figures),
        "## Settings\n",
        _table({f"{section}.{key}": value for section in SECTIONS for key, value in values[section].items()}),
    ]
    with written_whole(out / "README.md") as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")
    return out / "README.md"


def _table(facts: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {_written(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines]) + "\n"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else f"`{json.dumps(value)}`"


def _loading(form: str, size: Size | None) -> str:
    code = READ + (CROP if size else "") + BATCH + (ONNX if form == "onnx" else PROGRAM)
    written = f"```python\n{code}```\n" + (SERVED + "\n" if form == "mlflow" else "")
    height, width = size or ("H", "W")
    return written.format(height=height, width=width, mean=MEAN)


def _as_measured(block: dict[str, Any], size: Size | None) -> str:
    """Say whether this code gives the network what its figures are of, and what else differs."""
    measured = {
        "whole": "whole images at their own size",
        "centre": f"the centre {block['size']} x {block['size']} pixels of each image, padded where it is smaller",
        "slide": f"whole images by windows of {block['size']} pixels, whose logits are averaged where they overlap",
    }[block["mode"]]
    given = f"the centre {size[0]} x {size[1]} pixels of each image" if size else "whole images at their own size"
    same = block["mode"] != "slide" and size == (None if block["mode"] == "whole" else (block["size"], block["size"]))
    words = f"The figures below are of {measured}" + (
        ", as this code gives them to the network." if same else f"; this code takes {given}, so its own may differ."
    )
    if block["precision"] != "float32":
        words += f" They were measured in {block['precision']}, and what is exported computes in float32: a few "
        words += "pixels may differ."
    return words + "\n"


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


def _figures(trained: Trained, figures: Figures | None) -> str:
    if figures is None:
        return "It was not evaluated: the store has no `evaluate` cell of it.\n"
    block, data = trained.values["evaluation"], trained.values["data"]
    names = class_names(data, data["num_classes"])
    rows = {
        f"{index} | {name}": "does not occur" if iou is None else f"{iou:.2f}"
        for index, (name, iou) in enumerate(zip(names, figures["iou"], strict=True))
    }
    return (
        f"mIoU **{figures['miou']:.2f} %** on the validation images (mode `{block['mode']}`, size {block['size']}, "
        f"{block['select'].replace('_', ' ')}). IoU of each class in percent:\n\n"
        + "\n".join(["| id | class | IoU |", "|---|---|---|", *(f"| {head} | {iou} |" for head, iou in rows.items())])
        + "\n"
    )


def _limits(trained: Trained, size: Size | None, *, figures: Figures | None) -> str:
    values, least = trained.values, smallest_side(trained.values, size)
    taken = f"{size[0]} x {size[1]} pixels" if size else f"at least {least} x {least} pixels, and may have any size"
    lines = [
        f"Images must be {taken}; it was trained on crops of {values['training']['crop']}.",
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
