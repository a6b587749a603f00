"""The scenes of `shapes`, which plays PASCAL VOC: textured shapes on a photograph, with fine or coarse masks.

Class 0 is the photograph; class 1 + 4 x texture + hue family is a shape. The fine masks have VOC's ignored border
around every object. The coarse ones stand to them as SBD's stand to VOC's: wobbly, a little too large, without
the border, and without the small objects.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.embedded_paint import Paint, cover, finish, outline, photo, smooth_noise
from pipeline.data.images import IGNORED

SIZE = (64, 64)
NUM_CLASSES = 21
NUM_HUES = 4
TEXTURE_STYLES = (
    {"texture": "plain"},
    {"texture": "stripes", "second": 0.4, "period": (9.0, 13.0)},
    {"texture": "checks", "second": 0.15, "period": (4.0, 7.0)},
    {"texture": "dots", "second": 1.85, "period": (4.0, 6.0)},
    {"texture": "blotches", "second": 1.65, "period": (9.0, 13.0)},
)
STYLES = tuple(Paint(hue=hue / NUM_HUES, **style) for style in TEXTURE_STYLES for hue in range(NUM_HUES))

NUM_SHAPES = (2, 5)
RADIUS_PX = (12.0, 24.0)
NOISE = 6.0
WOBBLE_PX = 0.9
WOBBLE_PERIOD_PX = 10.0
DROPPED_BELOW_PX = 50  # objects that show fewer pixels are missing from a coarse mask


def scene(random: np.random.Generator, *, coarse: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: the image uint8 (64, 64, 3) and its mask uint8 (64, 64), 0–20 or 255 (ignored border)."""
    image = photo(random, SIZE)
    objects = np.zeros(SIZE, dtype=np.int64)  # 0 or the number of the shape on top
    classes = [0]
    for _ in range(random.integers(NUM_SHAPES[0], NUM_SHAPES[1] + 1)):
        style = int(random.integers(len(STYLES)))
        inside = outline(random, SIZE, radius=random.uniform(*RADIUS_PX))
        cover(random, STYLES[style], image=image, where=inside)
        objects[inside] = len(classes)
        classes.append(style + 1)
    pixels = finish(random, image, noise=NOISE)
    if coarse:
        objects = coarsen(random, objects)
    mask = np.array(classes, dtype=np.uint8)[objects]
    if not coarse:
        mask[border(objects)] = IGNORED
    return pixels, mask


def border(objects: np.ndarray) -> np.ndarray:
    """Return where a pixel (H, W) has another object, or none, to its right or below: a line of about a pixel."""
    edge = np.zeros(objects.shape, dtype=bool)
    edge[:, :-1] |= objects[:, :-1] != objects[:, 1:]
    edge[:-1] |= objects[:-1] != objects[1:]
    return edge


def coarsen(random: np.random.Generator, objects: np.ndarray) -> np.ndarray:
    """Return the objects (H, W) as a hurried annotator outlines them: small ones missed, borders wobbly and wide."""
    sizes = np.bincount(objects.ravel())
    seen = np.where(sizes[objects] >= DROPPED_BELOW_PX, objects, 0)
    height, width = objects.shape
    y, x = np.mgrid[:height, :width]
    down, right = (WOBBLE_PX * smooth_noise(random, SIZE, period=WOBBLE_PERIOD_PX) for _ in range(2))
    y = np.clip(np.rint(y + down), 0, height - 1).astype(np.int64)
    x = np.clip(np.rint(x + right), 0, width - 1).astype(np.int64)
    wobbly = seen[y, x]
    grown = np.maximum.reduce([np.roll(wobbly, shift, axis) for axis in (0, 1) for shift in (-1, 1)])
    grown[[0, -1]], grown[:, [0, -1]] = wobbly[[0, -1]], wobbly[:, [0, -1]]  # np.roll wraps around
    return np.where(wobbly == 0, grown, wobbly)
