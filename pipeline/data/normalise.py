"""From 8-bit images to what the networks take, on the device."""

from __future__ import annotations

import torch
from torch import Tensor

MEAN = (123.675, 116.28, 103.53)  # of ImageNet, on the 0–255 scale
STD = (58.395, 57.12, 57.375)


class Normalise:
    """Turns (B, H, W, 3) uint8 RGB into (B, 3, H, W) float32, in which 0 is the mean colour."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._mean = torch.tensor(MEAN, device=self.device)[:, None, None]
        self._std = torch.tensor(STD, device=self.device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        """Return `images`, which may still be on the host, ready for a network."""
        image = self.moved(images).permute(0, 3, 1, 2)
        return image.to(torch.float32, memory_format=torch.contiguous_format).sub_(self._mean).div_(self._std)

    def moved(self, tensor: Tensor) -> Tensor:
        """Return a host tensor on the device, without waiting for the copy."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)
