"""CPS (Chen et al. 2021): two networks of one architecture teach each other.

They start from different random heads, so they err differently; each learns the other's hard labels, with no teacher
and no confidence threshold. With CutMix, the labels of clean images are mixed like the images.

Batch normalisation: every network takes the labelled images in one forward and the unlabelled ones in another (with
CutMix the mixed ones), both with gradient; with CutMix also the clean unlabelled ones, without, in train mode.
Differs from the paper: nothing. Differs from the released code: an unlabelled image is mixed with the next one of its
batch, not with one of a second batch, which saves two forwards; padding and ignored pixels get no pseudo-label; one
optimiser holds both networks, which is the same since no gradient crosses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output, SegNet
from pipeline.training import method
from pipeline.training.losses import cross_entropy
from pipeline.training.method import Progress, Setting
from pipeline.training.mixing import mix_with_next, spread_boxes
from pipeline.training.parameters import check_weight
from pipeline.training.teacher import pseudo_labels


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`cutmix` or not; `weight` of the cross loss (λ); `num_boxes` per mixed image, of one `area` range together."""

    cutmix: bool
    weight: float
    num_boxes: int
    area: tuple[float, float]

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        if self.num_boxes < 1:
            raise ValueError(f"num_boxes is {self.num_boxes}; allowed: 1 and more")
        object.__setattr__(self, "area", tuple(self.area))
        if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area is {list(self.area)}; allowed: two shares of the image, ascending, above 0 up to 1")


class Method(method.Method):
    """L = L_s(l) + L_s(r) + λ (CE(l, argmax r) + CE(r, argmax l))."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.partner = setting.build()

    def networks(self) -> list[SegNet]:
        """Return both networks."""
        return [self.student, self.partner]

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised loss of both networks and what each learns from the other."""
        mixed = self.mixed_views(batch) if self.hyper.cutmix else None
        outputs = [network(batch.labelled) for network in self.networks()]
        logits, labels = self.clean_views(batch, outputs) if mixed is None else mixed
        return {
            "supervised": self.setting.supervised(outputs[0], batch.mask),
            "supervised_partner": self.setting.supervised(outputs[1], batch.mask),
            "cross": self.hyper.weight * cross_entropy(logits[0], labels[1]),
            "cross_partner": self.hyper.weight * cross_entropy(logits[1], labels[0]),
        }

    def mixed_views(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Return both networks' logits of mixed unlabelled images, and their mixed labels of the clean ones."""
        size = batch.mask.shape[-2:]
        with torch.no_grad():
            clean = [self.resize(network.predict(batch.unlabelled), size) for network in self.networks()]
            labels = [pseudo_labels(logits, batch.valid) for logits in clean]
        inside = spread_boxes(batch.unlabelled, area=self.hyper.area, num_boxes=self.hyper.num_boxes)
        images, *labels = mix_with_next(inside, batch.unlabelled, *labels)
        return [self.resize(network.predict(images), size) for network in self.networks()], labels

    def clean_views(self, batch: Batch, outputs: list[Output]) -> tuple[list[Tensor], list[Tensor]]:
        """Return both networks' logits and labels of the labelled and unlabelled images as they are."""
        size, valid = batch.mask.shape[-2:], torch.cat([batch.mask != IGNORED, batch.valid])
        seen = zip(outputs, self.networks(), strict=True)
        logits = [torch.cat([output.logits, network.predict(batch.unlabelled)]) for output, network in seen]
        logits = [self.resize(both, size) for both in logits]  # (2B, C, H, W)
        return logits, [pseudo_labels(both, valid) for both in logits]
