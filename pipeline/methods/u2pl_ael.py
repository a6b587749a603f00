"""U2PL with AEL (last row of Table 3): all of AEL, and from `contrast_start_epoch` on the contrast of U2PL.

AEL pastes and cuts the classes doing badly, trains on more of their pixels and weighs pixels by the teacher's
confidence (see `ael`); U2PL leaves out the pixels the teacher is least sure of and makes them negatives of the classes
they are unlikely to be of (see `u2pl`).
Forwards: (1) the teacher on the unmixed unlabelled images, in eval mode, without gradient; (2) the student on the
labelled images; (3) the student on the mixed ones; (4, 5) the teacher in train mode on the batches of (2) and (3),
without gradient, for representations and its batch statistics (`buffers: own`). Each is a batch of its own.
Differs from the paper: it gives weight 0.1 and epoch 20, and nothing else of this row. That unlabelled pixels are
filtered by entropy as in Eq. 6, and that both their share and the negatives' follows Eq. 7, is our reading.
Differs from the released code (branch with_AEL), besides the parameters' second values: see `ael` and `u2pl`; what
entropy leaves out has no part in the weights' sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output
from pipeline.training.contrast import PixelContrast, Pixels
from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.entropy import entropy, reliability, unreliable_share
from pipeline.training.equalisation import AdaptiveMethod, AdaptiveParameters, Step
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import require
from pipeline.training.teacher import pseudo_labels


@dataclass(frozen=True, kw_only=True)
class Parameters(ContrastParameters, AdaptiveParameters):
    """AEL's parameters and those of the contrast, both inherited, and how they meet."""

    alpha0: float  # the share of unreliable pixels in the first epoch, 0–1
    dpa: bool  # dynamic partition adjustment of what is left out: the share falls to 0 over the epochs
    contrast_dpa: bool  # the same of anchors and negatives: true, or false
    entropy_drop: str  # what is left out: the most uncertain (high), or the most certain (low); none
    contrast_start_epoch: int  # counted from 0 and with the warm start

    def __post_init__(self) -> None:
        ContrastParameters.__post_init__(self)
        AdaptiveParameters.__post_init__(self)
        require("alpha0", 0 <= self.alpha0 < 1, of=self, allowed="at least 0 and below 1")
        require("entropy_drop", self.entropy_drop in ("high", "low", "none"), of=self, allowed="high, low or none")
        require("contrast_start_epoch", self.contrast_start_epoch >= 0, of=self, allowed="0 and above")

    def check_classes(self, num_classes: int) -> None:
        """Check what either half asks of the number of classes."""
        ContrastParameters.check_classes(self, num_classes)
        AdaptiveParameters.check_classes(self, num_classes)


class Method(AdaptiveMethod):
    """AEL's losses + contrast_weight · L_c; the teacher is deployed."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters, representation=True)
        channels = self.student.representation_channels
        self.contrast = PixelContrast(parameters, num_classes=setting.num_classes, channels=channels)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `supervised`, `unsupervised`, `labelled_consistency` if asked for, and, once begun, `contrastive`."""
        begun = self.hyper.contrast != "none" and progress.epoch >= self.hyper.contrast_start_epoch
        step = self.equalised_step(batch, progress, representation=begun)
        teacher_mixed = self.teacher.observe(step.mixed_images)
        if not begun:
            return step.losses
        loss = self.hyper.contrast_weight * self.contrastive(step, teacher_mixed, progress=progress)
        return step.losses | {"contrastive": loss}

    def contrastive(self, step: Step, teacher_mixed: Output, *, progress: Progress) -> Tensor:
        """Return L_c at the grid of the representation; the mask is nearest-sampled there."""
        teacher_labelled = step.teacher_labelled
        assert teacher_labelled is not None
        student, teacher = represent(step.labelled, step.mixed), represent(teacher_labelled, teacher_mixed)
        grid, logits = student.shape[-2:], step.teacher_mixed
        true, valid, learnt = (self.sample(values, grid) for values in (step.mask, step.valid, step.reliable))
        found = reliability(entropy(logits), valid, share=self.share(progress, dynamic=self.hyper.contrast_dpa))
        anchorable = (found.reliable if self.hyper.anchors == "reliable" else found.lowest) & learnt
        negatable = {"unreliable": found.unreliable, "reliable": found.lowest, "all": valid}[self.hyper.negatives]
        pixels = Pixels(
            labels=torch.cat([true, pseudo_labels(logits, valid)]),
            probability=torch.cat([teacher_labelled.logits, logits]).softmax(dim=1),
            anchorable=torch.cat([true != IGNORED, anchorable]),
            negatable=torch.cat([true != IGNORED, negatable]),
            num_labelled=len(true),
        )
        return self.contrast(student, teacher, pixels)

    def reliable(self, target: Tensor, valid: Tensor, *, progress: Progress) -> Tensor:
        """Return which pixels (B, h, w) of mixed images may be learnt: the valid ones that entropy leaves."""
        found = reliability(entropy(target), valid, share=self.share(progress, dynamic=self.hyper.dpa))
        return {"high": found.reliable, "low": valid & ~found.lowest, "none": valid}[self.hyper.entropy_drop]

    def share(self, progress: Progress, *, dynamic: bool) -> float:
        """Return the share of unreliable pixels, 0–1."""
        return unreliable_share(self.hyper.alpha0, progress.epoch_fraction, dynamic=dynamic)

    def monitors(self) -> dict[str, Tensor]:
        """Return AEL's and the contrast's."""
        return super().monitors() | self.contrast.monitors()

    def teach_labelled(self, images: Tensor) -> Output:
        """Return what the teacher says of labelled images, in train mode."""
        return self.teacher.observe(images)


def represent(labelled: Output, mixed: Output) -> Tensor:
    """Return the representations (2B, D, h, w) of both halves."""
    assert labelled.representation is not None
    assert mixed.representation is not None
    return torch.cat([labelled.representation, mixed.representation])
