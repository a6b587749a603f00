"""PC2Seg (Zhong et al. 2021), as we read it: consistent predictions and contrasting features of two views.

A weak and a strong view of an unlabelled image must be predicted alike, pixel by pixel (L2); and a pixel's embedding
in the strong view must be closer to its own in the weak view than to those of other pixels, the negatives. These
come from other images of the batch, preferably where another class is predicted, which spares false negatives.

No code was released and of the paper only the abstract and introduction were at hand; what they leave open is our
choice: projection, temperature, counts, weights, which view lends negatives, and that a pixel is drawn as a negative
with a probability in proportion to 1 - q_i · q_n, q the predicted class distributions. Each is a parameter.
Batch normalisation: labelled, weak and strong images are three forwards, the weak one with gradient if `symmetric`.
Differs from the paper: unknown. Differs from the released code: there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.batch import Batch
from pipeline.training import method
from pipeline.training.losses import probability_mse
from pipeline.training.method import Progress, Setting
from pipeline.training.parameters import check_probability, check_weight
from pipeline.training.photometric import check_jitter, cut_view
from pipeline.training.pixel_contrast import DrawnPixels, draw_places, info_nce, negative_weights, pixels, take


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """`consistency` between `softmax` outputs or those scaled to length one (`l2`).

    An image gives `num_anchors` and `num_candidates`; of these each anchor draws `num_negatives` of a `different_image`
    or `uniform` over the batch, `debiased` by predicted class. `symmetric`: the weak view's pixels are anchors too.
    """

    jitter: tuple[float, float, float, float]
    cutout_share: float
    consistency: str
    consistency_weight: float
    contrast_weight: float
    temperature: float
    projection_channels: int
    num_anchors: int
    num_candidates: int
    num_negatives: int
    negatives: str
    debiased: bool
    symmetric: bool

    def __post_init__(self) -> None:
        for name, allowed in (("consistency", ("softmax", "l2")), ("negatives", ("different_image", "uniform"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        for name in ("temperature", "projection_channels", "num_anchors", "num_candidates", "num_negatives"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        for name in ("consistency_weight", "contrast_weight"):
            check_weight(name, getattr(self, name))
        check_probability("cutout_share", self.cutout_share)
        object.__setattr__(self, "jitter", tuple(self.jitter))
        check_jitter(self.jitter)


class Method(method.Method):
    """L = L_s + λ_1 mean ‖p(strong) - p(weak)‖² + λ_2 InfoNCE(strong, weak)."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        self.student = setting.build()
        channels = self.student.fused_channels
        layers = nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, parameters.projection_channels)
        self.projection = nn.Sequential(*layers)  # 1 x 1 convolutions, run only where a pixel is drawn

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """Return the supervised, the consistency and the contrastive loss."""
        hyper, size = self.hyper, batch.mask.shape[-2:]
        supervised = self.setting.supervised(self.student(batch.labelled), batch.mask)
        with torch.set_grad_enabled(hyper.symmetric):
            weak = self.student.fuse(self.student.features(batch.unlabelled))
        with torch.no_grad():
            weak_logits = self.student.classify(weak)
        images, kept = cut_view(batch.unlabelled, jitter=hyper.jitter, cutout_share=hyper.cutout_share)
        strong = self.student.fuse(self.student.features(images))
        strong_logits, counted = self.student.classify(strong), batch.valid & kept
        seen, target = (self.outputs(self.resize(logits, size)) for logits in (strong_logits, weak_logits))
        errors = probability_mse(seen, target, weights=self.sample(counted, seen.shape[-2:]))
        contrast = self.contrast(weak, strong, distribution=weak_logits.softmax(dim=1), counted=counted)
        return {
            "supervised": supervised,
            "consistency": hyper.consistency_weight * seen.shape[1] * errors,  # the sum over classes
            "contrast": hyper.contrast_weight * contrast,
        }

    def outputs(self, logits: Tensor) -> Tensor:
        """Return what two views must agree on (B, C, h, w): probabilities, perhaps scaled to length one."""
        probabilities = logits.softmax(dim=1)
        return probabilities if self.hyper.consistency == "softmax" else functional.normalize(probabilities, dim=1)

    def contrast(self, weak: Tensor, strong: Tensor, *, distribution: Tensor, counted: Tensor) -> Tensor:
        """Return the contrastive loss of the fused maps (B, F, h, w) of two views, one way or both."""
        valid = self.sample(counted, weak.shape[-2:])
        at = draw_places(valid, self.hyper.num_anchors), draw_places(valid, self.hyper.num_candidates)
        seen = [pixels(self.embed(strong, places), distribution, valid=valid, places=places) for places in at]
        with torch.set_grad_enabled(self.hyper.symmetric):
            known = [pixels(self.embed(weak, places), distribution, valid=valid, places=places) for places in at]
        loss = self.distinguish(seen[0], known[0], candidates=known[1])
        return (loss + self.distinguish(known[0], seen[0], candidates=seen[1])) / 2 if self.hyper.symmetric else loss

    def embed(self, fused: Tensor, places: Tensor) -> Tensor:
        """Return the embeddings (B n, D) of drawn places, of length one."""
        return functional.normalize(self.projection(take(fused, places)).float(), dim=1)

    def distinguish(self, anchors: DrawnPixels, positives: DrawnPixels, *, candidates: DrawnPixels) -> Tensor:
        """Return the InfoNCE of anchors, each with its positive, against negatives among the candidates."""
        hyper, apart = self.hyper, self.hyper.negatives == "different_image"
        weights = negative_weights(anchors, candidates, different_image=apart, debiased=hyper.debiased)
        sampling = {"num_negatives": hyper.num_negatives, "temperature": hyper.temperature}
        return info_nce(anchors, positives.embedding, candidates=candidates, weights=weights, **sampling)
