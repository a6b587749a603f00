from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data import published
from pipeline.data.images import read_pair
from pipeline.data.layout import list_ids, pairs
from pipeline.data.sources import folder_digest, prepare, source_identity


def test_a_drawn_source_is_drawn(tmp_path: Path) -> None:
    prepare({"name": "shapes", "seed": 0, "num_fine": 2, "num_coarse": 1, "num_val": 1}, tmp_path / "voc")
    assert len(list_ids(tmp_path / "voc", "voc", name="train_aug")) == 3


def test_ones_own_folder_is_copied_and_follows_symlinks(tmp_path: Path) -> None:
    """A hard link would be the user's own file, which DVC makes read-only with its output."""
    mine, disk = tmp_path / "mine", tmp_path / "disk"
    disk.mkdir()
    (disk / "a.jpg").write_bytes(b"a" * 100_000)
    (disk / "empty.txt").touch()
    mine.mkdir()
    (mine / "images").symlink_to(disk)
    (disk / "back").symlink_to(mine)
    out = tmp_path / "data" / "laptop" / "mine"
    prepare({"name": "own", "path": str(mine)}, out)
    assert (out / "images" / "a.jpg").read_bytes() == (disk / "a.jpg").read_bytes()
    assert (out / "images" / "empty.txt").read_bytes() == b""
    (out / "images" / "a.jpg").chmod(0o444)
    assert (disk / "a.jpg").stat().st_mode & 0o200
    with pytest.raises(FileNotFoundError, match=r"source folder .*gone does not exist"):
        prepare({"name": "own", "path": str(tmp_path / "gone")}, out)
    assert (out / "images" / "a.jpg").exists()


def test_a_file_system_that_shares_no_blocks_gets_a_plain_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.jpg").write_bytes(b"content")
    prepare({"name": "own", "path": str(tmp_path / "mine")}, tmp_path / "out")
    assert (tmp_path / "out" / "a.jpg").read_bytes() == b"content"


def test_a_folder_in_vocs_layout_may_be_made_of_links(tmp_path: Path) -> None:
    """Folders, images, masks and lists that lie elsewhere, as people arrange one VOC for several projects."""
    store, mine = tmp_path / "store", tmp_path / "own" / "voc"
    prepare({"name": "shapes", "seed": 0, "num_fine": 3, "num_coarse": 1, "num_val": 1}, store)
    mine.mkdir(parents=True)
    (mine / "ImageSets").symlink_to(store / "ImageSets")
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (mine / folder).mkdir()
        for path in (store / folder).iterdir():
            (mine / folder / path.name).symlink_to(path)
    linked = tmp_path / "link"
    linked.symlink_to(mine)
    prepare({"name": "own", "path": str(linked)}, tmp_path / "data" / "voc")
    assert source_identity({"name": "own", "path": str(linked)}) == source_identity({"name": "own", "path": str(mine)})
    for root in (mine, linked, tmp_path / "data" / "voc"):
        for pair in pairs(root, "voc", ids=list_ids(root, "voc", name="train_aug")):
            image, mask = read_pair(pair, 21)
            assert image.shape[:2] == mask.shape
    assert not any(path.is_symlink() for path in (tmp_path / "data" / "voc").rglob("*"))


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


def test_a_devkit_of_voc_that_cannot_be_used_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    kit, out = tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "data" / "laptop" / "voc"
    for name in ("JPEGImages", "ImageSets/Segmentation", "SegmentationClass"):
        (kit / name).mkdir(parents=True)
    source = {"name": "own", "layout": "voc", "path": str(kit)}
    with pytest.raises(
        ValueError, match=r"VOC2012 is not in VOC's layout, it has no SegmentationClassAug: .* copy Seg"
    ):
        prepare(source, out)
    (tmp_path / "linked").symlink_to(kit)
    (kit.parent / "SegmentationClassAug").mkdir()
    with pytest.raises(ValueError, match=r"linked is not in VOC's layout, .*: it lies beside the folder; move it into"):
        prepare(source | {"path": str(tmp_path / "linked")}, out)
    (kit.parent / "SegmentationClassAug").rename(kit / "SegmentationClassAug")
    for folder, inner in ((kit.parent, "VOC2012"), (tmp_path, "VOCdevkit/VOC2012")):
        with pytest.raises(ValueError, match=rf"no JPEGImages, .*: they are in {folder / inner}; name that folder"):
            prepare(source | {"path": str(folder)}, out)
    assert not [path for path in out.parent.iterdir() if path.is_dir()]
    prepare(source, out)
    assert out.is_dir()
