"""The scenes of `streets`, which plays Cityscapes: 19 classes in the order of the benchmark's train ids.

Sky lies on top, buildings and plants along the horizon, road and pavement below; poles, people and vehicles stand
between, larger the nearer they are. Some classes are common, some rare, some a few pixels wide, as in the original.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.embedded_paint import Paint, cover, finish, grid, smooth_noise
from pipeline.data.images import IGNORED

SIZE = (80, 160)
NOISE = 5.0
LEVEL = (0.0, 0.0)
UPRIGHT = (np.pi / 2, np.pi / 2)

STYLES = {
    "road": Paint(texture="plain", hue=0.7, saturation=(0.0, 0.15), value=(0.3, 0.5)),
    "sidewalk": Paint(texture="checks", hue=0.9, saturation=(0.05, 0.2), value=(0.5, 0.7), second=0.85, angle=LEVEL),
    "building": Paint(texture="dots", hue=0.07, hue_jitter=0.1, saturation=(0.2, 0.5), angle=LEVEL, period=(6, 9)),
    "wall": Paint(texture="stripes", hue=0.1, saturation=(0.05, 0.25), second=0.75, angle=UPRIGHT, period=(4, 6)),
    "fence": Paint(texture="stripes", hue=0.08, saturation=(0.4, 0.6), angle=LEVEL, period=(4, 6)),
    "pole": Paint(texture="plain", hue=0.6, saturation=(0.0, 0.2), value=(0.15, 0.3)),
    "light": Paint(texture="dots", hue=0.95, saturation=(0.8, 1.0), value=(0.8, 1.0), second=0.2, period=(4, 5)),
    "sign": Paint(texture="plain", hue=0.15, hue_jitter=0.04, saturation=(0.8, 1.0), value=(0.8, 1.0)),
    "vegetation": Paint(texture="blotches", hue=0.33, value=(0.35, 0.65), second=0.6, period=(4, 7)),
    "terrain": Paint(texture="blotches", hue=0.22, saturation=(0.4, 0.7), value=(0.5, 0.8), second=0.8, period=(4, 7)),
    "sky": Paint(texture="plain", hue=0.57, saturation=(0.05, 0.45), value=(0.8, 1.0)),
    "person": Paint(texture="checks", hue=0.98, value=(0.5, 0.9), period=(5, 7)),
    "rider": Paint(texture="checks", hue=0.5, value=(0.5, 0.9), period=(5, 7)),
    "car": Paint(texture="plain", hue=0.66, hue_jitter=0.08, value=(0.5, 1.0)),
    "truck": Paint(texture="stripes", hue=0.62, value=(0.6, 1.0), angle=LEVEL),
    "bus": Paint(texture="dots", hue=0.13, saturation=(0.7, 1.0), value=(0.7, 1.0), angle=LEVEL),
    "train": Paint(texture="stripes", hue=0.0, value=(0.6, 0.9), angle=UPRIGHT),
    "motorcycle": Paint(texture="blotches", hue=0.8, value=(0.4, 0.8), period=(4, 5)),
    "bicycle": Paint(texture="checks", hue=0.75, saturation=(0.3, 0.6), value=(0.7, 1.0), second=0.3, period=(4, 5)),
}

CLASSES = tuple(STYLES)
NUM_CLASSES = len(CLASSES)

# (class, chance of each of two tries, height px at the bottom edge, width / height)
STANDING = (
    ("truck", 0.22, (34, 44), 1.3),
    ("bus", 0.22, (34, 44), 1.5),
    ("train", 0.18, (30, 38), 2.2),
    ("car", 0.75, (18, 26), 1.7),
    ("motorcycle", 0.25, (16, 22), 1.2),
    ("bicycle", 0.3, (16, 22), 1.2),
    ("person", 0.55, (26, 36), 0.45),
    ("rider", 0.3, (26, 36), 0.55),
)


class _Canvas:
    """An image (H, W, 3) and its mask (H, W), painted from back to front."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.image = np.zeros((*SIZE, 3))
        self.mask = np.full(SIZE, IGNORED, dtype=np.uint8)
        self.y, self.x = grid(SIZE)

    def fill(self, name: str, where: np.ndarray) -> None:
        cover(self.random, STYLES[name], image=self.image, where=where)
        self.mask[where] = CLASSES.index(name)

    def box(self, left: float, right: float, *, top: float, bottom: float) -> np.ndarray:
        return (self.x >= left) & (self.x < right) & (self.y >= top) & (self.y < bottom)


def scene(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene: the image uint8 (80, 160, 3) and its mask of train ids uint8 (80, 160), 0–18 or 255."""
    canvas = _Canvas(random)
    horizon = random.uniform(0.38, 0.5) * SIZE[0]
    canvas.fill("sky", canvas.y >= 0)
    _skyline(canvas, horizon)
    _ground(canvas, horizon)
    _poles(canvas, horizon)
    _standing(canvas, horizon)
    canvas.mask[-3:] = IGNORED  # the bonnet of the recording car, ignored in the original too
    canvas.image[-3:] *= 0.3
    return finish(random, canvas.image, noise=NOISE), canvas.mask


def _skyline(canvas: _Canvas, horizon: float) -> None:
    random, left = canvas.random, -_width(canvas.random)
    while left < SIZE[1]:
        right = left + _width(random)
        name = random.choice(["building", "vegetation", "sky"], p=[0.5, 0.35, 0.15])
        top = horizon - random.uniform(0.3, 0.95) * horizon
        ragged = 3 * smooth_noise(random, SIZE, period=8) if name == "vegetation" else 0.0
        if name != "sky":
            canvas.fill(name, canvas.box(left, right, top=0, bottom=horizon + 2) & (canvas.y > top + ragged))
        if random.random() < 0.45:
            low = random.choice(["wall", "fence"])
            canvas.fill(low, canvas.box(left, right, top=horizon - random.uniform(7, 13), bottom=horizon + 2))
        left = right


def _width(random: np.random.Generator) -> float:
    """Return the width in pixels of one piece of the skyline."""
    return random.uniform(18, 48)


def _ground(canvas: _Canvas, horizon: float) -> None:
    random, below = canvas.random, canvas.y >= horizon
    canvas.fill("terrain" if random.random() < 0.5 else "sidewalk", below)
    depth = np.maximum(canvas.y - horizon, 0)
    centre, kerb = random.uniform(0.35, 0.65) * SIZE[1], random.uniform(1.1, 1.8)
    road = np.abs(canvas.x - centre) < 12 + kerb * depth
    path = np.abs(canvas.x - centre) < 24 + (kerb + 0.5) * depth
    canvas.fill("sidewalk", below & path)
    canvas.fill("road", below & road)


def _poles(canvas: _Canvas, horizon: float) -> None:
    random = canvas.random
    for _ in range(random.integers(1, 4)):
        left, top = random.uniform(0, SIZE[1] - 4), random.uniform(6, 0.6 * horizon)
        canvas.fill("pole", canvas.box(left, left + 3, top=top, bottom=horizon + random.uniform(4, 14)))
        middle = left + 1.5
        if random.random() < 0.5:
            canvas.fill("light", canvas.box(middle - 3.5, middle + 3.5, top=top - 2, bottom=top + 11))
        elif random.random() < 0.7:
            canvas.fill("sign", np.hypot(canvas.x - middle, canvas.y - top) < random.uniform(4, 6))


def _standing(canvas: _Canvas, horizon: float) -> None:
    """Put vehicles and people on the ground, the far ones first, so that near ones cover them."""
    random = canvas.random
    chosen = [row for row in STANDING for _ in range(2) if random.random() < row[1]]
    feet = np.sort(random.uniform(horizon + 8, SIZE[0] - 4, len(chosen)))
    order = random.permutation(len(chosen))
    for foot, which in zip(feet, order, strict=True):
        name, _, heights, aspect = chosen[which]
        nearness = 0.45 + 0.55 * (foot - horizon) / (SIZE[0] - horizon)
        height = random.uniform(*heights) * nearness
        middle = random.uniform(0, SIZE[1])
        u = (canvas.x - middle) / (height * aspect / 2)
        v = (canvas.y - foot + height / 2) / (height / 2)
        canvas.fill(name, np.abs(u) ** 4 + np.abs(v) ** 4 < 1)
