"""Images per second of one core: `python -m tests.benchmarks.loading`.

Weak augmentation against the same augmentation by torchvision v2 on uint8, which resizes the whole image first; from
the same decoded images, with the same scales, in the same run, in processor time. Decoding is timed apart.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.data.augment import Augmentation, draw_views, fill_image, fill_mask, place
from tests.benchmarks.report import rounds, table, write

NUM_IMAGES, NUM_VIEWS, REPEATS = 8, 64, 7
AIMS = {500: 2, 2048: 4}
"""How many times faster than torchvision, by width."""


def main() -> None:
    """Measure and write the section; a line for each size."""
    torch.set_num_threads(1)
    rows = []
    for height, width, crop, kind in ((64, 64, 64, "JPEG"), (375, 500, 513, "JPEG"), (1024, 2048, 769, "PNG")):
        images, masks = _decoded(height, width)
        augmentation = Augmentation(
            crop=crop, scale_min=0.5, scale_max=2.0, scale_law="two_sided", flip_probability=0.5, pad_label=255
        )
        ours, theirs, decoding = _rates(
            partial(_ours, augmentation, images, masks),
            partial(_theirs, augmentation, images, masks),
            partial(_decode, [*_encoded(images, kind), *_encoded(masks, "PNG")]),
        )
        aim = AIMS.get(width, "")
        met = f"{aim}: {'yes' if ours / theirs >= aim else '**no**'}" if aim else ""
        rates = [f"{rate:,.0f}" for rate in (ours, theirs, decoding)]
        rows.append([f"{width} x {height} to {crop}, {kind}", *rates, f"{ours / theirs:.1f}", met])
    head = ["images", "ours, images/s", "torchvision's", "decoding image and mask", "ours over it", "aim, at least"]
    write("loading", "Weak augmentation of images and masks", table(head, rows))


def _decoded(height: int, width: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Make smooth images, since noise decodes unlike a photograph."""
    random = np.random.default_rng(0)
    images, masks = [], []
    for _ in range(NUM_IMAGES):
        coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
        images.append(np.array(coarse.resize((width, height), Image.Resampling.BICUBIC)))
        masks.append(random.integers(0, 21, (height, width), dtype=np.uint8))
    return images, masks


def _ours(augmentation: Augmentation, images: list[np.ndarray], masks: list[np.ndarray]) -> None:
    for number, view in enumerate(draw_views(augmentation, NUM_VIEWS, generator=np.random.default_rng(1))):
        image, mask = images[number % NUM_IMAGES], masks[number % NUM_IMAGES]
        placed = place(view, mask.shape[:2], crop=augmentation.crop)
        fill_image(
            torch.from_numpy(image), placed, out=torch.zeros(augmentation.crop, augmentation.crop, 3, dtype=torch.uint8)
        )
        fill_mask(mask, placed, out=np.full((augmentation.crop, augmentation.crop), 255, dtype=np.uint8))


def _theirs(augmentation: Augmentation, images: list[np.ndarray], masks: list[np.ndarray]) -> None:
    planes = [tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1).contiguous()) for image in images]
    labels = [tv_tensors.Mask(torch.from_numpy(mask)) for mask in masks]
    flip = v2.RandomHorizontalFlip(augmentation.flip_probability)
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    crop = v2.RandomCrop(augmentation.crop, pad_if_needed=True, fill=fill)
    for number, view in enumerate(draw_views(augmentation, NUM_VIEWS, generator=np.random.default_rng(1))):
        height, width = masks[number % NUM_IMAGES].shape
        resize = v2.Resize((int(height * view.scale), int(width * view.scale)), antialias=False)
        crop(flip(resize(planes[number % NUM_IMAGES], labels[number % NUM_IMAGES])))


def _decode(files: list[bytes]) -> None:
    images, masks = files[:NUM_IMAGES], files[NUM_IMAGES:]
    for number in range(NUM_VIEWS):
        np.array(Image.open(io.BytesIO(images[number % NUM_IMAGES])).convert("RGB"))
        np.array(Image.open(io.BytesIO(masks[number % NUM_IMAGES])))


def _encoded(images: list[np.ndarray], kind: str) -> list[bytes]:
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files, strict=True):
        Image.fromarray(image).save(file, kind)
    return [file.getvalue() for file in files]


def _rates(*works: Callable[[], None]) -> list[float]:
    """Return views per second of processor time of each, medians over rounds in which they take turns."""
    seconds = rounds({str(number): work for number, work in enumerate(works)}, num=REPEATS)
    return [NUM_VIEWS / taken_s for taken_s in seconds.values()]


if __name__ == "__main__":
    main()
