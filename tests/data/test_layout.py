from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.data.layout import list_ids, pairs, read_ids


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    "content", ["a\nb\nc\n", "a\nb\nc", "a\r\nb\r\nc\r\n", "\n a\n\n\tb  \n\nc\n\n", "\ufeffa\nb\nc\n"]
)
def test_line_ends_blanks_and_a_missing_final_newline_change_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_bytes(content.encode())
    assert read_ids(tmp_path / "list.txt") == ["a", "b", "c"]


def test_duplicate_ids_are_refused_with_list_and_id(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"list\.txt names 1 ids more than once, such as \['a'\]"):
        read_ids(tmp_path / "list.txt")


@pytest.mark.parametrize("content", ["", "\n \r\n"])
def test_an_empty_list_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    with pytest.raises(ValueError, match=r"list\.txt is empty"):
        read_ids(tmp_path / "list.txt")


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\nb\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"list .*list\.txt is not text in UTF-8"):
        read_ids(tmp_path / "list.txt")


def test_voc_files_lie_where_the_devkit_puts_them(tmp_path: Path) -> None:
    touch(tmp_path, "ImageSets/Segmentation/val.txt")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("2007_000033")
    assert list_ids(tmp_path, "voc", name="val") == ["2007_000033"]
    (pair,) = pairs(tmp_path, "voc", ids=["2007_000033"])
    assert pair.image == tmp_path / "JPEGImages/2007_000033.jpg"
    assert pair.mask == tmp_path / "SegmentationClassAug/2007_000033.png"


def test_cityscapes_ids_are_the_published_paths_and_lead_to_train_id_masks(tmp_path: Path) -> None:
    identity = "leftImg8bit/train/ulm/ulm_000079_000019_leftImg8bit.png"
    touch(tmp_path, identity, "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png")
    ids = list_ids(tmp_path, "cityscapes", name="train")
    assert ids == ["leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png", identity]
    (pair,) = pairs(tmp_path, "cityscapes", ids=[identity])
    assert pair.image == tmp_path / identity
    assert pair.mask == tmp_path / "gtFine/train/ulm/ulm_000079_000019_gtFine_labelTrainIds.png"


def test_a_folder_of_ones_own_needs_masks_for_some_images_only(tmp_path: Path) -> None:
    touch(tmp_path, "images/one.jpg", "images/trip/two.PNG", "images/three.webp", "images/notes.txt")
    touch(tmp_path, "masks/trip/two.png")
    assert list_ids(tmp_path, "folder", name="images") == ["one.jpg", "three.webp", "trip/two.PNG"]
    assert list_ids(tmp_path, "folder", name="masked") == ["trip/two.PNG"]
    one, two = pairs(tmp_path, "folder", ids=["one.jpg", "trip/two.PNG"])
    assert one.mask is None
    assert two.mask == tmp_path / "masks/trip/two.png"


def test_two_images_that_would_share_a_mask_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "images/one.jpg", "images/one.png", "masks/one.png")
    with pytest.raises(ValueError, match="more than once, such as"):
        list_ids(tmp_path, "folder", name="images")


def test_symlinked_data_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "disk", "leftImg8bit/val/lindau/a_leftImg8bit.png", "images/trip/a.png")
    for link, target in (("city", "leftImg8bit/val/lindau"), ("trip", "images/trip")):
        (tmp_path / link).symlink_to(tmp_path / "disk" / target)
    root = tmp_path / "root"
    (root / "leftImg8bit" / "val").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "leftImg8bit" / "val" / "lindau").symlink_to(tmp_path / "city")
    (root / "images" / "trip").symlink_to(tmp_path / "trip")
    assert list_ids(root, "cityscapes", name="val") == ["leftImg8bit/val/lindau/a_leftImg8bit.png"]
    assert list_ids(root, "folder", name="images") == ["trip/a.png"]


def test_hidden_folders_and_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/more/b.jpg", "images/.ipynb_checkpoints/a-checkpoint.jpg", "images/.c.jpg")
    (tmp_path / "images" / "more" / "back").symlink_to(tmp_path / "images")
    assert list_ids(tmp_path, "folder", name="images") == ["a.jpg", "more/b.jpg"]


@pytest.mark.parametrize("name", [b" lead.png", b"two\nlines.png", b"latin-\xff.png"])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path: Path, name: bytes) -> None:
    touch(tmp_path, "images/a.png", f"images/{os.fsdecode(name)}")
    with pytest.raises(ValueError, match=r"file '.*' in .* cannot stand in a list: allowed are names in UTF-8"):
        list_ids(tmp_path, "folder", name="images")


@pytest.mark.parametrize("identity", ["../secret", "/etc/passwd", "a/../../b"])
def test_ids_that_lead_out_of_the_data_folder_are_refused(tmp_path: Path, identity: str) -> None:
    with pytest.raises(ValueError, match="leads out of the data folder"):
        pairs(tmp_path, "voc", ids=[identity])


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layout is 'coco'; allowed are \('voc', 'cityscapes', 'folder'\)"):
        pairs(tmp_path, "coco", ids=["a"])


@pytest.mark.parametrize(("layout", "name"), [("cityscapes", "train"), ("folder", "images"), ("folder", "masked")])
def test_a_folder_without_images_is_refused(tmp_path: Path, layout: str, name: str) -> None:
    with pytest.raises(ValueError, match="holds no"):
        list_ids(tmp_path, layout, name=name)


def test_a_missing_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        list_ids(tmp_path / "gone", "voc", name="train")
