from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.data.images import read_image, read_mask, read_pair, voc_palette, write_mask
from pipeline.data.layout import Pair

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (12, 20, 3), dtype=np.uint8)
IDS = RANDOM.integers(0, 21, (12, 20), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_a_colour_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS))
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLOURS)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_every_eight_bit_type_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(COLOURS).convert(mode)
    path = saved(tmp_path / "a.png", source)
    np.testing.assert_array_equal(read_image(path), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB", "YCbCr"])
def test_grey_and_cmyk_jpeg_become_rgb_close_to_the_original(tmp_path: Path, mode: str) -> None:
    smooth = np.linspace(0, 255, 64 * 48 * 3).reshape(48, 64, 3).astype(np.uint8)
    source = Image.fromarray(smooth).convert(mode)
    image = read_image(saved(tmp_path / "a.jpg", source, quality=98))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - np.asarray(source.convert("RGB")).astype(int)).mean() < 4


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (3, lambda a: np.rot90(a, 2)), (6, lambda a: np.rot90(a, -1)), (8, lambda a: np.rot90(a, 1))],
)
def test_the_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright(COLOURS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK"])
def test_a_plain_tiff_is_turned_as_others_are(tmp_path: Path, mode: str, orientation: int) -> None:
    """Pillow maps such a file into memory when it is given its name, and then confuses its rows."""
    stored = Image.fromarray(RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.tif", stored, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(saved(tmp_path / "a.png", stored.convert("RGB"), exif=exif)))
    np.testing.assert_array_equal(read_image(path), np.array(expected))


@pytest.mark.parametrize("exif", [b"no header", b"MM", b"II*\0"])
def test_a_broken_exif_block_is_refused_by_name(tmp_path: Path, exif: bytes) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), exif=exif)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        read_image(path)


def test_a_broken_tag_beside_the_orientation_does_no_harm(tmp_path: Path) -> None:
    """Pillow's `exif_transpose` writes all tags anew, and fails with a TypeError here."""
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 3, "maker"
    broken = exif.tobytes().replace(b"\x31\x01\x02\x00", b"\x31\x01\x05\x00")
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), exif=broken)
    np.testing.assert_array_equal(read_image(path), COLOURS[::-1, ::-1])


@pytest.mark.parametrize("bits", [2, 4])
def test_a_grey_mask_of_few_bits_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(grey_png(bits))
    with pytest.raises(ValueError, match=r"a\.png has grey values of 2 or 4 bits.* allowed are 8"):
        read_mask(path, 21)
    assert read_image(path).shape == (1, 2, 3)


def grey_png(bits: int) -> bytes:
    """Return a PNG of the two grey samples 0 and 1."""
    pixels = zlib.compress(bytes([0, 1 << (8 - 2 * bits)]))
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    for name, body in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return content


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_images_of_more_than_eight_bits_are_refused_by_name(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    dtype = {"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]
    Image.fromarray(RANDOM.integers(0, 60000, (8, 8)).astype(dtype)).save(path)
    with pytest.raises(ValueError, match=r"deep\.tif has pixels of type .* allowed are 8-bit"):
        read_image(path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    path = saved(tmp_path / f"broken.{suffix}", Image.fromarray(RANDOM.integers(0, 256, (99, 99, 3), dtype=np.uint8)))
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>not found"}[kind])
    with pytest.raises(ValueError, match=rf"broken\.{suffix} cannot be read as an image"):
        read_image(path)
    with pytest.raises(ValueError, match=rf"broken\.{suffix} cannot be read as an image"):
        read_mask(path, 21)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_a_palette_mask_gives_its_indices_whatever_its_colours(tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", IDS)
    with Image.open(tmp_path / "m.png") as file:
        assert file.mode == "P"
    mask = read_mask(tmp_path / "m.png", 21)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, IDS)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_without_palette_gives_its_values(tmp_path: Path, dtype: type) -> None:
    path = saved(tmp_path / "m.png", Image.fromarray(IDS.astype(dtype)))
    np.testing.assert_array_equal(read_mask(path, 21), IDS)


def test_a_palette_of_few_colours_is_read_alike(tmp_path: Path) -> None:
    few = (IDS % 3).astype(np.uint8)
    image = Image.fromarray(few)
    image.putpalette(voc_palette())
    path = saved(tmp_path / "m.png", image, bits=2)
    np.testing.assert_array_equal(read_mask(path, 3), few)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_unlisted_class_id_is_refused_with_value_file_and_range(tmp_path: Path, dtype: type) -> None:
    ids: np.ndarray = IDS.astype(dtype)
    ids[3, 4] = 21 if dtype is np.uint8 else 3000
    path = saved(tmp_path / "m.png", Image.fromarray(ids))
    with pytest.raises(ValueError, match=rf"m\.png holds \[{ids[3, 4]}\]; allowed are 0 to 20, and 255"):
        read_mask(path, 21)


def test_255_is_allowed_with_any_number_of_classes(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)))
    assert (read_mask(path, 2) == 255).all()


def test_a_mask_of_colours_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Image.fromarray(COLOURS))
    with pytest.raises(ValueError, match=r"m\.png has colours \(type 'RGB'\), not class ids"):
        read_mask(path, 21)


def test_image_and_mask_of_different_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    image = saved(tmp_path / "a.jpg", Image.fromarray(COLOURS))
    mask = saved(tmp_path / "m.png", Image.fromarray(IDS[:-1]))
    with pytest.raises(ValueError, match=r"12x20 .* 11x20; they must be equal"):
        read_pair(Pair("a", image, mask), 21)


def test_the_palette_is_the_voc_devkits() -> None:
    colours = np.array(voc_palette()).reshape(256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {index: tuple(colours[index].tolist()) for index in known} == known
