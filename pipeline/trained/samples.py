"""A few validation images as a trained network sees them, in one small picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.data.normalise import Normalise
from pipeline.data.open import open_validation
from pipeline.files import written_whole
from pipeline.trained.pictures import coloured
from pipeline.trained.predict import class_ids, load_trained

NUM_IMAGES = 4
MIN_SIDE, MAX_SIDE = 128, 512
"""Pixels: smaller images are enlarged to be seen, larger ones made smaller."""


def draw_samples(folder: Path, row: dict[str, Any], *, data_root: Path, out: Path) -> None:
    """Write a picture of image, label and prediction, a line for each of four images from all over the list.

    `folder` is a trained cell's. Raises ValueError or OSError where the network or the data is not there.
    """
    trained, samples = load_trained(folder), open_validation(row, data_root)
    normalise = Normalise(trained.device)
    count = min(NUM_IMAGES, len(samples))
    lines = []
    for number in range(count):
        image, mask = samples[len(samples) * (2 * number + 1) // (2 * count)]
        assert mask is not None  # validation images have theirs
        ids = class_ids(trained, normalise(torch.from_numpy(image)[None]))
        lines.append(np.concatenate([_framed(part) for part in (image, coloured(mask), coloured(ids))], axis=1))
    width = max(line.shape[1] for line in lines)
    picture = np.concatenate([np.pad(line, ((0, 0), (0, width - line.shape[1]), (0, 0))) for line in lines])
    with written_whole(out) as partial:
        Image.fromarray(picture).save(partial, format="PNG")


def _framed(part: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, 3) uint8, repeated where they are few, every so many where they are many, in a dark line."""
    stride = -(-max(part.shape[:2]) // MAX_SIDE)
    part = part[::stride, ::stride]
    scale = -(-MIN_SIDE // min(part.shape[:2]))
    return np.pad(part.repeat(scale, 0).repeat(scale, 1), ((2, 2), (2, 2), (0, 0)))
