from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import coco
from pipeline.data.images import read_mask
from pipeline.data.layout import list_ids, pairs
from pipeline.data.sources import prepare

SPLITS = {"train": ["000000000009", "000000000025"], "val": ["000000000139"]}


@pytest.fixture
def out(mirror: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    notes = {"annotations/captions_val2017.json": b"not wanted"}
    for split, names in SPLITS.items():
        mirror.zip(f"{split}2017.zip", {f"{split}2017/{name}.jpg": mirror.photo("JPEG") for name in names})
        triangle = {"category_id": 13, "iscrowd": 0, "area": 9, "segmentation": [[1, 1, 5, 1, 5, 5]]}
        content = {
            "images": [{"id": int(name), "file_name": f"{name}.jpg", "height": 12, "width": 16} for name in names],
            "annotations": [triangle | {"image_id": int(names[0])}],
            "categories": [{"id": 13}, {"id": 1}],
        }
        notes[f"annotations/instances_{split}2017.json"] = json.dumps(content).encode()
    mirror.zip("annotations_trainval2017.zip", notes)
    mirror.publish("coco")
    monkeypatch.setattr(coco, "COUNTS", {"train": 2, "val": 1})
    return tmp_path / "data" / "paper" / "coco"


def test_instances_are_painted_small_over_large_and_crowds_are_ignored() -> None:
    """Polygons are of corners of pixels, so that one from 2 to 12 covers 10 pixels."""
    annotations = [
        {"category_id": 90, "iscrowd": 0, "area": 6.0, "segmentation": [[4, 4, 7, 4, 7, 6, 4, 6], [0, 0, 3, 3]]},
        {"category_id": 3, "iscrowd": 0, "area": 70.0, "segmentation": [[2, 2, 12, 2, 12, 9, 2, 9]]},
        {"category_id": 3, "iscrowd": 1, "area": 24.0, "segmentation": {"size": [12, 16], "counts": [12 * 14, 24]}},
    ]
    ids = coco.paint((12, 16), annotations, class_of={3: 3, 90: 80})
    expected = np.zeros((12, 16), dtype=np.uint8)
    expected[2:9, 2:12], expected[4:6, 4:7], expected[:, 14:] = 3, 80, 255
    np.testing.assert_array_equal(ids, expected)


def test_classes_are_numbered_without_gaps_in_vocs_layout(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare({"name": "coco"}, out)
    said = capsys.readouterr().out
    assert "CC BY 4.0" in said
    assert "https://cocodataset.org/#termsofuse" in said
    for split, names in SPLITS.items():
        assert list_ids(out, "voc", name=split) == names
    first, second = pairs(out, "voc", ids=SPLITS["train"])
    assert first.mask is not None
    assert second.mask is not None
    assert set(np.unique(read_mask(first.mask, 81))) == {0, 2}
    assert not read_mask(second.mask, 81).any()
    assert sorted(path.name for path in out.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClassAug"]


def test_an_incomplete_set_is_refused_with_both_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "COUNTS", {"train": 118287, "val": 5000})
    with pytest.raises(ValueError, match="COCO has 2 images in train; it must have 118287"):
        prepare({"name": "coco"}, out)


TRIANGLE = [[1, 1, 5, 1, 5, 5]]


def test_an_objects_mask_may_be_run_lengths() -> None:
    lengths = {"size": [12, 16], "counts": [12 * 14, 24]}
    note = {"category_id": 3, "iscrowd": 0, "area": 24.0, "segmentation": lengths}
    ids = coco.paint((12, 16), [note], class_of={3: 3})
    assert (ids[:, 14:] == 3).all()
    assert not ids[:, :14].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, r"image a.jpg: category 4 is none of the 2 categories"),
        ({"segmentation": {"counts": "abc", "size": [12, 16]}}, r"image a.jpg: its run lengths are compressed"),
        ({"segmentation": {"counts": [3, 4]}}, r"image a.jpg: its run lengths are of 7 pixels, not 192"),
        ({"image_id": 7}, r"an annotation is of image 7, which is not listed"),
        ({"segmentation": None}, r"image a.jpg: "),
    ],
)
def test_an_annotation_that_cannot_be_painted_is_named(
    change: dict[str, Any], message: str, tmp_path: Path, mirror: Any
) -> None:
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "SegmentationClassAug").mkdir()
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(mirror.photo("JPEG"))
    note = {"image_id": 1, "category_id": 13, "iscrowd": 0, "area": 9, "segmentation": TRIANGLE} | change
    image = {"id": 1, "file_name": "a.jpg", "height": 12, "width": 16}
    whole = {"images": [image], "annotations": [note], "categories": [{"id": 13}, {"id": 1}]}
    with pytest.raises(ValueError, match=message):
        coco._write_masks(whole, tmp_path)
    assert not list((tmp_path / "SegmentationClassAug").iterdir())
    whole["annotations"] = []
    image["height"] = 13
    with pytest.raises(ValueError, match=r"image a.jpg: it has 12x16 pixels, its annotations are of 13x16"):
        coco._write_masks(whole, tmp_path)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_photograph_that_its_exif_turns_is_named(mirror: Any, out: Path, orientation: int) -> None:
    """Upside down it would train against its mask silently, and on its side stop the training of another day."""
    turned = mirror.photo("JPEG", orientation=orientation)
    mirror.zip("val2017.zip", {f"val2017/{name}.jpg": turned for name in SPLITS["val"]})
    mirror.publish("coco")
    message = rf"000000000139\.jpg: .* has EXIF orientation {orientation}; allowed is 1"
    with pytest.raises(ValueError, match=message):
        prepare({"name": "coco"}, out)


def test_a_torn_annotation_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "instances_val2017.json"
    path.write_text('{"images": [')
    with pytest.raises(ValueError, match=r"instances_val2017\.json cannot be read as JSON"):
        coco.read_instances(path)
    path.write_text('{"images": [], "categories": []}')
    with pytest.raises(ValueError, match=r"instances_val2017\.json has no \['annotations'\]"):
        coco.read_instances(path)
