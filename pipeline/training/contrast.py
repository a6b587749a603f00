"""The contrast of U2PL (Section 3.3): reliable anchors against ranked negatives, class by class (Eq. 4).

`PixelContrast` draws anchors and negatives from the sets that `contrast_sets` finds, keeps the queues, and computes the
loss. There is no loop over classes and nothing is read on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels, Sets, find_sets, rows
from pipeline.training.memory import MemoryBank, rows_at_once
from pipeline.training.sampling import sample_members, spread_members

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From cos / τ with the positive (S, A) and the negatives (S, A, N) to the loss (S, A) and its derivatives by both."""


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
            anchors = functional.embedding(chosen, student_rows)  # (C, M, D); its gradient is made in one piece
            positives = class_means(sets.positives, teacher_rows)  # (C, D)
            features, drawn, num_negatives = self.draw_negatives(sets.negatives, teacher_rows)
            active = (num_anchors > 0) & (num_negatives > 0)
            if self.hyper.defect_class_index:
                drawn, active = released_class_index(
                    sets.present, num_anchors, drawn=drawn, num_negatives=num_negatives
                )
            anchors = functional.normalize(anchors, dim=2) / self.hyper.temperature
            positives = functional.normalize(positives, dim=1)
            loss = contrast(
                anchors, positives, features=features, drawn=drawn, formula=FORMULAS[self.hyper.contrast]
            )  # (C,)
            self.num_contrasted = active.sum()
            return torch.where(active, loss, 0.0).sum() / self.normaliser(sets)

    @torch.no_grad()
    def draw_negatives(self, members: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (n, D) of unit length, each set's rows of it (C, M or 1, N), and how many there were (C,).

        They come from the queues, into which this batch's go first, or from this batch alone without queues.
        """
        num_sets = 1 if self.hyper.share_negatives else self.hyper.num_anchors
        num = num_sets * self.hyper.num_negatives
        if self.memory is None:
            drawn, counts = sample_members(members, num)
            features = functional.normalize(features, dim=1)
        else:
            chosen, counts = spread_members(members, min(self.num_enqueued, members.shape[1]))
            self.memory.enqueue(features, chosen, counts=counts)
            drawn, counts, features = self.memory.draw(num), self.memory.filled, self.memory.features
        return features, drawn.unflatten(1, (num_sets, -1)), counts

    def monitors(self) -> dict[str, Tensor]:
        """Return how many classes the last loss contrasted, and how full the queues are (0-1)."""
        values = {} if self.num_contrasted is None else {"method/contrasted_classes": self.num_contrasted}
        if self.memory is not None:
            values["method/queues_filled"] = self.memory.filled.sum() / self.memory.capacity.sum()
            values |= self.memory.shares_filled()
        return values

    def normaliser(self, sets: Sets) -> Tensor | int:
        """Return C (Eq. 4), or the number of classes present (released code)."""
        return self.num_classes if self.hyper.contrast_normaliser == "classes" else sets.present.sum().clamp(min=1)


def released_class_index(
    present: Tensor, num_anchors: Tensor, *, drawn: Tensor, num_negatives: Tensor
) -> tuple[Tensor, Tensor]:
    """Return drawn negatives and active classes as the released loop over the k present classes takes them.

    Its i-th turn takes anchors and positive of class i, not of the i-th present class, but the latter's queue.
    So classes from k on have no loss; neither has anything where only one class is present.
    """
    queue_of = torch.sort((~present).int(), stable=True).indices  # (C,), the present classes first
    num_present = present.sum()
    turn = torch.arange(len(present), device=present.device) < num_present
    active = turn & (num_anchors > 0) & (num_negatives[queue_of] > 0) & (num_present > 1)
    return drawn[queue_of], active


def class_means(members: Tensor, features: Tensor) -> Tensor:
    """Return the mean feature (C, D) of each class's members (C, n), zero for a class without."""
    weights = members.to(features.dtype)
    return weights @ features / weights.sum(dim=1, keepdim=True).clamp(min=1)


def contrast(anchors: Tensor, positives: Tensor, *, features: Tensor, drawn: Tensor, formula: Formula) -> Tensor:
    """Return the mean over each class's anchors of what `formula` gives for them: (C,).

    Of anchors (C, M, D) of length 1/τ, positives (C, D), and the negatives in the rows `drawn` (C, M or 1, N) of
    `features` (n, D). Those are of unit length, to the bank's rounding: to divide here would cost a pass over them.
    """
    num_classes, num_sets, _ = drawn.shape
    sets = anchors.reshape(num_classes * num_sets, -1, anchors.shape[2])  # (S, A, D)
    losses = _Contrast.apply(sets, positives.repeat_interleave(num_sets, dim=0), features, drawn.flatten(0, 1), formula)
    return losses.view(num_classes, -1).mean(dim=1)


class _Contrast(torch.autograd.Function):
    """The formula for S sets of A anchors, some sets at a time; the gradient is made at once, in the forward pass.

    So the negatives of a few sets are alive at a time, instead of all until the backward pass, and they are still in a
    CPU's cache when they are needed again.
    """

    @staticmethod
    def forward(
        ctx: Any, anchors: Tensor, positives: Tensor, features: Tensor, drawn: Tensor, formula: Formula
    ) -> Tensor:
        num = max(1, rows_at_once(features) // drawn.shape[1])
        # One place for all parts: on a CPU, new memory for each can take longer than what is done with it.
        place = features.new_empty(min(num, len(drawn)), drawn.shape[1], features.shape[1], dtype=torch.float32)
        losses, gradients = [], []
        for part, mean, rows_ in zip(anchors.split(num), positives.split(num), drawn.split(num), strict=True):
            negatives = place[: len(rows_)]  # (S', N, D)
            negatives.copy_(features.index_select(0, rows_.flatten()).view_as(negatives))
            positive, negative = (part @ mean[:, :, None])[:, :, 0], part @ negatives.transpose(1, 2)
            loss, by_positive, by_negative = formula(positive, negative)
            losses.append(loss)
            gradients.append(by_positive[:, :, None] * mean[:, None] + by_negative @ negatives)
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return given[:, :, None] * gradient, None, None, None, None


def info_nce(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return -log e^{cos(z, z+)/τ} / (e^{cos(z, z+)/τ} + Σ_j e^{cos(z, z-_j)/τ}), Eq. 4, and its derivatives.

    Of the exponents: positive (S, A), negative (S, A, N). The loss and the first derivative are (S, A).
    """
    total = torch.logaddexp(positive, negative.logsumexp(dim=2))
    return total - positive, (positive - total).exp() - 1, (negative - total[:, :, None]).exp()


def binary_contrast(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the binary cross-entropy L_b, Appendix C, Eq. A1, and its derivatives; shapes as in `info_nce`.

    Our reading, since no code was released: every pair is classified alone by the sigmoid of cos / τ, the positive as 1
    and each negative as 0, and the mean over the N negatives weighs as much as the positive:
    -1 / N Σ_j [log σ(cos(z, z+)/τ) + log(1 - σ(cos(z, z-_j)/τ))].
    """
    loss = functional.softplus(-positive) + functional.softplus(negative).mean(dim=2)
    return loss, -(-positive).sigmoid(), negative.sigmoid() / negative.shape[2]


FORMULAS: dict[str, Formula] = {"infonce": info_nce, "bce": binary_contrast}
