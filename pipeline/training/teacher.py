"""The teacher of the mean-teacher family: an exponential moving average of the student (Tarvainen & Valpola, 2017)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output, SegNet
from pipeline.training.losses import sample_nearest

BUFFERS = ("average", "own", "copy")


class Teacher(nn.Module):
    """A network that no gradient reaches and that follows the student: θ ← d·θ + (1 - d)·θ_student.

    The decay d is min(1 - 1/(s + 1), `decay`) at step s from the end of the warm start. `buffers` says what becomes of
    its batch-norm statistics: `average` moves them like the weights, `copy` takes the student's, `own` leaves
    them to the teacher's own forwards in train mode (`observe`). It stays in eval mode, whatever the method's mode is.
    """

    def __init__(self, student: SegNet, *, decay: float, buffers: str) -> None:
        super().__init__()
        check_teacher(decay, buffers)
        self.decay = decay
        self.buffer_rule = buffers
        self.net = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Output:
        """Return logits and representation of images (B, 3, H, W), in eval mode."""
        return self.net(images, auxiliary=False)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return logits (B, C, h, w) alone, in eval mode, without running the other heads."""
        return self.net.predict(images)

    @torch.no_grad()
    def observe(self, images: Tensor) -> Output:
        """Return the same in train mode: dropout on, batch statistics used, and followed where `buffers` is `own`."""
        buffers = [] if self.buffer_rule == "own" else list(self.net.buffers())
        kept = [buffer.clone() for buffer in buffers]
        self.net.train()
        output = self.net(images, auxiliary=False)
        self.net.eval()
        if buffers:
            torch._foreach_copy_(buffers, kept)
        return output

    @torch.no_grad()
    def start(self, student: SegNet, *, buffers: bool = True) -> None:
        """Copy the student's weights, and its batch-norm statistics unless told not to."""
        torch._foreach_copy_(list(self.net.parameters()), list(student.parameters()))
        own = list(self.net.buffers())
        if buffers and own:
            torch._foreach_copy_(own, list(student.buffers()))

    @torch.no_grad()
    def update(self, student: SegNet, step: int) -> None:
        """Follow the student after optimiser step `step`, counted from 0 at the end of the warm start."""
        share = 1 - min(1 - 1 / (step + 1), self.decay)
        torch._foreach_lerp_(list(self.net.parameters()), list(student.parameters()), share)
        pairs = list(zip(self.net.buffers(), student.buffers(), strict=True))
        if self.buffer_rule == "average":  # of means and variances; the counts of batches stay
            pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        if self.buffer_rule == "own" or not pairs:
            return
        own, new = map(list, zip(*pairs, strict=True))
        if self.buffer_rule == "average":
            torch._foreach_lerp_(own, new, share)
        else:
            torch._foreach_copy_(own, new)

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode: a teacher labels in eval mode, and `observe` alone leaves it for one forward."""
        return super().train(False)


def pseudo_labels(logits: Tensor, valid: Tensor) -> Tensor:
    """Return the most likely class (B, H, W) int64 of logits (B, C, H, W), ignored where `valid` is false.

    `valid` (B, H', W') bool is nearest-sampled at the logits' size.
    """
    return torch.where(sample_nearest(valid, logits.shape[-2:]), logits.max(dim=1).indices, IGNORED)


def confidence(logits: Tensor) -> Tensor:
    """Return the probability (B, H, W) of the most likely class of logits (B, C, H, W)."""
    return logits.float().softmax(dim=1).amax(dim=1)


def check_decay(decay: float) -> None:
    """Refuse a decay that is not in [0, 1)."""
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; allowed: at least 0 and below 1")


def check_teacher(decay: float, buffers: str, *, observes: bool = True) -> None:
    """Refuse a decay, an unknown rule, and `own` of a teacher that `observes` nothing: its statistics would stay."""
    check_decay(decay)
    allowed = BUFFERS if observes else [rule for rule in BUFFERS if rule != "own"]
    if buffers not in allowed:
        raise ValueError(f"buffers is {buffers!r}; allowed: {', '.join(allowed)}")
