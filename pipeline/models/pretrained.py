"""Where published encoder weights lie: in torch's own cache, put there before any worker needs them. No torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TORCHVISION = {
    (3, 4, 6, 3): "resnet50-0676ba61.pth",
    (3, 4, 23, 3): "resnet101-63fe2227.pth",
    (3, 8, 36, 3): "resnet152-394f9c45.pth",
}
"""torchvision's ImageNet weights (`IMAGENET1K_V1`) by number of blocks. They have the 7x7 stem."""


def cache_folder() -> Path:
    """Return torch's cache of checkpoints: below TORCH_HOME, else XDG_CACHE_HOME/torch, else ~/.cache/torch."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(caches) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def published_file(weights: str, encoder: Mapping[str, Any]) -> Path:
    """Return where `torchvision` or `timm` weights of an encoder lie once they are prepared.

    Raises ValueError for a ResNet of which torchvision has no weights.
    """
    if weights == "timm":
        return cache_folder() / f"timm-{encoder['name'].replace('/', '_')}.pt"
    blocks = tuple(encoder["blocks"])
    if blocks not in TORCHVISION:
        allowed = ", ".join(str(list(known)) for known in TORCHVISION)
        found = f"model.encoder.blocks is {list(blocks)}"
        raise ValueError(f"{found}; with model.weights 'torchvision' allowed: {allowed}")
    return cache_folder() / TORCHVISION[blocks]


def prepared_file(weights: str, encoder: Mapping[str, Any]) -> Path:
    """Return the same where the file is there. Raises ValueError naming the file and what puts it there."""
    path = published_file(weights, encoder)
    if not path.is_file():
        raise ValueError(
            f"model.weights {weights!r}: {path} is not there, and workers download nothing; `python -m"
            " stages.weights SCALE`, where there is a network or DATA_MIRROR has the file, puts it there"
        )
    return path
