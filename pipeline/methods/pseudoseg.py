"""PseudoSeg (Zou et al. 2021): pseudo-labels from two opinions, learnt on a strongly coloured view.

One opinion is the decoder's; the other comes from an image classifier on the pooled last features, whose activation
maps self-attention spreads over the objects (`training/attention.py`). Both are brought to one scale, averaged and
sharpened; the network must say the same of the same image with strong colours and a square cut out. With
`image_labels` the unlabelled images' classes are known: they teach the classifier and choose the maps (second mode).

Batch normalisation: labelled, weak and strong images are three forwards; the weak one without gradient (with
`image_labels`, the classifier's loss reaches its encoder); `inference_cam` adds one of the encoder in eval mode.
Differs from the paper: the protocol's DeepLabv3+, optimiser and weak augmentation. Differs from the released code:
colours change by factors in a fixed order (TensorFlow adds brightness); padding gives nothing to pooling, attention
and scale, but the square that is cut out does (there it counts as padding); a linear classifier's Grad-CAM needs no
gradient; image-level labels of unlabelled images are those of the whole image, not of the crop. As there, L_u is taken
on the logits' grid and divided by the pixels that were left.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.segnet import Output
from pipeline.training import method
from pipeline.training.attention import SelfAttentionCam, at_size, calibrate, classes_in, sharpen
from pipeline.training.losses import cross_entropy, soft_cross_entropy
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import check_probability, check_weight
from pipeline.training.photometric import check_jitter, cut_view

PRESENT = 0.5  # probability from which the classifier says that a class is in the image, as released


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`fusion`: `fused`, `decoder` or `attention` alone; `calibrate` brings both to one scale; `temperature` sharpens.

    `strong`: off, the student learns the weak view itself. `jitter` is the strength of brightness, contrast, saturation
    and hue, `cutout_share` the cut square's side over the image's. `background_class` has no image-level label (null:
    all have). `inference_cam`: the classifier labels in eval mode. `weight` is that of the unlabelled loss.
    """

    image_labels: bool
    background_class: int | None
    fusion: str
    calibrate: bool
    temperature: float
    strong: bool
    jitter: tuple[float, float, float, float]
    cutout_share: float
    inference_cam: bool
    attention_channels: int
    weight: float

    def __post_init__(self) -> None:
        if self.fusion not in ("fused", "decoder", "attention"):
            raise ValueError(f"fusion is {self.fusion!r}; allowed: fused, decoder, attention")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; allowed: above 0")
        object.__setattr__(self, "jitter", tuple(self.jitter))
        check_jitter(self.jitter)
        check_probability("cutout_share", self.cutout_share)
        check_weight("weight", self.weight)

    def check_classes(self, num_classes: int) -> None:
        """Refuse a background that is none of the classes."""
        if self.background_class not in (None, *range(num_classes)):
            raise ValueError(f"background_class is {self.background_class!r}; allowed: null, or 0 to {num_classes - 1}")


class Method(method.Method):
    """L = L_s + L_classifier + L_attention + weight · CE(sharp average of both opinions, student(strong x_u))."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.reads = "classes" if parameters.image_labels else "images"
        if parameters.fusion != "decoder":
            self.attention = SelfAttentionCam(
                self.student.feature_channels[2:],
                num_classes=setting.num_classes,
                attention_channels=parameters.attention_channels,
                background_class=parameters.background_class,
            )

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised, the unlabelled and, unless the decoder is alone, the attention's losses."""
        network, hyper = self.student, self.hyper
        attends = hyper.fusion != "decoder"
        features = network.features(batch.labelled)
        auxiliary = None if network.auxiliary_head is None else network.auxiliary_head(features[2]).float()
        output = Output(network.classify(network.fuse(features)), None, auxiliary)
        losses = {"supervised": self.setting.supervised(output, batch.mask)}
        with torch.set_grad_enabled(hyper.image_labels and attends):
            weak = network.features(batch.unlabelled)
        with torch.no_grad():
            target = self.target(batch, weak)  # (B, C, h, w)
        if attends:
            losses |= self.attention_losses(batch, features[2:], weak=weak[2:])
        images, seen = batch.unlabelled, batch.valid
        if hyper.strong:
            images, kept = cut_view(images, jitter=hyper.jitter, cutout_share=hyper.cutout_share)
            seen = seen & kept
        logits = network.predict(images)
        seen = self.sample(seen, logits.shape[-2:])
        loss = soft_cross_entropy(logits, target, weights=seen, normaliser=seen.sum())
        return losses | {"unlabelled": hyper.weight * loss}

    def target(self, batch: Batch, weak: list[Tensor]) -> Tensor:
        """Return the pseudo-label (B, C, h, w): the opinions on the weak view, fused and sharpened."""
        hyper, decoded = self.hyper, self.student.classify(self.student.fuse(weak))
        if hyper.fusion == "decoder":
            return sharpen(decoded.softmax(dim=1), hyper.temperature)
        if hyper.inference_cam:
            self.student.eval()
            weak = self.student.features(batch.unlabelled)
            self.student.train()
        present = self.attention.predicted(weak[2:], batch.valid, threshold=PRESENT)
        if hyper.image_labels:  # of an image that has no label none is present
            known = batch.presence.any(dim=1, keepdim=True)
            present = torch.where(known, batch.presence, present)
        attended = at_size(self.attention(weak[2:], present, valid=batch.valid), decoded.shape[-2:])
        if hyper.fusion == "attention":
            return sharpen(attended.softmax(dim=1), hyper.temperature)
        if hyper.calibrate:
            decoded, attended = calibrate(decoded, attended, valid=self.sample(batch.valid, decoded.shape[-2:]))
        return sharpen((decoded.softmax(dim=1) + attended.softmax(dim=1)) / 2, hyper.temperature)

    def attention_losses(self, batch: Batch, labelled: list[Tensor], *, weak: list[Tensor]) -> dict[str, Tensor]:
        """Return the loss of the attention's logits on labelled images and the classifier's, from c3 and c4."""
        known, present = batch.mask != IGNORED, classes_in(batch.mask, self.setting.num_classes)
        attended = self.resize(self.attention(labelled, present, valid=known), batch.mask.shape[-2:])
        losses = {"attention": cross_entropy(attended, self.sample(batch.mask, attended.shape[-2:]))}
        if self.hyper.image_labels:
            labelled, present, known = weak, batch.presence, batch.valid
        return losses | {"classifier": self.attention.classification_loss(labelled, present, valid=known)}
