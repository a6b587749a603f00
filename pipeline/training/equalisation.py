"""The step that AEL and U2PL with AEL share (Hu et al. 2021), and its parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output, SegNet
from pipeline.training.adaptive import balanced_loss, class_boxes, paste_classes, pixel_weights
from pipeline.training.class_bank import ConfidenceBank
from pipeline.training.method import Method, Progress, Setting
from pipeline.training.mixing import paste, spread_boxes
from pipeline.training.parameters import check_probability, check_weight, require
from pipeline.training.teacher import Teacher, check_teacher, confidence, pseudo_labels

CHOICES = {
    "teacher_mode": ("eval", "train"),
    "absent_class": ("keep", "zero"),
    "confidence_mean": ("image", "pixel"),
    "normaliser": ("image", "batch"),
}


AREAS = ("presence_area", "region_area")


@dataclass(frozen=True, kw_only=True)
class AdaptiveParameters:
    """What AEL can be asked for. Where two values have a name, the paper's comes first, the released code's second."""

    decay: float  # of the teacher
    buffers: str  # of the teacher: average, own or copy; released own
    teacher_mode: str  # eval; released train, where it labels by batch statistics and with dropout
    confidence_momentum: float  # of the bank, Eq. 7
    confidence_mean: str  # image (Eq. 4) or pixel
    initial_confidence: float | None  # 0–1; released null, at random; the paper does not say
    absent_class: str  # keep; released zero
    num_pasted_classes: int  # K of adaptive copy-paste
    paste_probability: float
    paste_scale: tuple[float, float]  # of what is pasted, on top of its weak view's own 0.5–2
    paste_power: float  # of 1 - confidence in the softmax that draws classes: 1 (Eq. 9) or 0.5
    excluded_classes: tuple[int, ...]  # never drawn to be pasted; none, or 0, 1, 2, 8, 10 on both data sets
    presence_area: float  # share of an image a class must cover to be present in it
    region_area: float  # share of an image a region must cover to be cut
    confidence_threshold: float  # below it nothing is learnt; none (0), or 0.7 on VOC
    gamma: float  # of dynamic re-weighting, Eq. 13
    beta: float  # of equalisation sampling, Eq. 10
    normaliser: str  # image (Eq. 12) or batch
    labelled_consistency: bool  # the same loss on labelled images too: false, or true
    weight: float  # of each consistency loss, alpha of Eq. 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "paste_scale", tuple(self.paste_scale))
        object.__setattr__(self, "excluded_classes", tuple(self.excluded_classes))
        for name, allowed in CHOICES.items():
            require(name, getattr(self, name) in allowed, of=self, allowed=" or ".join(allowed))
        check_teacher(self.decay, self.buffers)
        start, scale = self.initial_confidence, self.paste_scale
        require("initial_confidence", start is None or 0 <= start <= 1, of=self, allowed="0 to 1, or null")
        for name in (*AREAS, "confidence_momentum", "paste_probability", "confidence_threshold"):
            check_probability(name, getattr(self, name))
        for name in ("paste_power", "gamma", "beta", "weight"):
            check_weight(name, getattr(self, name))
        require("num_pasted_classes", self.num_pasted_classes >= 1, of=self, allowed="1 and above")
        in_order = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
        require("paste_scale", in_order, of=self, allowed="two numbers, 0 < low <= high <= 1")

    def check_classes(self, num_classes: int) -> None:
        """Refuse excluded classes that are none, or all."""
        some_left = set(self.excluded_classes) < set(range(num_classes))
        allowed = f"some, not all, of the classes 0 to {num_classes - 1}"
        require("excluded_classes", some_left, of=self, allowed=allowed)


class Mix(NamedTuple):
    """Boxes (B, H, W) to fill in each image from its partner (B,)."""

    inside: Tensor
    partners: Tensor

    def __call__(self, values: Tensor) -> Tensor:
        """Mix images (B, F, h, w) or maps (B, h, w)."""
        return paste(self.inside, values[self.partners], background=values)


class Step(NamedTuple):
    """What was seen and said in one step, for what a method adds to it."""

    losses: dict[str, Tensor]
    mask: Tensor  # (B, H, W) of the labelled images, pasted
    labelled: Output
    mixed_images: Tensor  # (B, 3, H, W)
    mixed: Output
    teacher_labelled: Output | None
    teacher_mixed: Tensor  # (B, C, h, w) logits of the teacher on the unmixed images, mixed
    valid: Tensor  # (B, H, W) of the mixed images
    reliable: Tensor  # (B, H, W) or (B, h, w), what of them may be learnt


class AdaptiveMethod(Method):
    """Student, teacher and confidence bank; the teacher is deployed."""

    def __init__(self, setting: Setting, parameters: AdaptiveParameters, *, representation: bool = False) -> None:
        super().__init__(setting, parameters)
        parameters.check_classes(setting.num_classes)
        self.student = setting.build(representation=representation)
        self.teacher = Teacher(self.student, decay=parameters.decay, buffers=parameters.buffers)
        self.bank = ConfidenceBank(
            setting.num_classes,
            momentum=parameters.confidence_momentum,
            mean=parameters.confidence_mean,
            initial=parameters.initial_confidence,
            absent_class=parameters.absent_class,
        )

    def equalised_step(self, batch: Batch, progress: Progress, *, representation: bool = False) -> Step:
        """Do everything AEL does in a step but the step itself; `representation` is for what is added to it."""
        size, weight = batch.mask.shape[-2:], self.hyper.weight
        images, mask = self.paste_labelled(batch)
        taught = self.teach(batch.unlabelled)
        taught_labelled = self.teach_labelled(images)
        mix = self.choose_mix(batch, taught)
        mixed_images, valid = mix(batch.unlabelled), mix(batch.valid)
        labelled = self.student(images, representation=representation)
        mixed = self.student(mixed_images, representation=representation)
        said, target = self.resize(labelled.logits, size), mix(self.resize(taught, size))
        self.bank.update(said, self.sample(mask, said.shape[-2:]))
        reliable = self.reliable(target, self.sample(valid, target.shape[-2:]), progress=progress)
        losses = {
            "supervised": self.setting.supervised(labelled, mask),
            "unsupervised": weight * self.consistency(self.resize(mixed.logits, size), target, reliable=reliable),
        }
        if self.hyper.labelled_consistency and taught_labelled is not None:
            known, target = self.sample(mask, said.shape[-2:]) != IGNORED, self.resize(taught_labelled.logits, size)
            losses["labelled_consistency"] = weight * self.consistency(said, target, reliable=known)
        return Step(losses, mask, labelled, mixed_images, mixed, taught_labelled, mix(taught), valid, reliable)

    def paste_labelled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return labelled images and mask after adaptive copy-paste."""
        hyper = self.hyper
        return paste_classes(
            batch.labelled,
            batch.mask,
            chances=self.bank.chances(power=hyper.paste_power, excluded=hyper.excluded_classes),
            num_pasted=hyper.num_pasted_classes,
            probability=hyper.paste_probability,
            scale=hyper.paste_scale,
        )

    def choose_mix(self, batch: Batch, taught: Tensor) -> Mix:
        """Choose boxes for adaptive CutMix; where none was found, one of half the image anywhere."""
        partners, boxes, found = class_boxes(
            taught.argmax(dim=1),
            self.sample(batch.valid, taught.shape[-2:]),
            chances=self.bank.chances(),
            size=(batch.mask.shape[-2], batch.mask.shape[-1]),
            presence_area=self.hyper.presence_area,
            region_area=self.hyper.region_area,
        )
        anywhere = spread_boxes(batch.unlabelled, area=(0.5, 0.5), num_boxes=1)
        return Mix(torch.where(found[:, None, None], boxes, anywhere), partners)

    def teach(self, images: Tensor) -> Tensor:
        """Return the teacher's logits (B, C, h, w) of unlabelled images, in the mode it labels in."""
        return (
            self.teacher.observe(images).logits if self.hyper.teacher_mode == "train" else self.teacher.predict(images)
        )

    def teach_labelled(self, images: Tensor) -> Output | None:
        """Return what the teacher says of labelled images, if it is asked."""
        if not self.hyper.labelled_consistency:
            return None
        return self.teacher.observe(images) if self.hyper.teacher_mode == "train" else self.teacher(images)

    def consistency(self, logits: Tensor, target: Tensor, *, reliable: Tensor) -> Tensor:
        """Return the loss of logits against the teacher's `target` logits (B, C, h, w) where they are `reliable`."""
        hyper, sure = self.hyper, confidence(target)
        labels, rates = pseudo_labels(target, reliable), self.bank.sampling_rates(hyper.beta)
        weights = pixel_weights(logits, labels, confidence=sure, rates=rates, gamma=hyper.gamma)
        learnt = sure >= hyper.confidence_threshold
        return balanced_loss(logits, labels, weights=weights, learnt=learnt, normaliser=hyper.normaliser)

    def reliable(self, target: Tensor, valid: Tensor, *, progress: Progress) -> Tensor:
        """Return which pixels (B, h, w) of mixed images may be learnt: all that are valid."""
        return valid

    def begin(self) -> None:
        """Start the teacher as the warm-started student."""
        self.teacher.start(self.student)

    def after_step(self, step: int) -> None:
        """Move the teacher after the student."""
        self.teacher.update(self.student, step)

    def monitors(self) -> dict[str, Tensor]:
        """Return the confidence of the best and of the worst class."""
        sure = self.bank.confidence
        return {"method/confidence_best": sure.max(), "method/confidence_worst": sure.min()}

    def predictors(self) -> dict[str, SegNet]:
        """Return student and teacher; the teacher is deployed."""
        return {"student": self.student, "teacher": self.teacher.net}
