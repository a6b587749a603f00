"""Detects edits of a stage's inputs while it runs; DVC would record the result under the wrong inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cell import Cell, cells_of, digest, forget_code, read_rows
from pipeline.data.sources import folder_digest
from pipeline.records import Submission


class DataChangedError(RuntimeError):
    """The data is not what the cell's key stands for; what was computed meanwhile is discarded."""


@dataclass(frozen=True)
class Inputs:
    """All that a cell stage's results follow from; the keys of `cells` hold the hashes of the code and the weights."""

    path: Path
    rows: bytes
    cells: list[Cell]
    data: str


def read_inputs(root: Path, path: Path) -> Inputs:
    """Return what a stage's results follow from; `path` has the resolved rows of its table.

    Raises ValueError as `read_rows` does.
    """
    forget_code()
    rows = read_rows(path)
    cells = [cell for row in rows for cell in cells_of(row)]
    return Inputs(path, path.read_bytes(), cells, fingerprint(data_folders(root, rows)))


def edited(before: Inputs, after: Inputs) -> list[str]:
    """Return what was edited between two readings, in words."""
    changed = {
        str(before.path): before.rows != after.rows,
        "the code or the weights": before.cells != after.cells,
        "the data": before.data != after.data,
    }
    return [what for what, is_changed in changed.items() if is_changed]


@contextmanager
def steady(*paths: Path, values: Callable[[], Any] = dict) -> Iterator[None]:
    """Run what a stage does that submits no cells; `paths` and `values()` are all that its outputs follow from.

    Raises ValueError at the end where they are no longer what they were.
    """
    fingerprints, given = {path: fingerprint([path]) for path in paths}, values()
    yield
    changed = [str(path) for path, known in fingerprints.items() if fingerprint([path]) != known]
    changed += ["its part of params.yaml"] if values() != given else []
    if changed:
        raise ValueError(f"{' and '.join(changed)} changed while the stage ran; run it again")


def data_folders(root: Path, rows: Iterable[dict[str, Any]]) -> list[Path]:
    """Return the folders of images and partitions that resolved rows read."""
    folders: set[Path] = set()
    for row in rows:
        folders |= set(data_stages(root, row).values())
        if own := row["data"].get("path"):
            folders.add(root / own)
    return sorted(folders)


def data_stages(root: Path, row: dict[str, Any]) -> dict[str, Path]:
    """Return the stages that make the data a row reads, with their folders."""
    data, source, dataset = root / "data" / row["scale"], row["data"]["source"], row["dataset"]
    return {f"download@{source}": data / source, f"partitions@{dataset}": data / "partitions" / dataset}


def check_made(root: Path, rows: Iterable[dict[str, Any]], *, stale: list[str]) -> None:
    """Raise RuntimeError where data that these rows read is not there, or a `stale` stage is to make it anew."""
    folders = {name: path for row in rows for name, path in data_stages(root, row).items()}
    if edited := sorted(folders.keys() & set(stale)):
        raise RuntimeError(f"{' and '.join(edited)}: changed while `dvc repro` ran; run it again")
    if absent := [name for name, path in folders.items() if not path.is_dir()]:
        # DVC knows of the data that dvc.yaml names; the experiment's may be another by `-S dataset=…`.
        raise RuntimeError(f"the data is not there: `dvc repro {' '.join(absent)}` first")


def check_copies(root: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Raise ValueError where a folder of one's own is no longer what the data folder has a copy of.

    Keys stand for the folder's content and cells read the copy, which DVC may hold for up to date.
    """
    copies = {row["data"]["path"]: (row["scale"], row["data"]["source"]) for row in rows if row["data"].get("path")}
    for path, (scale, source) in copies.items():
        copy = root / "data" / scale / source
        if folder_digest(Path(path)) != folder_digest(copy):  # the first as keys have read it, once
            again = f"`dvc repro -f -s download@{source}` copies it again"
            raise ValueError(f"{copy.relative_to(root)} is no longer an up-to-date copy of {path}; {again}")


def data_state(data_root: Path) -> dict[str, str]:
    """Return the fingerprint of each source and each data set's partitions in a scale's data folder, by its name."""
    folders = [
        folder for pattern in ("[!.]*", "partitions/[!.]*") for folder in data_root.glob(pattern) if folder.is_dir()
    ]
    names = {folder.relative_to(data_root).as_posix(): folder for folder in folders if folder.name != "partitions"}
    return {name: fingerprint([folder]) for name, folder in names.items()}


def changed_data(values: dict[str, Any], record: Submission) -> list[Path]:
    """Return which folders that a cell with these values reads are not as its submission's record says they were."""
    if "data" not in values:
        return []
    known, root = record.get("data", {}), Path(record["data_root"])
    names = [name for name in (values["data"]["source"], f"partitions/{values['dataset']}") if name in known]
    return [root / name for name in names if fingerprint([root / name]) != known[name]]


def check_data(values: dict[str, Any], record: Submission) -> None:
    """Look at the names, sizes and times of all files that a cell with these values reads. Raises DataChangedError."""
    if changed := changed_data(values, record):
        places = " and ".join(map(str, changed))
        hint = "let `dvc repro` restore it, then `python -m pipeline retry`"
        raise DataChangedError(f"{places} changed after the cell was submitted: {hint}")


def fingerprint(folders: Iterable[Path]) -> str:
    """Return a digest of the names, sizes and times of these files and of all in these folders; nothing is opened.

    What Python compiles beside its modules is left out.
    """
    return digest([[str(folder), *_files(folder)] for folder in folders])


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        facts = folder.stat()
        yield str(folder), facts.st_size, facts.st_mtime_ns
        return
    for entry in entries:
        if entry.is_dir():
            yield from _files(Path(entry.path)) if entry.name != "__pycache__" else ()
        else:
            try:
                facts = entry.stat()
            except FileNotFoundError:  # a link to nothing, or removed just now
                yield entry.path, -1, -1
            else:
                yield entry.path, facts.st_size, facts.st_mtime_ns
