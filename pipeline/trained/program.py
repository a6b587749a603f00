"""A trained network as a `torch.export` program, which needs torch alone: images of one size in, or of any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.normalise import MEAN, STD
from pipeline.evaluation.predict import whole_logits
from pipeline.files import write_json, written_whole
from pipeline.models.segnet import SegNet
from pipeline.trained.predict import Trained

Size = tuple[int, int]
"""Height and width in pixels."""

TOLERANCE = 1e-4
"""Of logits in float32."""


class Exported(nn.Module):
    """What is exported: RGB images (B, 3, H, W) float32, 0-255, to logits (B, C, H, W) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: SegNet) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:  # noqa: D102
        return whole_logits(self.network, (images - self.mean) / self.std)


def measured_size(values: dict[str, Any]) -> Size | None:
    """Return the size of what a cell's network is given when it is measured; None: whole images of any size."""
    block = values["evaluation"]
    return None if block["mode"] == "whole" else (block["size"], block["size"])


def export(trained: Trained, out: Path, *, size: Size | None) -> Path:
    """Write `<out>/model.pt2`, a `torch.export` program, and `model.json`, which says what it is.

    Batches of any number, images of the given size; None: of any whose sides exceed the output stride. Raises
    ValueError where the network cannot be exported so, or the program's logits are not the network's.
    """
    model = exportable(trained)
    first, *others = examples(trained, size)
    try:
        program = torch.export.export(model, (first,), dynamic_shapes=({0: BATCH, **free_sides(size)},))
    except Exception as error:  # of many kinds, private ones of torch among them
        raise ValueError(no_program(error, trained, size=size)) from error
    answer, worst = program.module(), 0.0
    for images in (first[:1], *others):
        with torch.no_grad():
            difference = (model(images) - answer(images)).abs().max().item()
        if not difference <= TOLERANCE:  # nor NaN
            raise ValueError(f"the exported program's logits differ from the network's by up to {difference:g}")
        worst = max(worst, difference)
    with written_whole(out / "model.pt2") as partial:
        torch.export.save(program, partial)
    height, width = size or (None, None)
    facts: dict[str, Any] = {
        "network": trained.name,
        "epoch": trained.epoch,
        "input": "RGB float32 0-255 (B, 3, height, width)",
        "output": "logits (B, C, height, width)",
        "height": height,
        "width": width,
        "smallest_side": smallest_side(trained.values, size),
        "largest_difference": worst,
    }
    write_json(out / "model.json", facts | {"values": trained.values})
    return out / "model.pt2"


BATCH: Any = torch.export.Dim("batch", max=1024)


def exportable(trained: Trained) -> Exported:
    """Return what is exported of a network, on the CPU and in float32."""
    network = trained.network.cpu().float()
    return Exported(network.to(memory_format=torch.contiguous_format)).eval()  # any other layout is not saved whole


def examples(trained: Trained, size: Size | None) -> list[Tensor]:
    """Return two images to export with, then, where any size is taken, one image each of two others to try."""
    side = max(trained.values["evaluation"]["size"] or trained.values["training"]["crop"], 32)
    sizes = [size] if size else [(side, side + 16), (side + 5, side), (side + 40, side + 75)]
    generator = torch.Generator().manual_seed(0)
    return [255 * torch.rand(1 if index else 2, 3, *each, generator=generator) for index, each in enumerate(sizes)]


def free_sides(size: Size | None) -> dict[int, Any]:
    """Return which sides of an image (B, 3, H, W) are left open to the program, as `dynamic_shapes` has it."""
    return {} if size else {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}


def smallest_side(values: dict[str, Any], size: Size | None) -> int | None:
    """Return how many pixels a side must have where any size is taken: two places of the encoder's last map."""
    return None if size else values["model"]["output_stride"] + 1


def no_program(error: Exception, trained: Trained, *, size: Size | None) -> str:
    """Say that a network cannot be exported, and what to try."""
    lines = str(error).strip().splitlines()
    reason = f"({type(error).__name__}: {lines[0] if lines else 'no reason given'})"
    if size:
        return f"this network cannot be exported for images of {size[0]} x {size[1]} pixels {reason}"
    crop = trained.values["training"]["crop"]
    return f"this network cannot be exported for images of any size {reason}; give one size: --size {crop} {crop}"
