"""Images and masks as arrays. Whatever a file holds, the result is 8-bit RGB and class ids, or a `ValueError`."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from pipeline.data.layout import Pair

SAMPLES = "samples"
"""In an image's `info`: how the file stores its pixels, in Pillow's words; `L;4` is grey of 4 bits."""
IGNORED = 255
"""The mask value of pixels that belong to no class: borders, padding, unlisted ids."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each EXIF orientation upright. Pillow's own `exif_transpose` also writes all EXIF anew, and
fails where any of it is malformed.
"""
EIGHT_BIT_MODES = ("RGB", "L", "LA", "P", "PA", "1", "RGBA", "CMYK", "YCbCr")


def read_pair(pair: Pair, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image (H, W, 3) and mask (H, W), both uint8, refusing a mask of another size than its image."""
    if pair.mask is None:
        raise ValueError(f"{pair.id}: image {pair.image} has no mask")
    image, mask = read_image(pair.image), read_mask(pair.mask, num_classes)
    if image.shape[:2] != mask.shape:
        raise ValueError(
            f"{pair.id}: image {pair.image} has {image.shape[0]}x{image.shape[1]} pixels (after its EXIF rotation),"
            f" mask {pair.mask} has {mask.shape[0]}x{mask.shape[1]}; they must be equal"
        )
    return image, mask


def read_image(path: Path) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Grey, palette, transparent and CMYK files are converted; 16-bit and floating-point ones are refused.
    """
    image = _decode(path, upright=True)
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f"image {path} has pixels of type {image.mode!r}; allowed are 8-bit {EIGHT_BIT_MODES}")
    return np.array(image.convert("RGB"))


def read_mask(path: Path, num_classes: int) -> np.ndarray:
    """Return class ids as (H, W) uint8 from a palette PNG (by index) or a grey one (by value).

    Allowed values are 0 … num_classes - 1, and 255 for ignored pixels.
    """
    mask = _decode(path, upright=False)
    if mask.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
        raise ValueError(
            f"mask {path} has colours (type {mask.mode!r}), not class ids; save it as a palette or grey PNG of ids"
        )
    if mask.info[SAMPLES] in ("L;2", "L;4"):
        raise ValueError(
            f"mask {path} has grey values of 2 or 4 bits, which may be ids or shares of white; allowed are 8"
        )
    ids = np.array(mask)  # converts nothing: a palette image gives its indices
    refuse_unlisted(ids, num_classes, path=path)
    return ids.astype(np.uint8)


def refuse_unlisted(ids: np.ndarray, num_classes: int, *, path: Path) -> None:
    """Raise unless every id is a class or 255."""
    if not 2 <= num_classes <= IGNORED:
        raise ValueError(f"num_classes is {num_classes}; allowed are 2 to {IGNORED}")
    if ids.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    else:
        present = np.unique(ids.astype(np.int64))
    unlisted = [int(i) for i in present if not 0 <= i < num_classes and i != IGNORED]
    if unlisted:
        raise ValueError(f"mask {path} holds {unlisted[:8]}; allowed are 0 to {num_classes - 1}, and {IGNORED}")


def write_mask(path: Path, ids: np.ndarray) -> None:
    """Write class ids (H, W) uint8 as a palette PNG in the PASCAL VOC colours; the file appears whole."""
    image = Image.fromarray(ids)
    image.putpalette(voc_palette())
    partial = path.with_name(f".{path.name}.part")
    image.save(partial, format="PNG")
    partial.replace(path)


def voc_palette() -> list[int]:
    """Return 256 RGB triples: bit k of a colour channel comes from bit 3k + channel of the id (VOC devkit)."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.ravel().tolist()


def _decode(path: Path, *, upright: bool) -> Image.Image:
    try:
        # Not by name: then Pillow may map the file, and reads a TIFF that its EXIF turns in rows of the wrong length.
        with path.open("rb") as file, Image.open(file) as image:
            samples = image.tile[0].args if image.tile else None
            image.load()
            turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if upright else None
            found = image if turn is None else image.transpose(turn)
            found.info[SAMPLES] = samples
            return found
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise  # their messages name the path
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
