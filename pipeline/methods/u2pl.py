"""U2PL (Wang et al., CVPR 2022): what the teacher is unsure of still says which classes a pixel is not of.

The teacher labels clean unlabelled images; the student learns these labels on mixed images, except at the α_t share of
pixels where the teacher's entropy is highest (Eqs. 6–8). Those unreliable pixels are negatives instead: of classes that
are unlikely there, rank r_l to r_h, they are pushed into one queue per class, and a contrastive loss keeps the
student's reliable pixels of each class near their mean and away from its queue (Eqs. 4, 9–16).

Batch normalisation: the student takes labelled and mixed images in one forward. The teacher sees the clean unlabelled
images in eval mode, and the student's very batch in train mode, which alone moves its statistics (`buffers: own`).

Differs from the paper: the queues' inflow is bounded (`max_enqueue_per_class`, ours: literally taken, one step
overwrites them whole); Eq. 8 counts valid pixels, so that padding has no weight. Where the paper is silent, the
released code's value is taken: CutMix in half of the steps, decay, batch norm, entropy from the second pass.
Differs from the released code, which the variants `released` (VOC) and `released_cityscapes` of params.yaml bring
back, defects D1–D4 and the label of padding included, and of Cityscapes no warm start and the heads' learning rate.
Not brought back: the teacher's statistics of the warm start (here a fresh network's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output, SegNet
from pipeline.training import method
from pipeline.training.contrast import PixelContrast
from pipeline.training.contrast_parameters import ContrastParameters
from pipeline.training.contrast_sets import Pixels
from pipeline.training.entropy import Reliability, entropy, reliability, unreliable_share
from pipeline.training.losses import above_zero, cross_entropy
from pipeline.training.method import Progress, Setting
from pipeline.training.mixing import MIXES, mix, mix_with_next
from pipeline.training.parameters import check_probability, check_weight, require
from pipeline.training.teacher import Teacher, check_teacher, pseudo_labels


@dataclass(frozen=True, kw_only=True)
class Parameters(ContrastParameters):
    """U2PL's parameters; those of the contrast are inherited."""

    alpha0: float  # α_0, the share of unreliable pixels in the first epoch, 0–1
    dpa: bool  # dynamic partition adjustment: α_t falls to 0 over the epochs; false: it stays
    entropy_source: str  # the teacher's pass the entropy is from: second (released; paper silent), or first
    weight: float  # η, base weight of the unsupervised loss
    mix: str  # cutmix, cutout, classmix: the released code has all three
    mix_probability: float  # the share of steps that mix
    decay: float  # of the teacher
    buffers: str  # own (released; paper silent), average, copy
    teacher_start: str  # copy; released: the teacher is the student through the first epoch, and its statistics stay
    padding: str  # ignored; released: learnt, as if the padding of unlabelled images were image

    def __post_init__(self) -> None:
        super().__post_init__()
        require("entropy_source", self.entropy_source in ("first", "second"), of=self, allowed="first or second")
        require("mix", self.mix in MIXES, of=self, allowed=" or ".join(MIXES))
        require("teacher_start", self.teacher_start in ("copy", "released"), of=self, allowed="copy or released")
        require("padding", self.padding in ("ignored", "learnt"), of=self, allowed="ignored or learnt")
        require("alpha0", 0 <= self.alpha0 < 1, of=self, allowed="at least 0 and below 1")
        check_weight("weight", self.weight)
        check_probability("mix_probability", self.mix_probability)
        check_teacher(self.decay, self.buffers)


class Method(method.Method):
    """L = L_s + η λ_u L_u + λ_c L_c."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build(representation=True)
        self.teacher = Teacher(self.student, decay=parameters.decay, buffers=parameters.buffers)
        self.contrast: PixelContrast | None = None
        if parameters.contrast != "none":
            channels = self.student.representation_channels
            self.contrast = PixelContrast(parameters, num_classes=setting.num_classes, channels=channels)
        self.steps_per_epoch = 0
        self.threshold: Tensor | None = None
        self.reliable_share: Tensor | None = None

    def begin(self) -> None:
        """Let the teacher start as the student."""
        self.teacher.start(self.student, buffers=self.hyper.teacher_start == "copy")

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised, the unsupervised and, where there is one, the contrastive loss."""
        self.steps_per_epoch = progress.total_steps // progress.epochs
        size, num = batch.mask.shape[-2:], len(batch.labelled)
        share = unreliable_share(self.hyper.alpha0, progress.epoch_fraction, dynamic=self.hyper.dpa)
        first = self.resize(self.teacher.predict(batch.unlabelled), size)
        valid = batch.valid if self.hyper.padding == "ignored" else torch.ones_like(batch.valid)
        labels, chance = pseudo_labels(first, valid), self.hyper.mix_probability
        inside, mixed, labels = mix(
            batch.unlabelled, labels, way=self.hyper.mix, probability=chance, num_classes=self.setting.num_classes
        )
        images = torch.cat([batch.labelled, mixed])  # (2B, 3, H, W)
        output = self.student(images, representation=self.contrast is not None)
        second = self.look_again(images, share)
        if second is None or self.hyper.entropy_source == "first":
            entropies = mix_with_next(inside, entropy(first))[0]
        else:
            # Image by image: the whole batch at full size would be the largest thing of the step outside the networks.
            entropies = torch.cat([entropy(self.resize(one, size)) for one in second.logits[num:].split(1)])
        found = reliability(entropies, labels != IGNORED, share=share)
        self.threshold = found.threshold
        self.reliable_share = found.reliable.sum() / above_zero((labels != IGNORED).sum())
        losses = {
            "supervised": self.setting.supervised(output.take(slice(num)), batch.mask),
            "unsupervised": self.hyper.weight * self.unsupervised(output.logits[num:], labels, found=found),
        }
        if self.contrast is not None and second is not None:
            contrastive = self.contrastive(output, second, labels=(batch.mask, labels), found=found)
            losses["contrastive"] = self.hyper.contrast_weight * contrastive
        return losses

    def look_again(self, images: Tensor, share: float) -> Output | None:
        """Return the teacher's second pass, on the student's batch and in train mode, where anything needs it."""
        filters = share > 0 and self.hyper.entropy_source == "second"
        needed = filters or self.contrast is not None or self.hyper.buffers == "own"
        return self.teacher.observe(images) if needed else None

    def unsupervised(self, logits: Tensor, labels: Tensor, *, found: Reliability) -> Tensor:
        """Return the cross-entropy over reliable pixels over their share of the valid ones (Eqs. 3 and 8).

        As released: the mean over reliable pixels is divided once more by their share, 1.25 at α_t = 20 %.
        """
        logits = self.resize(logits, labels.shape[-2:])
        kept = torch.where(found.reliable, labels, IGNORED)
        factor = (labels != IGNORED).sum() / above_zero(found.reliable.sum())
        return factor * cross_entropy(logits, kept)

    def contrastive(
        self, output: Output, teacher: Output, *, labels: tuple[Tensor, Tensor], found: Reliability
    ) -> Tensor:
        """Return L_c at the grid of the representation; labels and masks are nearest-sampled there."""
        assert self.contrast is not None
        assert output.representation is not None
        assert teacher.representation is not None
        grid = output.representation.shape[-2:]
        true, pseudo = (self.sample(half, grid) for half in labels)
        anchorable = found.reliable if self.hyper.anchors == "reliable" else found.lowest
        everywhere = labels[1] != IGNORED
        negatable = {"unreliable": found.unreliable, "reliable": found.lowest, "all": everywhere}[self.hyper.negatives]
        pixels = Pixels(
            labels=torch.cat([true, pseudo]),
            probability=teacher.logits.softmax(dim=1),
            anchorable=torch.cat([true != IGNORED, self.sample(anchorable, grid)]),
            negatable=torch.cat([true != IGNORED, self.sample(negatable, grid)]),
            num_labelled=len(true),
        )
        return self.contrast(output.representation, teacher.representation, pixels)

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        if self.hyper.teacher_start == "released" and step < self.steps_per_epoch:
            self.teacher.start(self.student, buffers=False)
        else:
            self.teacher.update(self.student, step)

    def monitors(self) -> dict[str, Tensor]:
        """Return the entropy threshold γ_t, the share of reliable pixels, and what the contrast says of itself."""
        values = {}
        if self.threshold is not None and self.reliable_share is not None:
            # With nothing to drop the threshold is infinite; no entropy exceeds log C.
            values["method/entropy_threshold"] = self.threshold.clamp(max=math.log(self.setting.num_classes))
            values["method/reliable_share"] = self.reliable_share
        return values if self.contrast is None else values | self.contrast.monitors()

    def predictors(self) -> dict[str, SegNet]:
        """Return student and teacher; the teacher is what is deployed."""
        return {"student": self.student, "teacher": self.teacher.net}
