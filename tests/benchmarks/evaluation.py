"""Images a second of evaluation, beside the network's own forward: `python -m tests.benchmarks.evaluation`.

`evaluate` with everything it does (frames, normalising, resizing, argmax, confusion) on images in memory, against
`network.predict` on the same batches, in each mode; ResNet-50 at 193 pixels, one thread, float32. Beside it the forward
with all heads, which a plain evaluation runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.normalise import Normalise
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.frame import batches, frame_tensors
from pipeline.evaluation.predict import Evaluation, window_starts
from pipeline.models.segnet import SegNet
from pipeline.training.setting import make_setting
from tests.benchmarks.report import rounds, table, write
from tests.benchmarks.step import paper_row

SIZE, NUM, BATCH, CLASSES = 193, 4, 2, 21
MODES = {
    "centre": (Evaluation(mode="centre", size=SIZE), (220, 250)),
    "whole": (Evaluation(mode="whole", size=None), (SIZE, SIZE)),
    "slide": (Evaluation(mode="slide", size=SIZE), (SIZE, 2 * SIZE)),
}


class InMemory:
    """Validation images of noise."""

    num_classes = CLASSES
    pairs = None

    def __init__(self, size: tuple[int, int]) -> None:
        random = np.random.default_rng(0)
        self.images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(NUM)]
        self.masks = [random.integers(0, CLASSES, size, dtype=np.uint8) for _ in range(NUM)]

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[index], self.masks[index]


def main() -> None:
    """Measure and write the section."""
    torch.set_num_threads(1)
    network = build()
    rows = []
    for mode, (evaluation, size) in MODES.items():
        samples: Any = InMemory(size)
        inputs = forwarded(samples, evaluation)
        parts = {
            "evaluate": lambda samples=samples, evaluation=evaluation: evaluate(
                {"student": network}, samples, evaluation=evaluation, device="cpu", batch_images=BATCH
            ),
            "predict": lambda inputs=inputs: run(network.predict, inputs),
            "all heads": lambda inputs=inputs: run(network, inputs),
        }
        taken_s = rounds(parts, num=5)
        share = taken_s["predict"] / taken_s["evaluate"]
        rates = [f"{NUM / taken_s[name]:.2f}" for name in parts]
        rows.append([mode, *rates, f"{100 * share:.1f} %", "yes" if share >= 0.95 else "**no**"])
    head = ["mode", "evaluate, images/s", "`predict` alone", "all heads alone", "of `predict`", ">= 95 %"]
    write("evaluation", "Evaluation", table(head, rows))


def build() -> SegNet:
    """Return a network with a representation, in evaluation mode."""
    row = paper_row("u2pl", 2)
    model = row["model"] | {"weights": None, "encoder": row["model"]["encoder"] | {"blocks": [3, 4, 6, 3]}}
    network = make_setting(row | {"model": model}).build(representation=True)
    return network.eval().to(memory_format=torch.channels_last)


def forwarded(samples: Any, evaluation: Evaluation) -> list[Tensor]:
    """Return the very batches that evaluation gives the network."""
    normalise, inputs = Normalise("cpu"), []
    for frames in batches(samples, evaluation, BATCH):
        images = frame_tensors(frames, normalise)[0]
        if evaluation.mode != "slide":
            inputs.append(images)
            continue
        tops, lefts = (window_starts(length, SIZE) for length in images.shape[-2:])
        windows = [one[:, top : top + SIZE, left : left + SIZE] for one in images for top in tops for left in lefts]
        inputs += [torch.stack(windows[first : first + BATCH]) for first in range(0, len(windows), BATCH)]
    return inputs


@torch.inference_mode()
def run(forward: Any, inputs: list[Tensor]) -> None:
    """Forward all batches."""
    for images in inputs:
        forward(images)


if __name__ == "__main__":
    main()
