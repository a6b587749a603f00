from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipeline.data import published
from pipeline.data.images import voc_palette

SIZE = (12, 16)  # height and width of the images in a mirror


@dataclass
class Mirror:
    """A folder of small archives in the layout of the published ones, and what to put into them."""

    folder: Path
    patch: pytest.MonkeyPatch

    def publish(self, source: str) -> None:
        """Let the archives of this folder be the published ones of a data source."""
        known = tuple(
            replace(remote, checksum=f"md5:{hashlib.md5((self.folder / remote.name).read_bytes()).hexdigest()}")
            for remote in published.ARCHIVES[source]
        )
        self.patch.setitem(published.ARCHIVES, source, known)
        self.patch.setenv("DATA_MIRROR", str(self.folder))

    def tar(self, name: str, files: dict[str, bytes]) -> None:
        with tarfile.open(self.folder / name, "w:gz" if name.endswith(".tgz") else "w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    def zip(self, name: str, files: dict[str, bytes]) -> None:
        with zipfile.ZipFile(self.folder / name, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)

    def photo(self, kind: str, *, orientation: int | None = None) -> bytes:
        """A photograph of noise, with an EXIF orientation if one is given."""
        exif = Image.Exif()
        if orientation is not None:
            exif[ExifTags.Base.Orientation] = orientation
        return _encoded(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8), kind, exif=exif)

    def mask(self, ids: np.ndarray, *, palette: bool = False) -> bytes:
        return _encoded(ids, "PNG", palette=palette)

    def ids(self, seed: str, num: int = 21, size: tuple[int, int] = SIZE) -> np.ndarray:
        """The class ids that stand for `seed`, the same at every call."""
        return np.random.default_rng(list(seed.encode())).integers(0, num, size, dtype=np.uint8)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    (tmp_path / "mirror").mkdir()
    return Mirror(tmp_path / "mirror", monkeypatch)


def _encoded(array: np.ndarray, kind: str, *, palette: bool = False, exif: Image.Exif | None = None) -> bytes:
    image, out = Image.fromarray(array), io.BytesIO()
    if palette:
        image.putpalette(voc_palette())
    image.save(out, kind, **({"exif": exif} if exif else {}))
    return out.getvalue()
