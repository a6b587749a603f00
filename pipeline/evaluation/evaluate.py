"""Mean IoU of networks on a validation list, as the paper's tables measure it.

Only mode `centre` has padding, which the released code counts as background: every figure is given with padding
ignored and with padding as background, from one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from pipeline.data.images import IGNORED
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.confusion import ConfusionMatrix, Summary
from pipeline.evaluation.frame import batches, frame_tensors
from pipeline.evaluation.predict import Evaluation, predict
from pipeline.models.segnet import SegNet


@torch.inference_mode()
def evaluate(
    networks: Mapping[str, SegNet],
    samples: Samples,
    *,
    evaluation: Evaluation,
    device: torch.device | str,
    batch_images: int,
) -> dict[str, dict[str, Summary]]:
    """Return {network: {"padding_ignored" | "padding_background": {"miou": percent, "iou": [percent or None]}}}.

    `batch_images` images or windows run at a time; it changes no figure. Under torch.distributed each rank evaluates
    its share of the images and all return the same.
    """
    kept = {name: ConfusionMatrix(samples.num_classes, device) for name in networks}
    padding = {name: ConfusionMatrix(samples.num_classes, device) for name in networks}
    normalise = Normalise(device)
    with evaluating(networks):
        for frames in batches(samples, evaluation, batch=batch_images):
            images, inside = frame_tensors(frames, normalise)
            label = normalise.moved(torch.from_numpy(np.stack([frame.mask for frame in frames]))).long()
            for name, network in networks.items():
                prediction = predict(network, images, evaluation=evaluation, batch=batch_images)
                kept[name].add(label, prediction)
                if inside is not None:
                    padding[name].add(torch.where(inside, IGNORED, 0), prediction)
    return {name: _summaries(kept[name], padding[name]) for name in networks}


def _summaries(kept: ConfusionMatrix, padding: ConfusionMatrix) -> dict[str, Summary]:
    kept.all_reduce()
    padding.all_reduce()
    ignored = kept.summary()
    kept.counts += padding.counts
    return {"padding_ignored": ignored, "padding_background": kept.summary()}


@contextmanager
def evaluating(networks: Mapping[str, SegNet]) -> Iterator[None]:
    """Put networks into evaluation mode and give every module its own mode back afterwards."""
    training = [(module, module.training) for network in networks.values() for module in network.modules()]
    for network in networks.values():
        network.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode
