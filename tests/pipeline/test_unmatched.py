"""Masks that are the mask of no image are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.unmatched import tell_unmatched


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("images/a.jpg", "images/b.JPG", "images/more/c.png", "masks/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_where_every_mask_has_its_image_nothing_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell_unmatched({"layout": "folder"}, folder)
    assert capsys.readouterr().err == ""


def test_masks_of_another_suffix_name_or_place_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.PNG", "c.png", "x.png", "y.jpg"):
        (folder / "masks" / name).write_bytes(b"x")
    tell_unmatched({"layout": "folder"}, folder)
    said = capsys.readouterr().err
    assert said.startswith(
        "4 files below masks/ belong to no image and are not used (masks/b.PNG, masks/c.png, masks/x.png, …)"
    )
    tell_unmatched({"layout": "voc"}, folder)
    assert capsys.readouterr().err == ""
