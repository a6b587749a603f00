"""PseudoSeg's second opinion: class activation maps, spread by learnt self-attention (Zou et al. 2021, section 3.2).

An image classifier knows what is in an image and roughly where; attention between the features of similar places
carries its scores to the whole object. The result is fused with the decoder's prediction. `valid` is (B, h, w) bool;
what is not valid neither gives nor lends a score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.images import IGNORED
from pipeline.models.resize import resize
from pipeline.training.flat import tally
from pipeline.training.losses import sample_nearest, weighted_mean

MASKED = -1e9  # finite, so that an image without a valid place has even attention instead of none


class SelfAttentionCam(nn.Module):
    """A linear image classifier whose class activation maps attention turns into segmentation logits ("SGC").

    It works on the backbone's last two stages (c3, c4). The classifier reads c4 and teaches it; query and key, 1 x 1
    convolutions of both, give the backbone no gradient. `background_class` has no score in the classifier; with None
    every class has one. Which classes are in an image is always given as (B, C) bool.
    """

    image_classes: Tensor

    def __init__(
        self, feature_channels: list[int], *, num_classes: int, attention_channels: int, background_class: int | None
    ) -> None:
        super().__init__()
        self.num_classes, self.background_class = num_classes, background_class
        classes = [c for c in range(num_classes) if c != background_class]
        self.register_buffer("image_classes", torch.tensor(classes), persistent=False)
        self.classifier = nn.Linear(feature_channels[-1], len(classes))
        self.query = nn.Conv2d(sum(feature_channels), attention_channels, 1, bias=False)
        self.key = nn.Conv2d(sum(feature_channels), attention_channels, 1, bias=False)
        self.classify = nn.Sequential(nn.Conv2d(num_classes, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes))

    def forward(self, features: list[Tensor], present: Tensor, *, valid: Tensor) -> Tensor:
        """Return logits (B, C, h, w) on c4's grid; `valid` (B, H, W) may be of any size."""
        size = features[-1].shape[-2:]
        valid = sample_nearest(valid, size)
        present = present[:, self.image_classes]
        activation = activation_maps(features[-1], self.classifier.weight, present=present, valid=valid)
        column = torch.cat([at_size(stage.detach(), size) for stage in features], dim=1)
        spread = propagate(self.query(column), self.key(column), scores=activation, valid=valid)
        return self.classify(with_background(spread, self.background_class)).float()

    def scores(self, features: list[Tensor], valid: Tensor) -> Tensor:
        """Return the classifier's logits (B, K) of the image classes."""
        pooled_features = pooled(features[-1], sample_nearest(valid, features[-1].shape[-2:]))
        return self.classifier(pooled_features).float()

    def predicted(self, features: list[Tensor], valid: Tensor, *, threshold: float) -> Tensor:
        """Return the classes (B, C) whose probability reaches the threshold."""
        scores = self.scores(features, valid)
        found = torch.zeros(len(scores), self.num_classes, dtype=torch.bool, device=scores.device)
        return found.index_copy(1, self.image_classes, scores.sigmoid() >= threshold)

    def classification_loss(self, features: list[Tensor], present: Tensor, *, valid: Tensor) -> Tensor:
        """Return the binary cross-entropy, the mean over classes and over the images of which anything is known."""
        scores, truth = self.scores(features, valid), present[:, self.image_classes].float()
        errors = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none").mean(dim=1)
        return weighted_mean(errors, present.any(dim=1))


def classes_in(mask: Tensor, num_classes: int) -> Tensor:
    """Return which classes a mask (B, H, W) holds, (B, C) bool; 255 is none."""
    classes = torch.where(mask == IGNORED, num_classes, mask).flatten(1)
    return tally(classes, num_classes + 1, weights=torch.ones_like(classes))[:, :num_classes] > 0


def activation_maps(features: Tensor, weight: Tensor, *, present: Tensor, valid: Tensor) -> Tensor:
    """Return class activation maps (B, K, h, w), 0–1, of the classes said to be present (B, K).

    relu(W_k · f) over its maximum in the image: Grad-CAM of a linear classifier, weight (K, F), on pooled features
    f (B, F, h, w), for the gradient of such a classifier is its weight. Without gradient.
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        maps = torch.einsum("kf,bfhw->bkhw", weight.float(), features.float()).clamp(min=0)
        maps = maps * present[:, :, None, None] * valid[:, None]
        highest = maps.amax(dim=(2, 3), keepdim=True)
        return maps / torch.where(highest > 0, highest, 1.0)


def propagate(query: Tensor, key: Tensor, *, scores: Tensor, valid: Tensor) -> Tensor:
    """Return softmax(Q Kᵀ / √D) m + m for scores m (B, K, h, w) and query and key (B, D, h, w)."""
    q, k, m = (tensor.float().flatten(2).mT.contiguous() for tensor in (query, key, scores))  # (B, hw, D or K)
    attendable = torch.where(valid.flatten(1), 0.0, MASKED)[:, None, :]  # (B, 1, hw)
    with torch.autocast(query.device.type, enabled=False):
        spread = functional.scaled_dot_product_attention(q, k, m, attn_mask=attendable.expand(-1, q.shape[1], -1))
    return (spread + m).mT.reshape(scores.shape)


def with_background(scores: Tensor, background_class: int | None) -> Tensor:
    """Insert the background's score, 2 minus the highest of a place (scores lie in 0–2), at its class."""
    if background_class is None:
        return scores
    background = 2 - scores.amax(dim=1, keepdim=True)
    return torch.cat([scores[:, :background_class], background, scores[:, background_class:]], dim=1)


def pooled(features: Tensor, valid: Tensor) -> Tensor:
    """Return the mean feature (B, F) of each image's valid places."""
    weights = valid[:, None].float()
    return (features.float() * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)


def calibrate(first: Tensor, second: Tensor, *, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Divide two logit maps (B, C, h, w) by their common root mean square over the batch's valid places (Eq. 5)."""
    squares = (first**2 + second**2).mean(dim=1) / 2  # (B, h, w)
    mean = (squares * valid).sum() / valid.sum().clamp(min=1)
    scale = torch.rsqrt(mean + 1e-8)
    return first * scale, second * scale


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Return q^(1/T) over its sum over the classes; T = 1 changes nothing, T → 0 gives one class all."""
    return (probabilities.log() / temperature).softmax(dim=1)


def at_size(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize maps bilinearly unless they have that size."""
    if maps.shape[-2:] == size:
        return maps
    return resize(maps, size)
