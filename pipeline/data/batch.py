"""What one training step is given."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One step's labelled and unlabelled images on the training device.

    Both halves went through the same weak augmentation (scale, flip, crop). Images are float32, normalised.
    `valid` is false where an unlabelled image is padding, so that no pseudo-label is learnt there.
    """

    labelled: Tensor  # (B, 3, H, W)
    mask: Tensor  # (B, H, W) int64, 0 … C-1, or 255 ignored
    unlabelled: Tensor  # (B, 3, H, W)
    valid: Tensor  # (B, H, W) bool
    presence: Tensor  # (B, C) bool, classes in each unlabelled image (image-level labels); all false where unknown

    def parts(self, num: int) -> list[Batch]:
        """Return the batch as `num` batches, of which each has an equal share of either half (views)."""
        if num == 1:
            return [self]
        shares = zip(*(getattr(self, field.name).chunk(num) for field in fields(self)), strict=True)
        return [Batch(*share) for share in shares]
