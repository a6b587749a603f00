"""CutMix as the tables of U2PL have it: Mean Teacher whose student sees mixed images.

The teacher labels the clean unlabelled images. Then, with `mix_probability` for the batch as a whole, half of every
image is replaced by the same region of the next one, labels alike (French et al. 2020 in U2PL's form).

Batch normalisation: the student takes labelled and mixed images in one forward; the teacher, in eval mode, the clean
unlabelled ones. Differs from the paper: it gives neither box nor probability; both are the released code's (half of
the area, half of the steps). Differs from the released code: none was released for this row; it is U2PL's less its
contrast, its entropy filter and its teacher's second pass, which gives that teacher statistics of its own. Differs from
French et al.: hard labels without confidence weighting, and partners from the same batch.
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
from pipeline.training.mixing import half_area_boxes, mix_with_next
from pipeline.training.parameters import check_probability, check_weight
from pipeline.training.teacher import Teacher, check_teacher, pseudo_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`mix_probability` that a step mixes; `weight` of the unsupervised loss; `decay` and `buffers` of the teacher."""

    mix_probability: float
    weight: float
    decay: float
    buffers: str

    def __post_init__(self) -> None:
        check_probability("mix_probability", self.mix_probability)
        check_weight("weight", self.weight)
        check_teacher(self.decay, self.buffers, observes=False)


class Method(method.Method):
    """L = L_s + weight · CE(student(mix x_u), mix argmax teacher(x_u))."""

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
        inside = half_area_boxes(batch.unlabelled, probability=self.hyper.mix_probability)
        mixed, labels = mix_with_next(inside, batch.unlabelled, labels)
        output = self.student(torch.cat([batch.labelled, mixed]))  # (2B, …)
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
