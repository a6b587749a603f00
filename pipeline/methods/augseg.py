"""AugSeg (Zhao et al., CVPR 2023): plain teacher and student, and augmentation does the work.

A teacher labels a weak view of each unlabelled image; the student learns the confident labels on a version whose
colours went through one to three random operations of random strength, and into which a CutMix box is pasted. Where
the teacher is unsure of an image, what is pasted from it more often carries a part of a labelled image, with its true
labels at confidence 1.
Forwards: (1) the teacher on the weak images, in eval mode, without gradient; (2) the student on labelled and mixed
images in one batch, with gradient; with `weak_in_batch` the weak images are in it too, for batch statistics only.
Differs from the paper: padded pixels count neither in the loss, its mean, nor in how sure the teacher is.
Differs from the released code: the same; colours change on the device after cropping. Nothing here comes from that
code, which has no licence: what is said of it is what was reported of its behaviour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Gamma

from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training import method
from pipeline.training.method import Progress, Setting
from pipeline.training.mixing import paste, rectangles
from pipeline.training.parameters import check_probability, check_weight
from pipeline.training.randk import random_view
from pipeline.training.teacher import Teacher, check_teacher
from pipeline.training.weak_to_strong import Weak, certainty, confident_loss, weak_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The Betas are of λ, the share of the image outside a box: of labelled content, and of mixing."""

    decay: float
    buffers: str
    confidence_threshold: float
    max_operations: int
    label_injection: bool
    injection_beta: list[float]
    mix_beta: list[float]
    weak_in_batch: bool
    weight: float

    def __post_init__(self) -> None:
        check_probability("confidence_threshold", self.confidence_threshold)
        check_weight("weight", self.weight)
        check_teacher(self.decay, self.buffers, observes=False)
        if not isinstance(self.max_operations, int) or self.max_operations < 0:
            raise ValueError(f"max_operations is {self.max_operations}; allowed: whole numbers from 0 (colours stay)")
        for name in ("injection_beta", "mix_beta"):
            values = getattr(self, name)
            if len(values) != 2 or min(values) <= 0:
                raise ValueError(f"{name} is {values}; allowed: two numbers above 0")


class Method(method.Method):
    """AugSeg; the teacher is deployed."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.teacher = Teacher(self.student, decay=parameters.decay, buffers=parameters.buffers)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `supervised` and `unsupervised`."""
        hyper, size, num = self.hyper, batch.mask.shape[-2:], len(batch.labelled)
        logits = self.resize(self.teacher.predict(batch.unlabelled), size)
        images, target = self.mix(batch, weak_labels(logits, batch.valid), sure=certainty(logits, batch.valid))
        weak = [batch.unlabelled] if hyper.weak_in_batch else []
        output = self.student(torch.cat([batch.labelled, images, *weak]))
        strong = self.resize(output.logits[num : num + len(images)], size)
        unsupervised = confident_loss(strong, target, threshold=hyper.confidence_threshold)
        return {
            "supervised": self.setting.supervised(output.take(slice(num)), batch.mask),
            "unsupervised": hyper.weight * unsupervised,
        }

    def mix(self, batch: Batch, labels: Weak, *, sure: Tensor) -> tuple[Tensor, Weak]:
        """Return strong mixed images (B, 3, H, W) and their labels; `sure` (B,) is the teacher's certainty."""
        hyper, images = self.hyper, batch.unlabelled
        if hyper.max_operations > 0:
            images = random_view(images, max_operations=hyper.max_operations)
        source, source_labels = images, labels
        if hyper.label_injection:
            source, source_labels = self.inject(batch, images, labels=labels, sure=sure)
        partner = torch.randperm(len(images), device=images.device)
        inside = beta_boxes(images, hyper.mix_beta)
        pasted = Weak(*(values[partner] for values in source_labels))
        return paste(inside, source[partner], background=images), labels.paste(inside, pasted)

    def inject(self, batch: Batch, images: Tensor, *, labels: Weak, sure: Tensor) -> tuple[Tensor, Weak]:
        """Paste into each image, with probability 1 - `sure`, a box of a random labelled image."""
        donor = torch.randint(len(batch.labelled), (len(images),), device=images.device)
        happens = torch.rand_like(sure) >= sure
        inside = beta_boxes(images, self.hyper.injection_beta) & happens[:, None, None]
        mask = self.sample(batch.mask[donor], labels.labels.shape[-2:])
        known = Weak(mask, torch.ones_like(labels.confidence))
        return paste(inside, batch.labelled[donor], background=images), labels.paste(inside, known)

    def begin(self) -> None:
        """Start the teacher as the warm-started student."""
        self.teacher.start(self.student)

    def after_step(self, step: int) -> None:
        """Move the teacher after the student."""
        self.teacher.update(self.student, step)

    def predictors(self) -> dict[str, SegNet]:
        """Return student and teacher."""
        return {"student": self.student, "teacher": self.teacher.net}


def beta_boxes(images: Tensor, beta: list[float]) -> Tensor:
    """Draw one box per image that covers 1 - λ of it, λ ~ Beta; it has the image's aspect and lies inside."""
    height, width = images.shape[-2:]
    concentrations = torch.stack([torch.full((len(images), 1), value, device=images.device) for value in beta])
    # A Beta variable is one Gamma's share of two; torch's own Beta has no kernel for fake tensors.
    drawn = Gamma(concentrations, torch.ones_like(concentrations), validate_args=False).sample()
    side = (1 - drawn[0] / drawn.sum(dim=0)).sqrt()  # (B, 1), of the image's
    return rectangles((side * height).round().long(), (side * width).round().long(), size=(height, width))
