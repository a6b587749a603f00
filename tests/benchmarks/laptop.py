"""What a step costs at scale `laptop`: float32 and bfloat16, channels last or not, all parameters or the frozen rest.

`python -m tests.benchmarks.laptop`: medians over rounds in which the variants take turns, so that what else the
machine does meets all of them alike. Figures are ratios to float32, contiguous, nothing frozen.
"""

from __future__ import annotations

import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from pipeline.models.build import ModelConfig, build_network
from pipeline.models.segnet import SegNet
from pipeline.params import load_params
from tests.benchmarks.report import table, write

ROUNDS = 7
PARAMS = Path(__file__).parents[2] / "params.yaml"


def main() -> None:
    """Measure and write the section."""
    torch.set_num_threads(1)
    block = load_params(PARAMS)["scales"]["laptop"]["common"]
    frozen = block["model"]["encoder"]["frozen"]
    crop, batch = block["training"]["crop"], block["training"]["labelled_batch"]
    variants = list(product(([], frozen), (False, True), ("float32", "bfloat16")))
    networks = {repr(parts): build(block["model"], parts) for parts in ([], frozen)}
    seconds: dict[int, list[float]] = {index: [] for index in range(len(variants))}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for index, (parts, channels_last, precision) in enumerate(variants):
            network = networks[repr(parts)].to(memory_format=layout(channels_last))
            images = torch.randn(batch, 3, crop, crop).contiguous(memory_format=layout(channels_last))
            seconds[index].append(step(network, images, precision))
    medians = [statistics.median(values[1:]) for values in seconds.values()]
    rows = [
        [f"{len(parts)} parts", "yes" if last else "no", precision, f"{median:.3f}", f"{median / medians[0]:.2f}"]
        for (parts, last, precision), median in zip(variants, medians, strict=True)
    ]
    head = ["frozen", "channels last", "precision", "s a step", "of the first"]
    words = f"{batch} images of {crop} x {crop}, forward and backward, one thread, median of {ROUNDS}:\n\n"
    write("laptop", "A network's step at scale `laptop`", words + table(head, rows))


def build(model: dict[str, Any], frozen: list[str]) -> SegNet:
    """Return the scale's network with these parts frozen."""
    encoder = model["encoder"] | {"frozen": frozen}
    return build_network(ModelConfig(**(model | {"encoder": encoder})), num_classes=21).train()


def layout(channels_last: bool) -> torch.memory_format:
    """Return the memory format."""
    return torch.channels_last if channels_last else torch.contiguous_format


def step(network: SegNet, images: torch.Tensor, precision: str) -> float:
    """Return the processor seconds of one forward and backward pass."""
    began = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = network(images).logits.mean()
    loss.backward()
    network.zero_grad(set_to_none=True)
    return time.process_time() - began


if __name__ == "__main__":
    main()
