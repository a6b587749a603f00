"""Adaptive Equalization Learning (AEL, Hu et al., NeurIPS 2021): Mean Teacher that favours the classes doing badly.

A confidence bank tracks what probability the student gives to the true class on labelled images. Classes that do badly
are pasted more often into other labelled images (adaptive copy-paste) and cut more often from one unlabelled image into
another (adaptive CutMix: the box is the bounding box of one region of the class, as the teacher predicts it); more of
their pixels are trained on (equalisation sampling), and every pixel weighs its teacher's confidence to the power gamma.
Forwards: (1) the teacher on the unmixed unlabelled images, without gradient, in eval mode unless `teacher_mode: train`;
(2) the student on the labelled images; (3) the student on the mixed ones; (4) with `labelled_consistency`, the teacher
on the labelled ones, like (1). Each is a batch of its own.
Differs from the paper: both partners come from the batch, not from the whole set; the regions are those on the logits'
grid; a class no image of the batch has leaves a half-area box anywhere. Which prediction samples a pixel the paper does
not say: the student's, as released. What is pasted is shrunk once more, and not enlarged: 0.1–2 in all, as released.
Differs from the released code, besides the parameters' second values: the same; it mixes one image per GPU and throws
the other away, and draws the classes to paste once per step, not per image.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.training.equalisation import AdaptiveMethod, AdaptiveParameters
from pipeline.training.method import Progress
from pipeline.training.parameters import require


@dataclass(frozen=True, kw_only=True)
class Parameters(AdaptiveParameters):
    """AEL's own and no others: `pipeline.training.equalisation` describes them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        observes = self.buffers != "own" or self.teacher_mode == "train"
        require("buffers", observes, of=self, allowed="average or copy, or own with teacher_mode train")


class Method(AdaptiveMethod):
    """L = L_s + weight · consistency (Eqs. 3, 12, 13); the teacher is deployed."""

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `supervised`, `unsupervised` and, where asked for, `labelled_consistency`."""
        return self.equalised_step(batch, progress).losses
