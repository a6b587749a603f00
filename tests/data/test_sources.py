from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data import published
from pipeline.data.layout import list_ids
from pipeline.data.sources import folder_digest, prepare, source_identity


def test_a_drawn_source_is_drawn(tmp_path: Path) -> None:
    prepare({"name": "shapes", "seed": 0, "num_fine": 2, "num_coarse": 1, "num_val": 1}, tmp_path / "voc")
    assert len(list_ids(tmp_path / "voc", "voc", "train_aug")) == 3


def test_ones_own_folder_is_linked_not_copied_and_follows_symlinks(tmp_path: Path) -> None:
    mine, disk = tmp_path / "mine", tmp_path / "disk"
    disk.mkdir()
    (disk / "a.jpg").write_bytes(b"a")
    mine.mkdir()
    (mine / "images").symlink_to(disk)
    out = tmp_path / "data" / "laptop" / "mine"
    prepare({"name": "own", "path": str(mine)}, out)
    assert (out / "images" / "a.jpg").stat().st_ino == (disk / "a.jpg").stat().st_ino
    with pytest.raises(FileNotFoundError, match=r"source folder .*gone does not exist"):
        prepare({"name": "own", "path": str(tmp_path / "gone")}, out)
    assert (out / "images" / "a.jpg").exists()


def test_the_identity_of_ones_own_folder_is_its_content_not_its_place(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place / "images").mkdir(parents=True)
        (tmp_path / place / "images" / "a.jpg").write_bytes(b"a")
    identities = [source_identity({"name": "own", "path": str(tmp_path / place)}) for place in ("one", "two")]
    assert identities[0] == identities[1]
    folder_digest.cache_clear()
    (tmp_path / "two" / "images" / "a.jpg").write_bytes(b"b")
    assert source_identity({"name": "own", "path": str(tmp_path / "two")}) != identities[0]


def test_the_identity_of_published_data_is_its_checksums_and_converter() -> None:
    identity = source_identity({"name": "voc"})
    assert identity[:2] == [remote.checksum for remote in published.ARCHIVES["voc"]]
    assert identity != source_identity({"name": "coco"})


def test_an_unknown_source_names_the_known_ones(tmp_path: Path) -> None:
    for use in (lambda: prepare({"name": "ade20k"}, tmp_path / "x"), lambda: source_identity({"name": "ade20k"})):
        with pytest.raises(
            ValueError, match="source 'ade20k': allowed are shapes, streets, voc, cityscapes, coco, own"
        ):
            use()
