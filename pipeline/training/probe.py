"""How good pseudo-labels are while training goes on: the deployed network on a few unlabelled images with their masks.

No loss sees these masks; they are read for the curves alone, and where there are none, there are no such curves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.layout import pairs, read_partition
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.evaluate import evaluating
from pipeline.evaluation.frame import frame_tensors, framed
from pipeline.evaluation.predict import Evaluation, predict_logits
from pipeline.models.segnet import SegNet
from pipeline.training.entropy import entropy

NUM_IMAGES = 16
MAX_PIXELS = 20_000
"""So many pixels of an image are looked at, evenly spaced."""

RELIABLE_SHARE = 0.8
"""The share of pixels with the lowest entropy: 1 - α_0 of Table A1, for all methods alike."""


def open_probe(values: dict[str, Any], data_root: Path) -> Samples | None:
    """Return up to NUM_IMAGES images, evenly spaced in the unlabelled list, with their masks; None where one has none.

    With every image labelled they are labelled ones.
    """
    data = values["data"]
    labelled, unlabelled = read_partition(data_root / "partitions" / values["dataset"] / values["partition"])
    ids = unlabelled or labelled
    places = torch.linspace(0, len(ids) - 1, min(NUM_IMAGES, len(ids))).long().tolist()
    chosen = pairs(data_root / data["source"], data["layout"], ids=[ids[place] for place in places])
    if any(pair.mask is None or not pair.mask.exists() for pair in chosen):
        return None
    return Samples(chosen, num_classes=data["num_classes"])


@torch.inference_mode()
def probe(network: SegNet, samples: Samples, *, values: dict[str, Any]) -> dict[str, float]:
    """Return curves of the pseudo-labels' `pseudo/accuracy`, the same of the reliable share, mean confidence, and the
    share of pixels that are labelled, and that are, of each class; all 0-1, over pixels that are not ignored.
    """
    block, device = values["evaluation"], next(network.parameters()).device
    evaluation, normalise = Evaluation(mode=block["mode"], size=block["size"]), Normalise(device)
    seen = []
    with evaluating({"deployed": network}):
        for index in range(len(samples)):
            frame = framed(samples, index, evaluation=evaluation)
            images, _ = frame_tensors([frame], normalise)
            logits = predict_logits(network, images, evaluation=evaluation, batch=block["batch_images"])
            seen.append(_pixels(logits, normalise.moved(torch.from_numpy(frame.mask)), num_classes=samples.num_classes))
    true, found, uncertainty, confidence = (torch.cat(parts) for parts in zip(*seen, strict=True))
    return _summary(true, found, uncertainty=uncertainty, confidence=confidence) | {
        f"pseudo/{name}_{index}": share
        for name, ids in (("class", found), ("true", true))
        for index, share in enumerate((ids.bincount(minlength=samples.num_classes) / max(1, len(ids))).tolist())
    }


def _pixels(logits: Tensor, mask: Tensor, *, num_classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return true class, label, entropy and confidence (n,) of the pixels of one image that are not ignored."""
    known = (mask < num_classes).flatten().nonzero()[:, 0]
    known = known[:: -(-len(known) // MAX_PIXELS) or 1]
    confidence, found = logits.float().softmax(dim=1).max(dim=1)
    true, found, uncertainty, confidence = (
        each.flatten()[known] for each in (mask.long(), found, entropy(logits), confidence)
    )
    return true, found, uncertainty, confidence


def _summary(true: Tensor, found: Tensor, *, uncertainty: Tensor, confidence: Tensor) -> dict[str, float]:
    if not len(true):
        return {}
    right = (true == found).float()
    reliable = uncertainty.argsort()[: max(1, round(RELIABLE_SHARE * len(right)))]
    return {
        "pseudo/accuracy": float(right.mean()),
        "pseudo/accuracy_reliable": float(right[reliable].mean()),
        "pseudo/confidence": float(confidence.mean()),
    }
