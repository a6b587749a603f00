"""The contrast of U2PL (Section 3.3): reliable anchors against ranked negatives, class by class (Eq. 4).

`PixelContrast` draws anchors and negatives from the sets that `contrast_sets` finds, keeps the queues, and computes the
loss. There is no loop over classes and nothing is read on the host.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels, find_sets, rows
from pipeline.training.memory import MemoryBank
from pipeline.training.sampling import sample_members, spread_members


class PixelContrast(nn.Module):
    """The contrastive loss with its queues, to be used as a sub-module. `channels` is the representation's D."""

    memory: MemoryBank | None

    def __init__(self, hyper: ContrastParameters, *, num_classes: int, channels: int) -> None:
        super().__init__()
        hyper.check_classes(num_classes)
        self.hyper = hyper
        self.num_classes = num_classes
        self.memory = None
        if hyper.queue:
            # Class 0 is the background on VOC; the released code gives the longer queue to class 0 on Cityscapes too.
            sizes = [hyper.queue_size_class_0] + [hyper.queue_size] * (num_classes - 1)
            self.memory = MemoryBank(sizes, channels=channels, dtype=hyper.queue_dtype)
            self.num_enqueued = min(sizes) if hyper.max_enqueue_per_class is None else hyper.max_enqueue_per_class
        self.num_contrasted: Tensor | None = None

    def forward(self, student: Tensor, teacher: Tensor, pixels: Pixels) -> Tensor:
        """Return L_c, unweighted, of representations (2B, D, h, w). The gradient reaches the student's anchors only."""
        with torch.autocast(student.device.type, enabled=False):
            sets = find_sets(pixels, self.hyper)
            student_rows, teacher_rows = rows(student.float()), rows(teacher.detach().float())  # (n, D)
            chosen, num_anchors = sample_members(sets.anchors, self.hyper.num_anchors)
            anchors = student_rows.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)  # (C, M, D)
            positives = class_means(sets.positives, teacher_rows)  # (C, D)
            negatives, num_negatives = self.draw_negatives(sets.negatives, teacher_rows)
            active = (num_anchors > 0) & (num_negatives > 0)
            if self.hyper.defect_class_index:
                negatives, active = released_class_index(sets.present, num_anchors, negatives, num_negatives)
            loss = CONTRASTS[self.hyper.contrast](anchors, positives, negatives, self.hyper.temperature)  # (C,)
            self.num_contrasted = active.sum()
            return torch.where(active, loss, 0.0).sum() / self.normaliser(sets.present)

    @torch.no_grad()
    def draw_negatives(self, members: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return negatives (C, M or 1, N, D) of unit length, and how many there are to draw from (C,).

        They come from the queues, into which this batch's go first, or from this batch alone without queues.
        """
        num_sets = 1 if self.hyper.share_negatives else self.hyper.num_anchors
        num = num_sets * self.hyper.num_negatives
        if self.memory is None:
            chosen, counts = sample_members(members, num)
            drawn = functional.normalize(features.index_select(0, chosen.flatten()), dim=1).unflatten(0, chosen.shape)
        else:
            chosen, counts = spread_members(members, min(self.num_enqueued, len(members)))
            self.memory.enqueue(features.index_select(0, chosen.flatten()).unflatten(0, chosen.shape), counts)
            drawn, counts = self.memory.sample(num), self.memory.filled
        return drawn.unflatten(1, (num_sets, -1)), counts

    def monitors(self) -> dict[str, Tensor]:
        """Return how many classes the last loss contrasted, and how full the queues are (0-1)."""
        values = {} if self.num_contrasted is None else {"method/contrasted_classes": self.num_contrasted}
        if self.memory is not None:
            values["method/queues_filled"] = self.memory.filled.sum() / self.memory.capacity.sum()
            values |= self.memory.shares_filled()
        return values

    def normaliser(self, present: Tensor) -> Tensor | int:
        """Return C (Eq. 4), or the number of classes present (released code)."""
        return self.num_classes if self.hyper.contrast_normaliser == "classes" else present.sum().clamp(min=1)


def released_class_index(
    present: Tensor, num_anchors: Tensor, negatives: Tensor, num_negatives: Tensor
) -> tuple[Tensor, Tensor]:
    """Return negatives and active classes as the released loop over the k present classes takes them.

    Its i-th turn takes anchors and positive of class i, not of the i-th present class, but the latter's queue.
    So classes from k on have no loss; neither has anything where only one class is present.
    """
    queue_of = torch.sort((~present).int(), stable=True).indices  # (C,), the present classes first
    num_present = present.sum()
    turn = torch.arange(len(present), device=present.device) < num_present
    active = turn & (num_anchors > 0) & (num_negatives[queue_of] > 0) & (num_present > 1)
    return negatives[queue_of], active


def class_means(members: Tensor, features: Tensor) -> Tensor:
    """Return the mean feature (C, D) of each class's members (n, C), zero for a class without."""
    weights = members.t().to(features.dtype)
    return weights @ features / weights.sum(dim=1, keepdim=True).clamp(min=1)


def info_nce(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return each class's mean of -log e^{cos(z, z+)/τ} / (e^{cos(z, z+)/τ} + Σ_j e^{cos(z, z-_j)/τ}), Eq. 4: (C,)."""
    positive, negative = similarities(anchors, positives, negatives, temperature)
    return (torch.logaddexp(positive, negative.logsumexp(dim=2)) - positive).mean(dim=1)


def binary_contrast(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Return each class's binary cross-entropy L_b, Appendix C, Eq. A1: (C,).

    Our reading, since no code was released: every pair is classified alone by the sigmoid of cos / τ, the positive as 1
    and each negative as 0, and the mean over the N negatives weighs as much as the positive:
    -1 / (M N) Σ_i Σ_j [log σ(cos(z_i, z+)/τ) + log(1 - σ(cos(z_i, z-_ij)/τ))].
    """
    positive, negative = similarities(anchors, positives, negatives, temperature)
    return (functional.softplus(-positive) + functional.softplus(negative).mean(dim=2)).mean(dim=1)


CONTRASTS = {"infonce": info_nce, "bce": binary_contrast}


def similarities(anchors: Tensor, positives: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return cos / τ of anchors (C, M, D) with positives (C, D) and negatives (C, M or 1, N, D): (C, M), (C, M, N).

    Negatives are of unit length, to the bank's rounding: to divide here would cost a pass over M N of them a class.
    """
    anchors = functional.normalize(anchors, dim=2) / temperature
    positive = (anchors @ functional.normalize(positives, dim=1)[:, :, None])[:, :, 0]
    if negatives.shape[1] == 1:
        return positive, anchors @ negatives[:, 0].transpose(1, 2)
    return positive, (anchors[:, :, None] @ negatives.transpose(2, 3))[:, :, 0]
