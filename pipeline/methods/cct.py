"""CCT (Ouali et al. 2020): the prediction must survive when the features are perturbed.

The unlabelled images are encoded once. The main decoder predicts them from clean features; many light auxiliary
decoders, each with its own perturbation, must agree with it from perturbed ones. Only those decoders' inputs carry
the unlabelled loss into the encoder; the main decoder's last layer learns from the labelled images alone.

Batch normalisation: labelled and unlabelled images are two forwards, both with gradient; no other. Differs from the
paper: DeepLabv3+ instead of PSPNet; what is perturbed is the map before the 1 x 1 classifier, and auxiliary decoders
are 1 x 1 convolutions, as in the CPS authors' port (TorchSemiSeg); the loss is taken at stride 4.
Differs from the released code: guided cut-out by class, VAT without finite difference; padding does not count. Of that
port the bootstrapped cross-entropy is not the default: like all rows, it trains by the table's criterion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.training import method, perturb
from pipeline.training.losses import cross_entropy, probability_mse
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import check_interval, check_probability, check_weight
from pipeline.training.schedule import sigmoid_ramp

KINDS = ("dropout", "cutout", "context", "object", "feature_drop", "feature_noise", "vat")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`decoders`: how many of each kind. `weight` of the consistency, reached after `ramp_share` of training (0: none).

    `dropout_rate`, `drop_range`, `noise`, `cutout_share` and `vat_radius` belong to one kind each.
    `bootstrap_threshold`: null, or up to which true-class probability a labelled pixel counts in the end.
    """

    decoders: dict[str, int]
    dropout_rate: float
    drop_range: tuple[float, float]
    noise: float
    cutout_share: float
    vat_radius: float
    background_classes: tuple[int, ...]
    weight: float
    ramp_share: float
    bootstrap_threshold: float | None

    def __post_init__(self) -> None:
        counts = list(self.decoders.values())
        if not set(self.decoders) <= set(KINDS) or min(counts, default=0) < 0 or sum(counts) == 0:
            raise ValueError(f"decoders is {dict(self.decoders)}; allowed: counts, not all 0, of {', '.join(KINDS)}")
        for name in ("dropout_rate", "cutout_share", "ramp_share"):
            check_probability(name, getattr(self, name))
        for name in ("noise", "vat_radius", "weight"):
            check_weight(name, getattr(self, name))
        for name in ("drop_range", "background_classes"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_interval("drop_range", self.drop_range, most=1)
        if self.bootstrap_threshold is not None:
            check_probability("bootstrap_threshold", self.bootstrap_threshold)

    def check_classes(self, num_classes: int) -> None:
        """Refuse a background that is none of the classes."""
        if not set(self.background_classes) <= set(range(num_classes)):
            raise ValueError(f"background_classes is {[*self.background_classes]}; allowed: of 0 to {num_classes - 1}")


class Method(method.Method):
    """L = L_s + w(t) · mean over decoders k of MSE(softmax g_k(perturbed z), softmax g(z))."""

    is_background: Tensor

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.kinds = [kind for kind in KINDS for _ in range(parameters.decoders.get(kind, 0))]
        channels = self.student.classifier[-1].get_parameter("weight").shape[1]
        self.auxiliary = nn.ModuleList(nn.Conv2d(channels, setting.num_classes, 1) for _ in self.kinds)
        background = torch.tensor([c in parameters.background_classes for c in range(setting.num_classes)])
        self.register_buffer("is_background", background, persistent=False)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised and the consistency loss."""
        supervised = self.supervised(batch, progress)
        *blocks, main = self.student.classifier
        features = self.student.fuse(self.student.features(batch.unlabelled))
        for block in blocks:
            features = block(features)
        valid = self.sample(batch.valid, features.shape[-2:])
        with torch.no_grad():
            target = main(features).float().softmax(dim=1)  # (B, C, h, w)
        objects = perturb.object_map(target.argmax(dim=1), self.object_classes(len(target))) & valid
        errors = []
        for kind, decoder in zip(self.kinds, self.auxiliary, strict=True):
            perturbed = self.perturbed(kind, features, decoder=decoder, seen=(target, objects, valid))
            errors.append(probability_mse(decoder(perturbed).float().softmax(dim=1), target, weights=valid))
        ramp = sigmoid_ramp(progress.fraction / self.hyper.ramp_share) if self.hyper.ramp_share else 1.0
        return {"supervised": supervised, "consistency": self.hyper.weight * ramp * torch.stack(errors).mean()}

    def perturbed(self, kind: str, features: Tensor, *, decoder: nn.Module, seen: tuple[Tensor, ...]) -> Tensor:
        """Return the features as a decoder of that kind gets to see them; `seen`: target, objects, validity."""
        hyper, (target, objects, valid) = self.hyper, seen
        match kind:
            case "dropout":
                return perturb.channel_dropout(features, hyper.dropout_rate)
            case "cutout":
                return perturb.guided_cutout(features, target, objects=objects, share=hyper.cutout_share)
            case "context":
                return perturb.keep_objects(features, objects)
            case "object":
                return perturb.keep_context(features, objects)
            case "feature_drop":
                return perturb.feature_drop(features, hyper.drop_range, valid=valid)
            case "feature_noise":
                return perturb.feature_noise(features, hyper.noise)
        return perturb.adversarial(features, decoder, valid=valid, radius=hyper.vat_radius)

    def object_classes(self, num_images: int) -> Tensor:
        """Return which classes are objects in which image (B, C): those not background, or a random half."""
        if self.hyper.background_classes:
            return ~self.is_background.expand(num_images, -1)
        return torch.rand(num_images, self.setting.num_classes, device=self.is_background.device) < 0.5

    def supervised(self, batch: Batch, progress: Progress) -> Tensor:
        """Return the protocol's supervised loss, or cross-entropy over the pixels not yet right enough.

        Those have a true-class probability below η, which rises from 1/C to `bootstrap_threshold` by
        1 - exp(-5 t) over the first 40 % of training (annealed-bootstrapped cross-entropy, section 3.4 of the paper).
        """
        output = self.student(batch.labelled)
        if self.hyper.bootstrap_threshold is None:
            return self.setting.supervised(output, batch.mask)
        logits = self.resize(output.logits, batch.mask.shape[-2:])
        labels = self.sample(batch.mask, logits.shape[-2:])
        known = torch.where(labels == IGNORED, 0, labels)[:, None]
        right = logits.detach().softmax(dim=1).gather(1, known)[:, 0]  # (B, H, W)
        lowest, risen = 1 / self.setting.num_classes, 1 - math.exp(-5 * min(progress.fraction / 0.4, 1.0))
        threshold = lowest + (self.hyper.bootstrap_threshold - lowest) * risen
        return cross_entropy(logits, labels, weights=right < threshold)
