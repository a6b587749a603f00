"""Fetch the published weights that encoders begin with, on the driver's machine: workers need no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.download import fetch
from pipeline.data.published import Remote
from pipeline.models.pretrained import published_file

URL = "https://download.pytorch.org/models"
PUBLISHED = ("torchvision", "timm")


def prepare_weights(models: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Put the published weights of some `model` blocks into torch's cache and return their paths.

    Raises ValueError for a damaged file, OSError where one cannot be had.
    """
    needed = {published_file(model["weights"], model["encoder"]): model for model in models if _is_published(model)}
    for path, model in needed.items():
        if model["weights"] == "torchvision":
            digits = path.stem.rpartition("-")[2]  # the first of the file's sha256, as torchvision checks them
            fetch(Remote(path.name, (f"{URL}/{path.name}",), f"sha256:{digits}"), path.parent)
        elif not path.is_file():
            _save_timm(model["encoder"]["name"], path)
    return list(needed)


def models_of(scale: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the `model` blocks of a scale of params.yaml: its common one, and what its data sets make of it."""
    common = scale["common"]["model"]
    own = [block["model"] for block in scale.values() if isinstance(block, Mapping) and "model" in block]
    return [common | block for block in [{}, *own]]


def _is_published(model: Mapping[str, Any]) -> bool:
    return model["weights"] in PUBLISHED


def _save_timm(name: str, path: Path) -> None:
    """Have timm download its weights, and save those of the encoder under our names. Needs the model hub."""
    import torch

    from pipeline.models.backbones.timm import TimmEncoder

    layers = TimmEncoder(name, output_stride=16, pretrained=True).layers
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    torch.save(layers.state_dict(), part)
    part.replace(path)
