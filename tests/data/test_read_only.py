"""Data on a disk that cannot be written: read as any other; what would be written there is refused by name."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cell import chain
from pipeline.data.download import fetch
from pipeline.data.open import open_batches
from pipeline.data.partition import write_partitions
from pipeline.data.published import Remote
from pipeline.data.sources import prepare
from pipeline.params import resolve_table
from tests.params import project_params

PROJECT = Path(__file__).parents[2]
NOBODY = 65534


@pytest.fixture
def read_only(data_root: Path) -> Iterator[Path]:
    """The smoke scale's data, closed to writers; root may write anywhere, so tests act as another user."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to other users
        Path(folder).chmod(0o755)
        copy = Path(folder) / "data"
        shutil.copytree(data_root, copy)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield copy
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def unprivileged(act: Callable[[], str]) -> str:
    """Return what `act` says, called in a forked process that is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            said = act()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as answer:
        return answer.read()


def test_training_reads_it(read_only: Path) -> None:
    params: dict[str, Any] = project_params()
    (row,) = resolve_table(params, "experiment")
    values = chain(row)[-2].values
    labelled = values["training"]["labelled_batch"]
    assert unprivileged(
        lambda: str(len(open_batches(values, read_only, device="cpu", reads="images")(0).labelled))
    ) == str(labelled)


def test_partitions_are_not_written_there_and_the_folder_is_named(read_only: Path) -> None:
    scale = project_params()["scales"]["smoke"]
    block = scale["voc_blender"]["data"]
    data, out = scale["sources"][block["source"]] | block, read_only / "partitions" / "voc_blender"
    before = sorted(read_only.rglob("*"))
    said = unprivileged(lambda: str(write_partitions(data, "voc_blender", root=read_only, out=out)))
    assert said.startswith("PermissionError:")
    assert str(out.parent) in said
    assert sorted(read_only.rglob("*")) == before


def test_archives_that_are_there_are_read_and_a_source_cannot_be_written(
    read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Remote("a.tgz", ("http://127.0.0.1:9/a.tgz",), f"sha256:{hashlib.sha256(b'archive').hexdigest()}")
    folder = read_only / "archives"
    read_only.chmod(0o755)
    folder.mkdir()
    (folder / "a.tgz").write_bytes(b"archive")
    monkeypatch.setenv("DATA_MIRROR", str(read_only / "nowhere"))
    for path, mode in ((folder / "a.tgz", 0o444), (folder, 0o555), (read_only, 0o555)):
        path.chmod(mode)
    assert unprivileged(lambda: str(fetch(archive, folder))) == str(folder / "a.tgz")
    before = sorted(read_only.rglob("*"))
    said = unprivileged(lambda: str(fetch(replace(archive, name="b.tgz"), folder / "more")))
    assert said.startswith("PermissionError:")
    assert str(folder / "more") in said
    source = {"name": "own", "path": str(read_only / "voc")}
    said = unprivileged(lambda: str(prepare(source, read_only / "mine")))
    assert said.startswith("PermissionError:")
    assert str(read_only / ".mine") in said
    assert sorted(read_only.rglob("*")) == before
