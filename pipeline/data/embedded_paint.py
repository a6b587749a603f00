"""Paint for the embedded scenes: colours, textures, outlines and photo backgrounds, each from a random generator.

Every function takes the generator it draws from, so one seed gives one scene, whatever else was drawn before.
Images are float32 (H, W, 3) in 0–1; masks and patterns are bool (H, W).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

TEXTURES = ("plain", "stripes", "checks", "dots", "blotches")


@dataclass(frozen=True, kw_only=True)
class Paint:
    """One class's appearance. Hue, saturation and value are 0–1; angles are radians; the period is in pixels."""

    texture: str
    hue: float
    hue_jitter: float = 0.06
    saturation: tuple[float, float] = (0.5, 0.95)
    value: tuple[float, float] = (0.6, 1.0)
    second: float = 0.5  # the pattern's second tone: below 1 a share of the first's brightness, above 1 towards white
    period: tuple[float, float] = (5.0, 8.0)
    angle: tuple[float, float] = (0.0, np.pi)


def cover(random: np.random.Generator, style: Paint, *, image: np.ndarray, where: np.ndarray) -> None:
    """Paint one style over the pixels `where` (H, W) of `image`, in place; only their bounding box is drawn."""
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    if not rows.size:
        return
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = where[box]
    image[box][inside] = paint(random, style, size=inside.shape)[inside]


def paint(random: np.random.Generator, style: Paint, *, size: tuple[int, int]) -> np.ndarray:
    """Fill a whole image (H, W, 3) with one style: two tones of one colour in a pattern, under a soft light."""
    hue = (style.hue + random.uniform(-style.hue_jitter, style.hue_jitter)) % 1.0
    colour = hsv_to_rgb(hue, random.uniform(*style.saturation), value=random.uniform(*style.value))
    light = pattern(random, style, size=size)
    second = colour * style.second if style.second <= 1 else colour + (1 - colour) * (style.second - 1)
    return np.where(light[..., None], colour, second) * _shading(random, size)[..., None]


def pattern(random: np.random.Generator, style: Paint, *, size: tuple[int, int]) -> np.ndarray:
    """Return where a style's pattern is light (H, W)."""
    period, angle = random.uniform(*style.period), random.uniform(*style.angle)
    shift = random.uniform(0, period, 2)
    y, x = grid(size)
    along = (x * np.cos(angle) + y * np.sin(angle) + shift[0]) % period / period  # 0–1 within one period
    across = (y * np.cos(angle) - x * np.sin(angle) + shift[1]) % period / period
    if style.texture == "plain":
        return np.ones(size, dtype=bool)
    if style.texture == "stripes":
        return along < 0.5
    if style.texture == "checks":
        return (along < 0.5) == (across < 0.5)
    if style.texture == "dots":
        return (along - 0.5) ** 2 + (across - 0.5) ** 2 > 0.33**2
    if style.texture == "blotches":
        return smooth_noise(random, size, period=period) > 0
    raise ValueError(f"texture {style.texture!r} of a paint: allowed are {', '.join(TEXTURES)}")


def outline(random: np.random.Generator, size: tuple[int, int], *, radius: float) -> np.ndarray:
    """Return a filled random outline (H, W): ellipse, triangle, rectangle, star or blob, centred in the image."""
    height, width = size
    y, x = grid(size)
    y, x = y - random.uniform(0.1, 0.9) * height, x - random.uniform(0.1, 0.9) * width
    turn, stretch = random.uniform(0, 2 * np.pi), random.uniform(0.75, 1.3)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) * stretch, (y * np.cos(turn) - x * np.sin(turn)) / stretch
    angle = np.arctan2(v, u)
    kind = random.integers(5)
    if kind == 0:
        reach = np.ones(size)
    elif kind in {1, 2}:
        corners = 3 if kind == 1 else 4
        sector = 2 * np.pi / corners
        reach = 1.25 * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    elif kind == 3:
        reach = 0.85 + 0.25 * np.cos(5 * angle)
    else:
        reach = 0.95 + 0.15 * np.cos(2 * angle + random.uniform(0, 6)) + 0.15 * np.cos(3 * angle)
    return np.hypot(u, v) < radius * reach


def photo(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Return a random crop (H, W, 3) of one of scikit-learn's two sample photographs, resized to `size`."""
    picture = photographs()[random.integers(2)]
    height, width = size
    zoom = random.uniform(1.0, min(picture.height / height, picture.width / width) * 0.6)
    box_height, box_width = int(height * zoom), int(width * zoom)
    top = int(random.integers(picture.height - box_height + 1))
    left = int(random.integers(picture.width - box_width + 1))
    box = (left, top, left + box_width, top + box_height)
    crop = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32) / 255
    return crop[:, ::-1] if random.random() < 0.5 else crop


@functools.cache
def photographs() -> tuple[Image.Image, Image.Image]:
    """Load china.jpg and flower.jpg, which scikit-learn ships (427 x 640 RGB)."""
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    return Image.fromarray(china), Image.fromarray(flower)


def smooth_noise(random: np.random.Generator, size: tuple[int, int], *, period: float) -> np.ndarray:
    """Return smooth noise (H, W) with zero mean that varies over about `period` pixels."""
    height, width = size
    cells = (int(width / period * 1.6) + 2, int(height / period * 1.6) + 2)
    coarse = random.standard_normal(cells[::-1]).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def finish(random: np.random.Generator, image: np.ndarray, *, noise: float) -> np.ndarray:
    """Add what a camera adds, a colour cast and pixel noise (standard deviation in 0–255), and quantise to uint8."""
    cast = random.uniform(0.88, 1.12, 3)
    noisy = image * cast * 255 + random.normal(0, noise, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def hsv_to_rgb(hue: float, saturation: float, *, value: float) -> np.ndarray:
    """Convert one colour, all 0–1, to RGB (3,)."""
    shift = np.abs((hue + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(shift, 0, 1))


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the column of every pixel, each float64 (H, W)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return y.astype(np.float64), x.astype(np.float64)


def _shading(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    y, x = grid(size)
    angle, strength = random.uniform(0, 2 * np.pi), random.uniform(0, 0.25)
    ramp = (x / size[1] - 0.5) * np.cos(angle) + (y / size[0] - 0.5) * np.sin(angle)
    return 1 + 2 * strength * ramp
