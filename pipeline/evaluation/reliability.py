"""The `reliability` cell: how far a trained network can be believed, by entropy, by confidence and by class.

One pass over the images that its training had no labels of (the paper's Figure 1: trained with 732 labels, measured on
the other 9,850 training images) and one over val. Only counts are kept, and they stay on the device: pixels by entropy,
label and prediction, and by confidence. Every figure follows from them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.layout import pairs, read_partition
from pipeline.data.normalise import Normalise
from pipeline.data.open import open_validation
from pipeline.data.samples import Samples
from pipeline.evaluation.cell import restore
from pipeline.evaluation.confusion import ConfusionMatrix
from pipeline.evaluation.evaluate import evaluating
from pipeline.evaluation.frame import batches, frame_tensors
from pipeline.evaluation.predict import Evaluation, predict_logits
from pipeline.models.segnet import SegNet

FINE_BINS, WIDE_BINS = 40, 95
LEAST_ENTROPY, FINE_ENTROPY = 1e-6, 0.05
"""Edges as shares of log C: bins below FINE_ENTROPY grow by a ratio, the lowest ends at LEAST_ENTROPY, for most pixels
of a network that is sure have an entropy near 0; above, where one that is not has its quantiles, all are equally wide.
"""
ENTROPY_BINS = FINE_BINS + WIDE_BINS

CONFIDENCE_BINS = 15
"""Of equal width, as in Guo et al., On Calibration of Modern Neural Networks, ICML 2017."""

NO_MASKS = "no image without a label in training has a mask, so only val is measured"


class Counts:
    """Pixels of one pass: `by_entropy` (bin, label, prediction), `by_confidence` (bin, wrong or right)."""

    def __init__(self, num_classes: int, device: torch.device | str) -> None:
        self.num_classes = num_classes
        self.edges = entropy_edges(num_classes)
        self._inner = self.edges[:-1].to(device=device, dtype=torch.float32)
        self.by_entropy = torch.zeros(ENTROPY_BINS, num_classes, num_classes, dtype=torch.int64, device=device)
        self.by_confidence = torch.zeros(CONFIDENCE_BINS, 2, dtype=torch.int64, device=device)
        self.confidence = torch.zeros(CONFIDENCE_BINS, dtype=torch.float64, device=device)

    def add(self, label: Tensor, logits: Tensor) -> None:
        """Count the pixels of labels (B, H, W) and logits (B, C, H, W); labels outside 0 … C - 1 are left out."""
        classes = self.num_classes
        log_probability = logits.float().log_softmax(dim=1)
        entropy = -(log_probability.exp() * log_probability).sum(dim=1)
        confidence = log_probability.amax(dim=1).exp().nan_to_num(0)  # a network that diverged is sure of nothing
        prediction = logits.argmax(dim=1)  # as `predict` does
        valid = (label >= 0) & (label < classes)
        bins = torch.bucketize(entropy.contiguous(), self._inner)
        cell = torch.where(valid, (bins * classes + label) * classes + prediction, self.by_entropy.numel())
        self.by_entropy += _tally(cell, self.by_entropy.numel()).view_as(self.by_entropy)
        bins = (confidence * CONFIDENCE_BINS).long().clamp(max=CONFIDENCE_BINS - 1)
        cell = torch.where(valid, 2 * bins + (prediction == label), self.by_confidence.numel())
        self.by_confidence += _tally(cell, self.by_confidence.numel()).view_as(self.by_confidence)
        weights = torch.where(valid, confidence, 0).double().flatten()
        self.confidence += torch.bincount(bins.flatten(), weights=weights, minlength=CONFIDENCE_BINS)

    def all_reduce(self) -> None:
        """Sum the counts over all ranks, if there are several."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for counts in (self.by_entropy, self.by_confidence, self.confidence):
                torch.distributed.all_reduce(counts)


def _tally(cells: Tensor, num: int) -> Tensor:
    return torch.bincount(cells.flatten(), minlength=num + 1)[:-1]


def entropy_edges(num_classes: int) -> Tensor:
    """Return the upper edges of the entropy bins in nats, (ENTROPY_BINS,) float64; the last is log C."""
    steps = torch.linspace(0, 1, FINE_BINS, dtype=torch.float64)
    fine = LEAST_ENTROPY ** (1 - steps) * FINE_ENTROPY**steps
    wide = torch.linspace(FINE_ENTROPY, 1, WIDE_BINS + 1, dtype=torch.float64)[1:]
    return torch.tensor(num_classes, dtype=torch.float64).log() * torch.cat([fine, wide])


def reliability_cell(values: dict[str, Any], *, data_root: Path, trained: Path) -> dict[str, Any]:
    """Measure the deployed network of `trained/weights.pt`, best epoch; return `sets`: `unlabelled` and `val`.

    Where no unlabelled image has a mask there is `val` alone, and `note` says so.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    states = torch.load(trained / "weights.pt", map_location=device, weights_only=True)["best"]
    network, began = restore(values, list(states.values())[-1], device=device), time.monotonic()
    found = {"unlabelled": open_unlabelled(values, data_root), "val": open_validation(values, data_root)}
    sets = {
        name: figures(count(network, samples, values=values, device=device), share=values["unreliable_share"])
        | {"num_images": len(samples)}
        for name, samples in found.items()
        if len(samples) > 0
    }
    note = {} if "unlabelled" in sets else {"note": NO_MASKS}
    return {"state": "done", "sets": sets, "reliability_s": round(time.monotonic() - began, 2)} | note


def open_unlabelled(values: dict[str, Any], data_root: Path) -> Samples:
    """Return the training images without labels in this partition that do have a mask; perhaps none."""
    data = values["data"]
    _, ids = read_partition(data_root / "partitions" / values["dataset"] / values["partition"])
    found = pairs(data_root / data["source"], data["layout"], ids=ids)
    masked = [pair for pair in found if pair.mask is not None and pair.mask.exists()]
    return Samples(masked, num_classes=data["num_classes"], cache_bytes=0)  # each is read once


@torch.inference_mode()
def count(network: SegNet, samples: Samples, *, values: dict[str, Any], device: torch.device | str) -> Counts:
    """Run a network over images as the cell's `evaluation` block says and count."""
    block = values["evaluation"]
    evaluation = Evaluation(mode=block["mode"], size=block["size"])
    counts, normalise = Counts(samples.num_classes, device), Normalise(device)
    is_half = block["precision"] == "bfloat16"
    with evaluating({"": network}), torch.autocast(torch.device(device).type, torch.bfloat16, enabled=is_half):
        for frames in batches(samples, evaluation, batch=block["batch_images"]):
            images, _ = frame_tensors(frames, normalise)
            label = normalise.moved(torch.stack([torch.from_numpy(frame.mask) for frame in frames])).long()
            logits = predict_logits(network, images, evaluation=evaluation, batch=block["batch_images"])
            counts.add(label, logits)
    counts.all_reduce()
    return counts


def figures(counts: Counts, *, share: float) -> dict[str, Any]:
    """Return what the counts say, JSON-ready. Reliable are the pixels of lowest entropy but for about `share` (0-1).

    Entropy is divided at the edge of a bin: `unreliable_share` is what lies above it. Classes are those of the labels,
    their shares 0-1 (None: no such pixel); IoU, accuracy and `ece` (expected calibration error) are in percent.
    """
    by_entropy = counts.by_entropy.cpu()
    total = by_entropy.sum(dim=(1, 2))
    above = 1 - total.cumsum(0) / total.sum().clamp(min=1)  # share of pixels above each bin
    last = int((above - share).abs().argmin())
    of_class, reliable = by_entropy.sum(dim=(0, 2)), by_entropy[: last + 1]
    right = by_entropy.diagonal(dim1=1, dim2=2)  # (bin, class)
    unreliable = (of_class - reliable.sum(dim=(0, 2))).double()
    return {
        "num_pixels": int(total.sum()),
        "threshold_nats": float(counts.edges[last]),
        "unreliable_share": float(above[last]),
        "all": _summary(by_entropy, counts.num_classes),
        "reliable": _summary(reliable, counts.num_classes),
        "class_share": (of_class / total.sum().clamp(min=1)).tolist(),
        "class_unreliable_share": _quotients(unreliable, of_class),
        "entropy_nats": [float(f"{edge:.6g}") for edge in counts.edges.tolist()],
        "entropy_right": right.sum(1).tolist(),
        "entropy_wrong": (total - right.sum(1)).tolist(),
        "class_entropy_right": right.T.tolist(),
        "class_entropy_wrong": (by_entropy.sum(2) - right).T.tolist(),
    } | _calibration(counts)


def _summary(by_entropy: Tensor, num_classes: int) -> dict[str, Any]:
    matrix = ConfusionMatrix(num_classes, "cpu")
    matrix.counts = by_entropy.sum(0)
    accuracy = 100 * float(matrix.counts.diagonal().sum()) / max(1, int(matrix.counts.sum()))
    return {"accuracy": accuracy} | matrix.summary()


def _calibration(counts: Counts) -> dict[str, Any]:
    wrong, right = counts.by_confidence.cpu().unbind(1)
    num = wrong + right
    gaps = (counts.confidence.cpu() - right).abs()  # n · |mean confidence - accuracy| of each bin
    return {
        "confidence_right": right.tolist(),
        "confidence_wrong": wrong.tolist(),
        "confidence_mean": _quotients(counts.confidence.cpu(), num),
        "ece": 100 * float(gaps.sum()) / max(1, int(num.sum())),
    }


def _quotients(values: Tensor, numbers: Tensor) -> list[float | None]:
    return [value / num if num else None for value, num in zip(values.tolist(), numbers.tolist(), strict=True)]
