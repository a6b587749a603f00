"""GCT (Ke et al. 2020): two networks and a third that learns where they are wrong.

The flaw detector sees an image and a prediction and marks the flaws; on labelled images it learns from the truth. On
every image, each network is drawn to its partner's prediction where that has the smaller flaw (dynamic consistency),
and where both are bad to whatever the detector finds less bad (flaw correction).

Batch normalisation: with `joint_batch` each network takes labelled and unlabelled images in one forward (the authors'
code), else in two (the CPS authors' port); all with gradient. The detector takes both, per network, twice: with its
weights fixed for the networks' loss, and on detached predictions for its own; so one backward serves all.
Differs from the paper: nothing known. Differs from the released code: targets come from the gradient pass, not
from an extra one without gradient; padding and ignored pixels do not count and are no flaw; the detector is a group
of the one optimiser (`detector_lr_factor`), not Adam at 1e-4; a map without a flaw is 0 everywhere, not -min.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.models.resize import resize
from pipeline.models.segnet import Output, SegNet
from pipeline.training import method
from pipeline.training.flaw import FlawDetector, better_prediction, clean, ideal_flaw, saturate
from pipeline.training.losses import probability_mse, weighted_mean
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import check_probability, check_weight
from pipeline.training.schedule import sigmoid_ramp


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Weights of flaw correction (μ_fc), dynamic consistency (μ_dc; full after `ramp_share` of training) and detector.

    `flaw_threshold` (ξ): predicted flaws above it count as 1. `detector_width` is 64 as published.
    `detector_lr_factor`: of the detector's learning rate to the encoder's.
    """

    correction_weight: float
    consistency_weight: float
    ramp_share: float
    flaw_threshold: float
    joint_batch: bool
    detector_weight: float
    detector_width: int
    detector_lr_factor: float

    def __post_init__(self) -> None:
        for name in ("correction_weight", "consistency_weight", "detector_weight"):
            check_weight(name, getattr(self, name))
        for name in ("ramp_share", "flaw_threshold"):
            check_probability(name, getattr(self, name))
        if self.detector_width < 2 or self.detector_width % 2:
            raise ValueError(f"detector_width is {self.detector_width}; allowed: even numbers from 2")
        if not self.detector_lr_factor > 0:
            raise ValueError(f"detector_lr_factor is {self.detector_lr_factor}; allowed: above 0")


class Method(method.Method):
    """L = Σ_k L_s + μ_fc mean(N · D(S_k)²) + w(t) μ_dc MSE(S_k, better of S_l and S_r) + detector loss."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        self.partner = setting.build()
        at_stride_4 = setting.loss_resolution == "network"
        self.detector = FlawDetector(setting.num_classes, width=parameters.detector_width, at_stride_4=at_stride_4)

    def networks(self) -> list[SegNet]:
        """Return both task networks."""
        return [self.student, self.partner]

    def lr_factor(self, name: str, head_lr_factor: float) -> float:
        """Give the detector a learning rate of its own."""
        if name.startswith("detector."):
            return self.hyper.detector_lr_factor
        return super().lr_factor(name, head_lr_factor)

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised, flaw-correction and consistency losses of both networks and the detector's."""
        num, size = len(batch.labelled), batch.mask.shape[-2:]
        images = torch.cat([batch.labelled, batch.unlabelled])
        outputs = [self.run(network, images, num_labelled=num) for network in self.networks()]
        predictions = [self.resize(output.logits, size).softmax(dim=1) for output in outputs]  # (2B, C, H, W)
        size = predictions[0].shape[-2:]
        images = resize(images, size)
        valid = self.sample(torch.cat([batch.mask != IGNORED, batch.valid]), size)
        frozen = {name: parameter.detach() for name, parameter in self.detector.named_parameters()}
        flaws = [functional_call(self.detector, frozen, (images, prediction)) for prediction in predictions]
        with torch.no_grad():
            cleaned = [saturate(clean(flaw, valid=valid), self.hyper.flaw_threshold) for flaw in flaws]
            both_bad = torch.minimum(*cleaned)[:, 0] == 1  # (2B, H, W)
        ramp = sigmoid_ramp(progress.fraction / self.hyper.ramp_share) if self.hyper.ramp_share else 1.0
        losses = {"detector": self.detector_loss(batch, images, predictions=predictions, valid=valid)}
        for own, name in ((0, ""), (1, "_partner")):
            target = better_prediction(
                predictions[own], predictions[1 - own], own_flaw=cleaned[own], partner_flaw=cleaned[1 - own]
            ).detach()
            corrected = weighted_mean(flaws[own][:, 0].square() * both_bad, valid)
            consistency = probability_mse(predictions[own], target, weights=valid)
            losses[f"supervised{name}"] = self.setting.supervised(outputs[own].take(slice(num)), batch.mask)
            losses[f"correction{name}"] = self.hyper.correction_weight * corrected
            losses[f"consistency{name}"] = self.hyper.consistency_weight * ramp * consistency
        return losses

    def run(self, network: SegNet, images: Tensor, *, num_labelled: int) -> Output:
        """Return a network's output of all images, from one forward or two (the second's logits alone are kept)."""
        if self.hyper.joint_batch:
            return network(images)
        output = network(images[:num_labelled])
        return output._replace(logits=torch.cat([output.logits, network.predict(images[num_labelled:])]))

    def detector_loss(self, batch: Batch, images: Tensor, *, predictions: list[Tensor], valid: Tensor) -> Tensor:
        """Return the mean squared error of the flaw maps of labelled images, the mean of both networks."""
        num = len(batch.labelled)
        labels = self.sample(batch.mask, images.shape[-2:])
        labels = torch.where(labels == IGNORED, 0, labels)
        errors = []
        for prediction in predictions:
            fixed = prediction.detach()
            ideal = ideal_flaw(fixed[:num], labels, valid=valid[:num])
            flaw = self.detector(images, fixed)[:num]
            errors.append(weighted_mean((flaw - ideal)[:, 0].square(), valid[:num]))
        return self.hyper.detector_weight * torch.stack(errors).mean()
