"""Images a second of evaluation, beside the network's own forward: `python -m tests.benchmarks.evaluation`.

`evaluate` with everything it does (frames, normalising, resizing, argmax, confusion) on images in memory, against
`network.predict` on the same batches, in each mode; ResNet-50 at 193 pixels, one thread, float32. Beside it the forward
with all heads, which a plain evaluation runs. Then what a sliding evaluation of Cityscapes' images reads and writes
beside its network, counted on fake tensors at their true size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.commands.forecast import synthetic_run
from pipeline.data.normalise import Normalise
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.frame import batches, frame_tensors
from pipeline.evaluation.predict import Evaluation, num_windows, predict, window_starts
from pipeline.models.segnet import SegNet
from pipeline.params import load_params, resolve_table
from pipeline.training.setting import make_setting
from tests.benchmarks.counting import Counting, is_network
from tests.benchmarks.report import rounds, table, write
from tests.benchmarks.step import PARAMS, paper_row

SIZE, NUM, BATCH, CLASSES = 193, 4, 2, 21
TRUE_SIZE, WINDOW, RESIZE = (1024, 2048), 769, "models/resize"
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
    body = f"ResNet-50, {SIZE} pixels, {BATCH} images or windows at a time, one thread, float32.\n\n" + table(
        head, rows
    )
    write("evaluation", "Evaluation", body + "\n" + at_true_size())


def at_true_size() -> str:
    """Return what a sliding evaluation at true size moves beside its network's forward."""
    params = load_params(PARAMS) | {"scale": "paper", "method": "u2pl", "dataset": "cityscapes"}
    (row,) = resolve_table(params, "experiment")
    mode = FakeTensorMode()
    run = synthetic_run(row | {"training": row["training"] | {"crop": WINDOW}}, mode)
    evaluation = Evaluation(mode="slide", size=WINDOW)
    with mode, torch.inference_mode(), Counting() as counting:
        image = torch.empty(1, 3, *TRUE_SIZE)
        predict(run.method.student.eval(), image, evaluation=evaluation, batch=1)  # type: ignore[operator, arg-type]
    network = counting.total(lambda file: is_network(file) and file != RESIZE).moved_bytes / 1e9
    rest = counting.total(lambda file: not is_network(file) or file == RESIZE).moved_bytes / 1e9
    num, met = num_windows(TRUE_SIZE, evaluation), "yes" if rest <= 0.05 * network else "**no**"
    return (
        f"ResNet-101, an image of {TRUE_SIZE[0]} x {TRUE_SIZE[1]} in {num} windows of {WINDOW}, counted: the forwards "
        f"move {network:.0f} GB; padding, resizing (the decoder's too), adding up and argmax {rest:.1f} GB, "
        f"{rest / network:.1%} of it (aim <= 5 %: {met}).\n"
    )


def build() -> SegNet:
    """Return a network with a representation, in evaluation mode."""
    row = paper_row("u2pl", 2)
    model = row["model"] | {"weights": None, "encoder": row["model"]["encoder"] | {"blocks": [3, 4, 6, 3]}}
    network = make_setting(row | {"model": model}).build(representation=True)
    return network.eval().to(memory_format=torch.channels_last)


def forwarded(samples: Any, evaluation: Evaluation) -> list[Tensor]:
    """Return the very batches that evaluation gives the network."""
    normalise, inputs = Normalise("cpu"), []
    for frames in batches(samples, evaluation, batch=BATCH):
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
