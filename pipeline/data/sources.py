"""The data sources of a scale: drawn from installed packages, fetched from where they are published, or one's own."""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.data.code import read_code
from pipeline.data.layout import files_below
from pipeline.data.published import ARCHIVES, TERMS

EMBEDDED = ("shapes", "streets")
OWN = "own"
NAMES = (*EMBEDDED, *ARCHIVES, OWN)
HEAD_BYTES = 1 << 16


def prepare(source: Mapping[str, Any], out: Path) -> None:
    """Make the folder `out` of one source (a block `scales.<scale>.sources.<source>`), whole or not at all.

    `shapes` and `streets` are drawn; `voc`, `cityscapes` and `coco` are fetched, with their archives kept in
    `archives` two folders above `out`; `own` copies the folder `path`, which is in the block's `layout`. Raises
    ValueError for an unknown name or bad content, OSError where something cannot be had.
    """
    name, out = _known(source["name"]), Path(out)
    if name in EMBEDDED:
        from pipeline.data.embedded import generate

        return generate(name, out, **{key: source[key] for key in ("seed", "num_fine", "num_coarse", "num_val")})
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        if name == OWN:
            _require_voc(source)
            _copy(Path(source["path"]), partial)
        else:
            print(TERMS[name], flush=True)
            module = importlib.import_module(f"pipeline.data.{name}")
            module.make(partial, out.parent.parent / "archives")
        partial.chmod(0o755)  # mkdtemp's folders are private
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def source_identity(source: Mapping[str, Any]) -> list[str]:
    """Return what stands for a source's content before it is there: the code that draws or converts it, checksums."""
    name = _known(source["name"])
    if name == OWN:
        return [folder_digest(Path(source["path"]))]
    folder = Path(__file__).parent
    files = sorted(folder.glob("embedded*.py")) if name in EMBEDDED else [folder / f"{name}.py"]
    checksums = [remote.checksum for remote in ARCHIVES.get(name, ())]
    return checksums + [read_code(path)[0] for path in files]


@cache
def folder_digest(folder: Path) -> str:
    """Return the sha256 of the names, sizes and first 64 KiB of all files of a folder."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(
            f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode(errors="surrogateescape")
        )
        with path.open("rb") as file:
            digest.update(file.read(HEAD_BYTES))
    return digest.hexdigest()


def _known(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"source {name!r}: allowed are {', '.join(NAMES)}")
    return name


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"source folder {folder} does not exist")
    return sorted(files_below(folder))


def _require_voc(source: Mapping[str, Any]) -> None:
    """Raise ValueError where a folder is to be in VOC's layout and is not, before gigabytes are copied."""
    if source.get("layout") != "voc" or not (folder := Path(source["path"])).is_dir():
        return
    if not (lacking := _lacking(folder)):
        return
    inner = [name for name in ("VOC2012", "VOCdevkit/VOC2012") if len(_lacking(folder / name)) < len(lacking)]
    if inner:
        hint = f"they are in {folder / inner[0]}; name that folder, or link to it"
    elif (folder.resolve().parent / "SegmentationClassAug").is_dir():
        hint = "it lies beside the folder; move it into it"
    else:
        hint = "masks of class ids are read from SegmentationClassAug; of VOC's devkit copy SegmentationClass"
    raise ValueError(f"{folder} is not in VOC's layout, it has no {', no '.join(lacking)}: {hint}")


def _lacking(folder: Path) -> list[str]:
    needed = ("JPEGImages", "ImageSets/Segmentation", "SegmentationClassAug")
    return [name for name in needed if not (folder / name).is_dir()]


def _copy(folder: Path, out: Path) -> None:
    """Give `out` a copy of the files of `folder`, sharing blocks where the file system can.

    Never hard links: DVC makes its outputs read-only, and links would be the user's own files.
    """
    for path in _files(folder):
        target = out / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, target.open("wb") as copy:
            try:
                while os.copy_file_range(source.fileno(), copy.fileno(), 1 << 30):
                    pass
            except (AttributeError, OSError):  # not on Linux; between such file systems
                source.seek(0)
                copy.seek(0)
                shutil.copyfileobj(source, copy, 1 << 20)
