from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from pipeline.data import voc
from pipeline.data.images import read_image, read_mask
from pipeline.data.layout import list_ids, pairs
from pipeline.data.sources import prepare

TRAIN, VAL, ADDED = ["2007_000001", "2007_000002"], ["2007_000003"], ["2008_000004", "2008_000005"]


def sbd_mask(ids: np.ndarray, *, compressed: bool = False) -> bytes:
    out = io.BytesIO()
    savemat(out, {"GTcls": {"Segmentation": ids, "Boundaries": np.zeros(3)}}, do_compression=compressed)
    return out.getvalue()


def write_archives(mirror: Any, *, turned: dict[str, int] | None = None, **masks: np.ndarray) -> None:
    kit, sets = "VOCdevkit/VOC2012", "VOCdevkit/VOC2012/ImageSets/Segmentation"
    files = {f"{sets}/train.txt": "\n".join(TRAIN).encode(), f"{sets}/val.txt": "\n".join(VAL).encode()}
    for identity in [*TRAIN, *VAL, *ADDED]:
        files[f"{kit}/JPEGImages/{identity}.jpg"] = mirror.photo("JPEG", orientation=(turned or {}).get(identity))
        files[f"{kit}/Annotations/{identity}.xml"] = b"<not wanted/>"
    for identity in [*TRAIN, *VAL]:
        files[f"{kit}/SegmentationClass/{identity}.png"] = mirror.mask(
            masks.get(identity, mirror.ids(identity)), palette=True
        )
    mirror.tar("VOCtrainval_11-May-2012.tar", files)
    sbd = {"train.txt": f"{TRAIN[0]}\n{ADDED[0]}\n".encode(), "val.txt": f"{VAL[0]}\n{ADDED[1]}".encode()}
    for identity in [TRAIN[0], VAL[0], *ADDED]:
        sbd[f"cls/{identity}.mat"] = sbd_mask(masks.get(identity, mirror.ids(f"sbd {identity}")))
    mirror.tar("benchmark.tgz", {f"benchmark_RELEASE/dataset/{name}": content for name, content in sbd.items()})
    mirror.publish("voc")


@pytest.fixture
def out(mirror: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    write_archives(mirror)
    monkeypatch.setattr(voc, "COUNTS", {"train": 2, "train_aug": 4, "val": 1})
    return tmp_path / "data" / "paper" / "voc"


def test_voc_and_sbd_become_the_augmented_set_in_vocs_layout(
    mirror: Any, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare({"name": "voc"}, out)
    assert list_ids(out, "voc", name="train_aug") == [*TRAIN, *ADDED]
    assert list_ids(out, "voc", name="val") == VAL
    for pair in pairs(out, "voc", ids=[*TRAIN, *VAL, *ADDED]):
        assert pair.mask is not None
        source = pair.id if pair.id in [*TRAIN, *VAL] else f"sbd {pair.id}"
        np.testing.assert_array_equal(read_mask(pair.mask, 21), mirror.ids(source))
        assert read_image(pair.image).shape == (12, 16, 3)
    folders = sorted(path.name for path in out.iterdir())
    assert folders == ["ImageSets", "JPEGImages", "SegmentationClass", "SegmentationClassAug"]
    assert "Flickr" in capsys.readouterr().out
    assert (out.parents[1] / "archives" / "benchmark.tgz").exists()


@pytest.mark.parametrize(
    ("identity", "num", "size", "message"),
    [
        ("2008_000004", 30, (12, 16), r"2008_000004\.mat holds \[.*\]; allowed are 0 to 20, and 255"),
        ("2008_000004", 5, (11, 16), r"mask of 2008_000004 has \(11, 16\) pixels, its image \(12, 16\)"),
        ("2007_000002", 30, (12, 16), r"SegmentationClass/2007_000002\.png holds \[.*\]; allowed are 0 to 20, and 255"),
        ("2007_000002", 5, (12, 15), r"mask of 2007_000002 has \(12, 15\) pixels, its image \(12, 16\)"),
    ],
)
def test_a_bad_mask_of_sbd_or_of_vocs_own_is_named_and_leaves_nothing(
    mirror: Any, out: Path, identity: str, num: int, size: tuple[int, int], message: str
) -> None:
    write_archives(mirror, **{identity: mirror.ids("bad", num, size)})
    with pytest.raises(ValueError, match=message):
        prepare({"name": "voc"}, out)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("identity", ["2007_000003", "2008_000005"])
def test_a_photograph_that_its_exif_turns_is_named(mirror: Any, out: Path, identity: str, orientation: int) -> None:
    """Upside down it would train against its mask silently, and on its side stop the training of another day."""
    write_archives(mirror, turned={identity: orientation})
    with pytest.raises(ValueError, match=rf"{identity}\.jpg has EXIF orientation {orientation}; allowed is 1"):
        prepare({"name": "voc"}, out)


def test_an_orientation_that_turns_nothing_is_taken(mirror: Any, out: Path) -> None:
    write_archives(mirror, turned=dict.fromkeys([*TRAIN, *VAL, *ADDED], 1))
    prepare({"name": "voc"}, out)


def test_a_compressed_sbd_file_with_one_wrong_bit_is_named(mirror: Any, tmp_path: Path) -> None:
    whole = sbd_mask(mirror.ids("a"), compressed=True)
    path = tmp_path / "a.mat"
    path.write_bytes(whole)
    np.testing.assert_array_equal(voc.read_sbd_mask(path), mirror.ids("a"))
    for place in (len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.mat cannot be read as an SBD mask"):
            voc.read_sbd_mask(path)


def test_a_damaged_sbd_file_is_named(mirror: Any, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(sbd_mask(mirror.ids("a"))[:150])
    with pytest.raises(ValueError, match=r"a\.mat cannot be read as an SBD mask"):
        voc.read_sbd_mask(tmp_path / "a.mat")


def test_an_incomplete_set_is_refused_with_both_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc, "COUNTS", {"train": 1464, "train_aug": 10582, "val": 1449})
    with pytest.raises(ValueError, match=r"'train_aug': 4.*it must have .*'train_aug': 10582"):
        prepare({"name": "voc"}, out)


def test_a_spoilt_archive_is_named_and_fetched_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = out.parents[1] / "archives"
    archives.mkdir(parents=True)
    (archives / "benchmark.tgz").write_bytes(b"half")
    prepare({"name": "voc"}, out)
    assert "benchmark.tgz is damaged" in capsys.readouterr().out
    assert len(list_ids(out, "voc", name="train_aug")) == 4
