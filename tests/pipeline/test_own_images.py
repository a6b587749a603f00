"""Images of one's own that nobody could use are named before anything is trained."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.own_images import check_own_images

OWN = {"name": "own", "path": "own/photos", "layout": "folder", "num_classes": 3, "train": "images", "val": 0.2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/a.jpg", "images/b.JPG", "images/more/c.png", "masks/a.png"):
        draw(tmp_path / name)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(8, 6) % 3).save(tmp_path / "masks/a.png")
    return tmp_path


def draw(path: Path, *, value: int = 0, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, dtype=np.uint8)).save(path, format="JPEG" if "images" in str(path) else "PNG")


def test_where_every_file_can_be_used_nothing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_own_images(OWN, folder)
    assert capsys.readouterr().err == ""


def test_masks_of_another_suffix_name_or_place_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.PNG", "c.png", "x.png", "y.jpg"):
        (folder / "masks" / name).write_bytes(b"x")
    check_own_images(OWN, folder)
    said = capsys.readouterr().err
    assert said.startswith(
        "4 files below masks/ belong to no image and are not used (masks/b.PNG, masks/c.png, masks/x.png, …)"
    )


def test_all_files_that_cannot_be_used_are_named_at_once(folder: Path) -> None:
    whole = (folder / "images/more/c.png").read_bytes()
    (folder / "images/more/c.png").write_bytes(whole[: len(whole) // 2])
    draw(folder / "masks/a.png", value=7)
    draw(folder / "images/d.jpg")
    draw(folder / "masks/d.png", size=(8, 7))
    with pytest.raises(ValueError, match="3 of 4 images cannot be used") as raised:
        check_own_images(OWN, folder)
    for reason in (
        r"c\.png cannot be read as an image",
        r"a\.png holds \[7\]; allowed are 0 to 2",
        r"d\.png has 8x7; they must be equal",
    ):
        assert re.search(reason, str(raised.value))
    assert "own/photos/images/more/c.png" in str(raised.value)  # where it can be mended, not the copy
    assert str(folder) not in str(raised.value)
    check_own_images(OWN | {"name": "shapes"}, folder)


def test_classes_that_no_mask_has_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(folder / "masks/a.png")
    draw(folder / "masks/b.png", value=2)
    draw(folder / "masks/more/c.png", value=255)
    check_own_images(OWN | {"num_classes": 6}, folder)
    told = "classes in no mask, of which each counts 0 in the mIoU: 1, 3, 4, 5; is num_classes 3?\n"
    assert capsys.readouterr().err == told
    check_own_images(OWN | {"num_classes": 3}, folder)
    assert capsys.readouterr().err == f"{told.partition(',')[0]}, of which each counts 0 in the mIoU: 1\n"


def test_of_many_the_first_are_named_and_the_others_counted(folder: Path) -> None:
    for number in range(12):
        (folder / f"images/x{number:02}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="12 of 15 images cannot be used") as raised:
        check_own_images(OWN, folder)
    assert "x09.jpg" in str(raised.value)
    assert "x10.jpg" not in str(raised.value)
    assert str(raised.value).endswith("\nand 2 more")


def test_in_vocs_layout_only_listed_images_need_to_be_whole(folder: Path) -> None:
    for name in ("a", "b", "c"):
        draw(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(b"") if name == "c" else None
    draw(folder / "SegmentationClassAug/a.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for name, ids in {"train_aug": "a\nb", "val": "a"}.items():
        (folder / f"ImageSets/Segmentation/{name}.txt").write_text(ids)
    data = OWN | {"layout": "voc", "train": "train_aug", "val": "val"}
    check_own_images(data, folder)
    (folder / "ImageSets/Segmentation/val.txt").write_text("c")
    with pytest.raises(ValueError, match=r"1 of 3 images cannot be used.*\n.*c\.jpg"):
        check_own_images(data, folder)


def test_what_a_plain_devkit_lacks_is_named(folder: Path) -> None:
    draw(folder / "JPEGImages/a.jpg")
    draw(folder / "SegmentationClassAug/a.png")
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("train", "val"):
        (folder / f"ImageSets/Segmentation/{name}.txt").write_text("a")
    data = OWN | {"layout": "voc", "train": "train", "fine": "train", "labelled_from": "train_aug", "val": "val"}
    told = r"^data\.labelled_from is 'train_aug'; lists in own/photos/ImageSets/Segmentation: train, val; .*train\.txt"
    with pytest.raises(ValueError, match=told):
        check_own_images(data, folder)
    check_own_images(data | {"labelled_from": "train"}, folder)
