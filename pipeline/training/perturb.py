"""Perturbations of feature maps, as CCT (Ouali et al. 2020, section 3.3) defines them.

All take features (B, F, h, w) and return what a decoder sees instead. None waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def channel_dropout(features: Tensor, rate: float) -> Tensor:
    """Empty each channel of each image with probability `rate` and scale up the rest."""
    return functional.dropout2d(features, rate, training=True)


def feature_drop(features: Tensor, shares: tuple[float, float], *, valid: Tensor) -> Tensor:
    """Empty the most active places: those whose channel mean reaches a share of the image's maximum.

    The share is drawn from the range `shares`, once for the batch, as released. The maximum is that of the `valid`
    places (B, h, w).
    """
    attention = features.mean(dim=1, keepdim=True)  # (B, 1, h, w)
    highest = attention.masked_fill(~valid[:, None], -torch.inf).amax(dim=(2, 3), keepdim=True)
    share = torch.empty(1, device=features.device).uniform_(*shares)
    return features * (attention < share * highest)


def feature_noise(features: Tensor, strength: float) -> Tensor:
    """Scale every feature by 1 + n, n uniform within ± strength: one noise map for the whole batch, as released."""
    noise = torch.empty(features.shape[1:], device=features.device).uniform_(-strength, strength)
    return features * (1 + noise)


def keep_objects(features: Tensor, objects: Tensor) -> Tensor:
    """Empty everything but the predicted objects (B, h, w) bool ("context masking")."""
    return features * objects[:, None]


def keep_context(features: Tensor, objects: Tensor) -> Tensor:
    """Empty the predicted objects (B, h, w) bool ("object masking")."""
    return features * ~objects[:, None]


def guided_cutout(features: Tensor, probabilities: Tensor, *, objects: Tensor, share: float) -> Tensor:
    """Empty a part of every predicted object's bounding box, `share` of its height by `share` of its width.

    `probabilities` (B, C, h, w) say what is predicted, `objects` (B, h, w) bool where that is an object.
    One box per class and image, where the released code takes one per contour of more than 50 points: contours need
    the host. The part lies anywhere within the box; a box too small for a whole cell is left alone.
    """
    labels = functional.one_hot(probabilities.argmax(dim=1), probabilities.shape[1]).bool()
    predicted = labels & objects[:, :, :, None]  # (B, h, w, C)
    within_rows = random_part(predicted.any(dim=2), share)  # (B, h, C)
    within_columns = random_part(predicted.any(dim=1), share)  # (B, w, C)
    num_boxes = torch.einsum("bhc,bwc->bhw", within_rows.float(), within_columns.float())
    return features * (num_boxes == 0)[:, None]


def adversarial(features: Tensor, decoder: nn.Module, *, valid: Tensor, radius: float) -> Tensor:
    """Move each image's features by `radius` (Euclidean) to where the decoder's prediction changes most (VAT).

    One power iteration on the curvature of KL(p(z) ‖ p(z + r)) at r = 0 (Miyato et al. 2018, Eq. 9–13), which is
    Wᵀ(diag p - p pᵀ)W for a 1 x 1 convolution W: no finite difference (the released one, 1e-6, is below what float32
    resolves) and no backward pass. Places outside `valid` (B, h, w) do not count. Gradients reach the features, not
    the move.
    """
    weight = decoder.get_parameter("weight").detach()
    with torch.no_grad():
        probabilities = decoder(features).float().softmax(dim=1)  # (B, C, h, w)
        change = functional.conv2d(torch.randn_like(features), weight).float()
        mean_change = (probabilities * change).sum(dim=1, keepdim=True)
        curved = probabilities * (change - mean_change) * valid[:, None]
        direction = functional.conv_transpose2d(curved, weight).float()  # (B, F, h, w)
        length = direction.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return features + radius * direction / length.view(-1, 1, 1, 1)


def object_map(labels: Tensor, counts_as_object: Tensor) -> Tensor:
    """Return where one of the classes (B, C) that count as objects is predicted, (B, h, w) bool."""
    return counts_as_object.gather(1, labels.flatten(1)).view_as(labels)


def random_part(taken: Tensor, share: float) -> Tensor:
    """Return a random stretch (B, n, C) of the span from the first to the last true of `taken` along dimension 1."""
    length = taken.shape[1]
    places = torch.arange(length, device=taken.device).view(1, -1, 1)
    first = torch.where(taken, places, length).amin(dim=1, keepdim=True)
    last = torch.where(taken, places, -1).amax(dim=1, keepdim=True)
    span = (last - first).clamp(min=0)  # released: without the last place itself
    num_starts = (span * (1 - share)).floor() + 1
    start = first + (torch.rand(span.shape, device=taken.device) * num_starts).floor()
    return (places >= start) & (places < start + (span * share).floor())
