"""What converters ask of photographs beside their size."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image

AS_STORED = 1


def refuse_turned(image: Image.Image, path: Path) -> None:
    """Raise ValueError for an image whose EXIF orientation turns or mirrors it when it is read.

    Published masks are of the pixels as they are stored.
    """
    orientation = image.getexif().get(ExifTags.Base.Orientation, AS_STORED)
    if orientation != AS_STORED:
        raise ValueError(
            f"{path} has EXIF orientation {orientation}; allowed is {AS_STORED}, or none: its mask is of the pixels as"
            " they are stored, and reading would turn them"
        )
