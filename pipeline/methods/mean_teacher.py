"""Mean Teacher as the tables of U2PL have it: the student learns the hard labels of its own moving average.

The teacher labels the weakly augmented unlabelled images; every valid pixel counts, there is no threshold. The
student sees the same images, not mixed: CutMix without mixing, or U2PL with nothing dropped and no contrast.

Batch normalisation: the student takes labelled and unlabelled images in one forward; the teacher, in eval mode, the
unlabelled ones. Differs from the paper: it says no more than "identical except …"; whether U2PL's entropy filter was
active in its baseline is not said, and it is not here; the teacher's statistics are an average of the student's, U2PL's
observes its own in a second pass. Differs from the released code: none was released for this row.
Differs from Tarvainen & Valpola (2017): hard labels and cross-entropy instead of an L2 consistency, no ramp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training import method
from pipeline.training.losses import cross_entropy
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import check_weight
from pipeline.training.teacher import Teacher, check_teacher, pseudo_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`weight` of the unsupervised loss; `decay` and batch-norm `buffers` (average, copy) of the teacher."""

    weight: float
    decay: float
    buffers: str

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_teacher(self.decay, self.buffers, observes=False)


class Method(method.Method):
    """L = L_s + weight · CE(student(x_u), argmax teacher(x_u))."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.teacher = Teacher(self.student, decay=parameters.decay, buffers=parameters.buffers)

    def begin(self) -> None:
        """Let the teacher start as the student."""
        self.teacher.start(self.student)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised and the unsupervised loss."""
        size, num = batch.mask.shape[-2:], len(batch.labelled)
        labels = pseudo_labels(self.resize(self.teacher.predict(batch.unlabelled), size), batch.valid)
        output = self.student(torch.cat([batch.labelled, batch.unlabelled]))  # (2B, …)
        logits = self.resize(output.logits[num:], size)
        return {
            "supervised": self.setting.supervised(output.take(slice(num)), batch.mask),
            "unsupervised": self.hyper.weight * cross_entropy(logits, labels),
        }

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        self.teacher.update(self.student, step)

    def predictors(self) -> dict[str, SegNet]:
        """Return student and teacher; the teacher is what is deployed."""
        return {"student": self.student, "teacher": self.teacher.net}
