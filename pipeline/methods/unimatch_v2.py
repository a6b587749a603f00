"""UniMatch V2's training step (Yang et al., TPAMI 2025) on this project's network.

A teacher, the moving average of the student, labels a weak view of each unlabelled image; the student learns the
confident labels on two strong views, each with its own colours and CutMix box. UniMatch's separate stream of perturbed
features is gone: the two views see complementary halves of the feature channels instead, so that together they train
every channel and neither can rely on the other's.
Forwards: (1) the teacher on the weak images, in eval mode, without gradient; (2) the student on the labelled images;
(3) the student on both strong views in one batch.
Differs from the paper: it uses DINOv2 with a DPT decoder and AdamW, whose four maps have equal widths and share one
channel mask; here the step runs on ResNet and DeepLabv3+, so the two maps the decoder reads (stages 1 and 4, those
UniMatch perturbs) have a mask each.
Differs from the released code: the same; colour operations keep a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.segnet import SegNet
from pipeline.training import method
from pipeline.training.method import Progress, Setting
from pipeline.training.mixing import aspect_boxes, paste
from pipeline.training.parameters import check_interval, check_probability, check_weight
from pipeline.training.photometric import unimatch_view
from pipeline.training.teacher import Teacher, check_teacher
from pipeline.training.weak_to_strong import Weak, confident_loss, weak_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`dropout_share` of the pairs of views see complementary channels (0: none do)."""

    decay: float
    buffers: str
    confidence_threshold: float
    dropout_share: float
    box_probability: float
    box_area: tuple[float, float]  # shares of the image
    box_aspect: tuple[float, float]  # height / width
    supervised_weight: float
    weight: float

    def __post_init__(self) -> None:
        for name in ("confidence_threshold", "dropout_share", "box_probability"):
            check_probability(name, getattr(self, name))
        for name in ("supervised_weight", "weight"):
            check_weight(name, getattr(self, name))
        check_teacher(self.decay, self.buffers, observes=False)
        check_interval("box_area", self.box_area, most=1)
        check_interval("box_aspect", self.box_aspect)


class Method(method.Method):
    """UniMatch V2; the teacher is deployed."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.teacher = Teacher(self.student, decay=parameters.decay, buffers=parameters.buffers)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `supervised` and `strong`."""
        hyper, size = self.hyper, batch.mask.shape[-2:]
        labels = weak_labels(self.resize(self.teacher.predict(batch.unlabelled), size), batch.valid)
        views = [self.strong(batch.unlabelled, labels) for _ in range(2)]
        labelled = self.student(batch.labelled)
        strong = self.resize(self.predict_pair(torch.cat([view for view, _ in views])), size).chunk(2)
        of_views = [
            confident_loss(seen, target, threshold=hyper.confidence_threshold)
            for seen, (_, target) in zip(strong, views, strict=True)
        ]
        return {
            "supervised": hyper.supervised_weight * self.setting.supervised(labelled, batch.mask),
            "strong": hyper.weight * torch.stack(of_views).mean(),
        }

    def strong(self, images: Tensor, labels: Weak) -> tuple[Tensor, Weak]:
        """Return a strong view whose boxes are filled from the reversed batch, and its labels."""
        hyper = self.hyper
        view = unimatch_view(images)
        inside = aspect_boxes(images, area=hyper.box_area, aspect=hyper.box_aspect, probability=hyper.box_probability)
        return paste(inside, view.flip(0), background=view), labels.paste(inside, labels.reversed())

    def predict_pair(self, views: Tensor) -> Tensor:
        """Return logits of both views (2B, 3, H, W), complementary channels dropped."""
        features, share = self.student.features(views), self.hyper.dropout_share
        if share > 0:
            apart = dropped_pairs(views, share)
            features = [drop_apart(c, apart) if at in (0, 3) else c for at, c in enumerate(features)]
        return self.student.classify(self.student.fuse(features))

    def begin(self) -> None:
        """Start the teacher as the warm-started student."""
        self.teacher.start(self.student)

    def after_step(self, step: int) -> None:
        """Move the teacher after the student."""
        self.teacher.update(self.student, step)

    def predictors(self) -> dict[str, SegNet]:
        """Return student and teacher."""
        return {"student": self.student, "teacher": self.teacher.net}


def dropped_pairs(views: Tensor, share: float) -> Tensor:
    """Choose which pairs (B,) of views (2B, …) see complementary channels: all but ⌊(1 - share) · B⌋ at random."""
    num_pairs = len(views) // 2
    rank = torch.rand(num_pairs, device=views.device).argsort().argsort()
    return rank >= int((1 - share) * num_pairs + 1e-6)  # 1 - 0.9 is a little less than 0.1


def drop_apart(features: Tensor, apart: Tensor) -> Tensor:
    """Zero half the channels of the first of each pair that is `apart` and the others of its twin; double the rest."""
    kept = torch.rand(len(apart), features.shape[1], device=features.device) < 0.5  # (B, F)
    scale = 2.0 * torch.stack([kept, ~kept]).float()
    scale = torch.where(apart[:, None], scale, 1.0).flatten(0, 1)  # (2B, F)
    return features * scale[:, :, None, None]
