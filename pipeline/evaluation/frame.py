"""Validation images as the networks see them: whole, or cropped and padded at the centre; in batches of equal size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.images import IGNORED
from pipeline.data.normalise import Normalise
from pipeline.data.samples import Samples
from pipeline.evaluation.predict import Evaluation, num_windows


@dataclass(frozen=True)
class Frame:
    """An image (H, W, 3) as the network sees it, its mask (H, W), and its part (y0, y1, x0, x1) that is no padding."""

    image: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int]

    @property
    def padded(self) -> bool:
        """Whether some of it is padding."""
        return self.box != (0, self.mask.shape[0], 0, self.mask.shape[1])


def batches(samples: Samples, evaluation: Evaluation, *, batch: int) -> Iterator[list[Frame]]:
    """Yield every frame of this rank's share of `samples` once, together with others of its size."""
    waiting: dict[tuple[int, ...], list[Frame]] = {}
    for index in range(*rank_share(len(samples))):
        frame = framed(samples, index, evaluation=evaluation)
        size = frame.mask.shape
        waiting.setdefault(size, []).append(frame)
        if len(waiting[size]) >= max(1, batch // num_windows(size, evaluation)):
            yield waiting.pop(size)
    yield from waiting.values()


def rank_share(num: int) -> tuple[int, int, int]:
    """Return first, end and stride of the indices this rank has to do."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), num, torch.distributed.get_world_size()
    return 0, num, 1


def framed(samples: Samples, index: int, *, evaluation: Evaluation) -> Frame:
    """Return one image and its mask, cropped and padded at the centre if the mode is `centre`."""
    image, mask = samples[index]
    if mask is None:
        raise ValueError(f"validation image {samples.pairs[index].image} has no mask")
    if evaluation.mode != "centre":
        return Frame(image, mask, (0, mask.shape[0], 0, mask.shape[1]))
    crop = evaluation.pixels
    (rows, into_rows), (columns, into_columns) = (_centred(length, crop) for length in mask.shape)
    frame = Frame(
        np.zeros((crop, crop, 3), dtype=np.uint8),
        np.full((crop, crop), IGNORED, dtype=np.uint8),
        (into_rows.start, into_rows.stop, into_columns.start, into_columns.stop),
    )
    frame.image[into_rows, into_columns] = image[rows, columns]
    frame.mask[into_rows, into_columns] = mask[rows, columns]
    return frame


def frame_tensors(frames: Sequence[Frame], normalise: Normalise) -> tuple[Tensor, Tensor | None]:
    """Return images (B, 3, H, W) float32, the mean colour on padding, and where they are not padding (None: all)."""
    images = normalise(torch.from_numpy(np.stack([frame.image for frame in frames])))
    if not any(frame.padded for frame in frames):
        return images, None
    inside = torch.zeros(len(frames), *frames[0].mask.shape, dtype=torch.bool)
    for one, (top, bottom, left, right) in zip(inside, (frame.box for frame in frames), strict=True):
        one[top:bottom, left:right] = True
    inside = normalise.moved(inside)
    return images * inside[:, None], inside


def _centred(length: int, crop: int) -> tuple[slice, slice]:
    """Return which part of an axis is kept, and where it lies in the crop."""
    size, start, pad = min(length, crop), max(0, length - crop) // 2, max(0, crop - length) // 2
    return slice(start, start + size), slice(pad, pad + size)
