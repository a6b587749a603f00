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
    annotations = [
        {"category_id": 90, "iscrowd": 0, "area": 10.0, "segmentation": [[4, 4, 7, 4, 7, 6, 4, 6]]},
        {"category_id": 3, "iscrowd": 0, "area": 77.0, "segmentation": [[2, 2, 12, 2, 12, 9, 2, 9]]},
        {"category_id": 3, "iscrowd": 1, "area": 24.0, "segmentation": {"size": [12, 16], "counts": [12 * 14, 24]}},
    ]
    ids = coco.paint((12, 16), annotations, {3: 3, 90: 80})
    assert (ids[:, 14:] == 255).all()
    assert (ids[4:7, 4:8] == 80).all()
    assert ids[3, 3] == ids[8, 11] == 3
    assert ids[0, 0] == ids[11, 13] == 0
    assert set(np.unique(ids)) == {0, 3, 80, 255}


def test_classes_are_numbered_without_gaps_in_vocs_layout(out: Path) -> None:
    prepare({"name": "coco"}, out)
    for split, names in SPLITS.items():
        assert list_ids(out, "voc", split) == names
    first, second = pairs(out, "voc", SPLITS["train"])
    assert first.mask is not None
    assert second.mask is not None
    assert set(np.unique(read_mask(first.mask, 81))) == {0, 2}
    assert not read_mask(second.mask, 81).any()
    assert sorted(path.name for path in out.iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClassAug"]


def test_an_incomplete_set_is_refused_with_both_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "COUNTS", {"train": 118287, "val": 5000})
    with pytest.raises(ValueError, match="COCO has 2 images in train; it must have 118287"):
        prepare({"name": "coco"}, out)
