"""Counts of (label, prediction) pairs on the device, and the intersection over union that follows from them."""

from __future__ import annotations

import torch
from torch import Tensor

Summary = dict[str, float | list[float | None]]
EPSILON = 1e-10  # the released code's, in I / (U + 1e-10)


class ConfusionMatrix:
    """Counts pixels by label (rows) and prediction (columns). Counts of parts and ranks may be summed."""

    def __init__(self, num_classes: int, device: torch.device | str) -> None:
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def add(self, label: Tensor, prediction: Tensor) -> None:
        """Count pixels of two equally shaped integer maps; labels outside 0 … C - 1 (255) are not counted."""
        classes = self.num_classes
        label, prediction = label.long(), prediction.long()
        ignored = (label < 0) | (label >= classes)
        cell = torch.where(ignored, classes * classes, label * classes + prediction)
        self.counts += torch.bincount(cell.flatten(), minlength=classes * classes + 1)[:-1].view(classes, classes)

    def all_reduce(self) -> None:
        """Sum the counts over all ranks, if there are several."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)

    def summary(self) -> Summary:
        """Return `miou` and `iou` in percent.

        `miou` is the plain mean over all classes, of which one that occurs neither in labels nor in predictions
        counts 0, as in the released code; its `iou` is None, so that such classes are told apart.
        """
        counts = self.counts.double().cpu()
        intersection = counts.diagonal()
        union = counts.sum(0) + counts.sum(1) - intersection
        iou = (100 * intersection / (union + EPSILON)).tolist()
        occurring = [value if count > 0 else None for value, count in zip(iou, union.tolist(), strict=True)]
        return {"miou": sum(iou) / len(iou), "iou": occurring}
