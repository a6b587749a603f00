"""Predictions written as palette PNGs."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import torch

from pipeline.data.images import IGNORED, write_mask
from pipeline.data.layout import IMAGE_SUFFIXES
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.evaluate import evaluating
from pipeline.evaluation.frame import frame_tensors, framed, rank_share
from pipeline.evaluation.predict import Evaluation, predict
from pipeline.models.segnet import SegNet


@torch.inference_mode()
def save_predictions(
    network: SegNet, samples: Samples, *, folder: Path, evaluation: Evaluation, device: torch.device | str
) -> None:
    """Write `<folder>/<id>.png` at the size of each image; 255 where a centre crop leaves it uncovered."""
    normalise = Normalise(device)
    with evaluating({"": network}):
        for index in range(*rank_share(len(samples))):
            frame = framed(samples, index, evaluation=evaluation)
            images, _ = frame_tensors([frame], normalise)
            prediction = predict(network, images, evaluation=evaluation, batch=1)[0].to(torch.uint8).cpu().numpy()
            top, bottom, left, right = frame.box
            height, width, _ = samples[index][0].shape
            ids = np.full((height, width), IGNORED, dtype=np.uint8)
            above, before = (height - (bottom - top)) // 2, (width - (right - left)) // 2
            ids[above : above + bottom - top, before : before + right - left] = prediction[top:bottom, left:right]
            path = Path(folder) / mask_name(samples.pairs[index].id)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_mask(path, ids)


def mask_name(identity: str) -> PurePosixPath:
    """Return the mask's path of an image id, in which a dot need not begin a suffix: VOC's ids have none."""
    path = PurePosixPath(identity)
    return path.with_name(f"{path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name}.png")
