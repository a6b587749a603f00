"""UniMatch (Yang et al., CVPR 2023), and FixMatch as its special case.

One network labels a weak view of each unlabelled image and learns those labels, where it is confident, on harder
versions of the same image: two strong views, each with its own colours and CutMix box, and the weak view again with
half the channels of its features dropped. FixMatch is one strong view and no dropped features.
Forwards: (1) labelled and weak images in one batch, with gradient, whose weak half, detached, gives the labels; the
decoder sees the weak features twice, plain and dropped, in the same batch; (2) all strong views in one batch, with
gradient; (3) with `partner_labels: eval`, the weak images in eval mode, without gradient.
Differs from the paper: boxes are filled from the batch in reverse order, not from a second unlabelled batch (the
author's advice, and what UniMatch V2 does).
Differs from the released code: the same; the labelled half is not decoded a second time, dropped, only to be thrown
away, so the decoder's batch statistics are of 3 B instead of 4 B maps; colour operations keep a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.models.segnet import Output
from pipeline.training import method
from pipeline.training.method import Progress, Setting
from pipeline.training.mixing import aspect_boxes, paste
from pipeline.training.parameters import check_interval, check_probability, check_weight
from pipeline.training.perturb import channel_dropout
from pipeline.training.photometric import unimatch_view
from pipeline.training.weak_to_strong import Weak, confident_loss, weak_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`feature_share` is the perturbed features' part of the unsupervised loss, the views share the rest equally."""

    num_strong_views: int
    feature_perturbation: bool
    feature_dropout: float
    feature_share: float
    confidence_threshold: float
    partner_labels: str  # of what fills the boxes: `train` reuses the labels at hand, `eval` predicts them once more
    box_probability: float
    box_area: tuple[float, float]  # shares of the image
    box_aspect: tuple[float, float]  # height / width
    supervised_weight: float
    weight: float

    def __post_init__(self) -> None:
        if self.num_strong_views not in (1, 2):
            raise ValueError(f"num_strong_views is {self.num_strong_views}; allowed: 1, 2")
        if self.partner_labels not in ("train", "eval"):
            raise ValueError(f"partner_labels is {self.partner_labels!r}; allowed: train, eval")
        for name in ("feature_dropout", "feature_share", "confidence_threshold", "box_probability"):
            check_probability(name, getattr(self, name))
        for name in ("supervised_weight", "weight"):
            check_weight(name, getattr(self, name))
        check_interval("box_area", self.box_area, most=1)
        check_interval("box_aspect", self.box_aspect)


class Method(method.Method):
    """UniMatch; the network itself is deployed."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return `supervised`, `strong` and, with feature perturbation, `features`."""
        hyper, size = self.hyper, batch.mask.shape[-2:]
        labelled, logits = self.forward_weak(batch)
        weak, *dropped = self.resize(logits, size).split(len(batch.unlabelled))
        labels = weak_labels(weak, batch.valid)
        partner = self.label_in_eval_mode(batch) if hyper.partner_labels == "eval" else labels
        views = [self.strong(batch.unlabelled, labels, partner=partner) for _ in range(hyper.num_strong_views)]
        strong = self.resize(self.student.predict(torch.cat([view for view, _ in views])), size).chunk(len(views))
        of_views = [self.unsupervised(seen, target) for seen, (_, target) in zip(strong, views, strict=True)]
        share = hyper.feature_share if hyper.feature_perturbation else 0.0
        losses = {
            "supervised": hyper.supervised_weight * self.setting.supervised(labelled, batch.mask),
            "strong": (1 - share) * torch.stack(of_views).mean(),
        }
        if hyper.feature_perturbation:
            losses["features"] = share * self.unsupervised(dropped[0], labels)
        return losses

    def unsupervised(self, logits: Tensor, labels: Weak) -> Tensor:
        """Return the weighted loss of logits (B, C, h, w) against the confident labels."""
        return self.hyper.weight * confident_loss(logits, labels, threshold=self.hyper.confidence_threshold)

    def forward_weak(self, batch: Batch) -> tuple[Output, Tensor]:
        """Return the output for the labelled images, and logits of the weak ones, followed by the dropped ones'."""
        num, student = len(batch.labelled), self.student
        features = student.features(torch.cat([batch.labelled, batch.unlabelled]))
        auxiliary = None if student.auxiliary_head is None else student.auxiliary_head(features[2]).float()[:num]
        if self.hyper.feature_perturbation:
            rate = self.hyper.feature_dropout
            c1, c4 = (torch.cat([c, channel_dropout(c[num:], rate)]) for c in (features[0], features[-1]))
            features = [c1, *features[1:-1], c4]
        logits = student.classify(student.fuse(features))
        return Output(logits[:num], None, auxiliary), logits[num:]

    @torch.no_grad()
    def label_in_eval_mode(self, batch: Batch) -> Weak:
        """Label the weak view by running statistics, without dropout, as the released code labels its second batch."""
        self.student.eval()
        logits = self.student.predict(batch.unlabelled)
        self.student.train()
        return weak_labels(self.resize(logits, batch.mask.shape[-2:]), batch.valid)

    def strong(self, images: Tensor, labels: Weak, *, partner: Weak) -> tuple[Tensor, Weak]:
        """Return a strong view whose boxes are filled from the reversed batch, and its labels."""
        hyper = self.hyper
        view = unimatch_view(images)
        inside = aspect_boxes(images, area=hyper.box_area, aspect=hyper.box_aspect, probability=hyper.box_probability)
        return paste(inside, view.flip(0), background=view), labels.paste(inside, partner.reversed())
