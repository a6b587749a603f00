from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import lists
from pipeline.data.layout import read_partition
from pipeline.data.partition import (
    PARTITIONS,
    check_partition,
    input_key,
    labelled_count,
    write_partitions,
)

FINE = [f"fine_{number:02d}" for number in range(30)]
COARSE = [f"coarse_{number:02d}" for number in range(70)]
VAL = [f"val_{number}" for number in range(9)]
DATA: dict[str, Any] = {
    "name": "shapes", "source": "voc", "layout": "voc", "num_classes": 21,
    "family": "seeded", "partition_seed": 0, "order": "nested", "absent": "refuse",
    "train": "train_aug", "fine": "train", "labelled_from": "train_aug", "val": "val",
}  # fmt: skip


def write_voc(root: Path, **listed: list[str]) -> Path:
    """Write empty files in VOC's layout: whether an image is well-formed is not the partitions' concern."""
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, ids in listed.items():
        (root / "ImageSets/Segmentation" / f"{name}.txt").write_text("\n".join(ids))
        for identity in ids:
            (root / "JPEGImages" / f"{identity}.jpg").touch()
            (root / "SegmentationClassAug" / f"{identity}.png").touch()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path / "data" / "voc", train=FINE, train_aug=FINE + COARSE, val=VAL)
    return tmp_path / "data"


def written(root: Path, dataset: str = "voc_blender", **changes: Any) -> dict[str, tuple[list[str], list[str]]]:
    out = root / "partitions" / dataset
    write_partitions(DATA | changes, dataset, root=root, out=out)
    return {partition: read_partition(out / partition) for partition in PARTITIONS}


def test_a_data_set_may_have_fractions_of_its_own(root: Path) -> None:
    write_partitions(DATA | {"partitions": ["1-50", "1-25"]}, "coco", root=root, out=root / "coco")
    assert [len(read_partition(root / "coco" / partition)[0]) for partition in ("1-50", "1-25")] == [2, 4]


def test_a_partition_may_be_a_count(root: Path) -> None:
    write_partitions(DATA | {"partitions": ["7", "1-3"]}, "mine", root=root, out=root / "mine")
    assert [len(read_partition(root / "mine" / partition)[0]) for partition in ("7", "1-3")] == [7, 34]


def test_labelled_and_unlabelled_make_the_training_list_without_overlap(root: Path) -> None:
    for partition, (labelled, unlabelled) in written(root).items():
        assert sorted(labelled + unlabelled) == sorted(FINE + COARSE)
        assert len(labelled) == labelled_count(100, partition)


def test_nested_partitions_lie_within_each_other(root: Path) -> None:
    labelled = [set(ids) for ids, _ in written(root).values()]
    assert all(small <= large for small, large in pairwise(labelled))


def test_independent_partitions_do_not_nest(root: Path) -> None:
    labelled = [set(ids) for ids, _ in written(root, order="independent").values()]
    assert not labelled[0] <= labelled[1]


def test_fine_first_takes_fine_masks_before_coarse_ones(root: Path) -> None:
    chosen = written(root, order="fine_first")
    assert set(chosen["1-8"][0]) < set(FINE)
    assert set(chosen["1-2"][0]) > set(FINE)


def test_classic_partitions_label_finely_masked_images_only(root: Path) -> None:
    chosen = written(root, "voc_classic", labelled_from="train", order="independent")
    assert len(chosen["1-4"][0]) == 8
    assert set(chosen["1-4"][0]) < set(FINE)
    assert sorted(chosen["full"][0]) == FINE
    assert sorted(chosen["full"][1]) == sorted(COARSE)


def test_partitions_depend_on_seed_and_ids_alone(root: Path, tmp_path: Path) -> None:
    first = written(root)
    again = write_voc(tmp_path / "other" / "voc", train=FINE[::-1], train_aug=COARSE[::-1] + FINE, val=VAL)
    assert written(again.parent) == first
    assert written(root, partition_seed=1)["1-8"] != first["1-8"]


def test_the_rule_of_the_order_is_the_documented_one(root: Path) -> None:
    order = sorted(FINE + COARSE, key=lambda identity: hashlib.sha256(f"0 {identity}".encode()).digest())
    assert written(root)["1-8"][0] == sorted(order[:13])


def test_full_may_leave_nothing_unlabelled(root: Path) -> None:
    labelled, unlabelled = written(root)["full"]
    assert len(labelled) == 100
    assert unlabelled == []


def test_the_summary_states_counts_share_of_fine_masks_and_what_partitions_have_in_common(root: Path) -> None:
    written(root, order="fine_first")
    summary = json.loads((root / "partitions/voc_blender/summary.json").read_text())
    assert (summary["train"], summary["val"]) == (100, 9)
    assert summary["partitions"]["1-4"] == {
        "labelled": 25, "unlabelled": 75, "fine": 25, "in_common": {"1-16": 7, "1-8": 13, "1-2": 25, "full": 25},
    }  # fmt: skip
    assert summary["partitions"]["1-2"]["fine"] == 30


def test_val_is_written_beside_the_partitions(root: Path) -> None:
    written(root)
    assert (root / "partitions/voc_blender/val.txt").read_text().split() == VAL


def test_an_image_of_val_in_the_training_list_is_refused(root: Path) -> None:
    write_voc(root / "voc", train_aug=[*FINE, *COARSE, VAL[3]])
    with pytest.raises(ValueError, match=r"voc_blender/1-16 shares 1 images with val, such as val_3"):
        written(root)


def test_labelled_images_that_are_no_training_images_are_refused(root: Path) -> None:
    write_voc(root / "voc", train=[*FINE, "stranger"])
    with pytest.raises(ValueError, match=r"1 ids of list 'train' are not in list 'train_aug', such as stranger"):
        written(root, labelled_from="train")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "JPEGImages/coarse_07.jpg",
            r"1 files of the 100 training images of voc_blender are not there, .*coarse_07\.jpg",
        ),
        ("JPEGImages/val_7.jpg", r"validation images of voc_blender are not there, .*val_7\.jpg"),
        (
            "SegmentationClassAug/val_7.png",
            r"1 files of the 9 validation images of voc_blender are not there, .*val_7\.png",
        ),
        ("SegmentationClassAug/fine_07.png", r"labelled images of voc_blender/.* are not there, .*fine_07\.png"),
    ],
)
def test_missing_files_are_counted_and_named(root: Path, file: str, message: str) -> None:
    (root / "voc" / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        written(root)


def test_the_masks_of_images_that_are_never_labelled_are_not_needed(root: Path) -> None:
    for identity in COARSE:
        (root / "voc/SegmentationClassAug" / f"{identity}.png").unlink()
    assert len(written(root, labelled_from="train")["1-8"][0]) == 4


def test_a_failure_leaves_nothing_behind_and_the_old_partitions_in_place(root: Path) -> None:
    before = written(root)
    (root / "voc/JPEGImages/coarse_07.jpg").unlink()
    with pytest.raises(FileNotFoundError):
        written(root, partition_seed=5)
    assert [path.name for path in (root / "partitions").iterdir()] == ["voc_blender"]
    assert read_partition(root / "partitions/voc_blender/1-8") == before["1-8"]


def test_an_empty_partition_and_a_repeated_id_are_refused() -> None:
    with pytest.raises(ValueError, match="partition x/1-8 has no labelled image"):
        check_partition([], ["a"], val=[], name="x/1-8")
    with pytest.raises(ValueError, match=r"of partition x/1-8, .* names 1 ids more than once, such as \['a'\]"):
        check_partition(["a"], ["b", "a"], val=[], name="x/1-8")


def test_a_folder_of_ones_own_labels_what_has_masks_and_keeps_val_apart(tmp_path: Path) -> None:
    mine = tmp_path / "data" / "mine"
    for folder in ("images", "masks"):
        (mine / folder).mkdir(parents=True)
    for number in range(40):
        (mine / "images" / f"{number:02d}.jpg").touch()
        if number < 20:
            (mine / "masks" / f"{number:02d}.png").touch()
    own = {"source": "mine", "layout": "folder", "train": "images", "fine": "masked", "labelled_from": "masked"}
    chosen = written(tmp_path / "data", "folder", **own, val=0.25)
    val = (tmp_path / "data/partitions/folder/val.txt").read_text().split()
    assert len(val) == 5
    assert len(chosen["full"][0]) == 15
    assert len(chosen["full"][1]) == 20
    assert len(chosen["1-2"][0]) == 8
    for labelled, unlabelled in chosen.values():
        assert not set(val) & set(labelled + unlabelled)
    (mine / "val.txt").write_text("03.jpg\r\n07.jpg")
    chosen = written(tmp_path / "data", "folder", **own, val="val")
    assert len(chosen["full"][0]) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "random"}, r"data\.order is 'random'; allowed are"),
        ({"absent": "ignore"}, r"data\.absent is 'ignore'; allowed are"),
        ({"val": 1.5}, r"data\.val is 1\.5; allowed are the name of a list, or a share"),
        ({"family": "mine"}, r"list family is 'mine'; allowed are \('u2pl', 'cps', 'pseudoseg'\) and 'seeded'"),
        ({"layout": "coco"}, r"layout is 'coco'"),
    ],
)
def test_values_that_are_not_allowed_are_refused(root: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(root, **change)


def test_a_missing_key_is_named(root: Path) -> None:
    data = {key: value for key, value in DATA.items() if key != "order"}
    with pytest.raises(ValueError, match=r"the data block lacks \['order'\]"):
        write_partitions(data, "voc_blender", root=root, out=root / "x")


@pytest.fixture
def published(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror with a published partition of the same form, in place of the real one."""
    chosen = {"pascal/7/labeled.txt": FINE[:7], "pascal/7/unlabeled.txt": FINE[7:] + COARSE}
    mirror, checksums = root / "mirror", {}
    for name, ids in chosen.items():
        (mirror / "splits" / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / "splits" / name).write_bytes("\r\n".join(ids).encode())
        checksums[name] = hashlib.sha256((mirror / "splits" / name).read_bytes()).hexdigest()
    folders = {("voc_blender", partition): "pascal/7" for partition in PARTITIONS if partition != "full"}
    monkeypatch.setattr(lists, "U2PL_SHA256", checksums)
    monkeypatch.setattr(lists, "U2PL_FOLDERS", folders)
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    return mirror / "splits" / "pascal" / "7"


def test_published_lists_are_fetched_verified_and_kept_in_their_order(root: Path, published: Path) -> None:
    chosen = written(root, family="u2pl")
    assert chosen["1-8"] == (FINE[:7], FINE[7:] + COARSE)
    assert len(chosen["full"][0]) == 100


def test_a_changed_published_list_is_refused(root: Path, published: Path) -> None:
    (published / "labeled.txt").write_text("\n".join(FINE[1:8]))
    with pytest.raises(ValueError, match=r"splits/pascal/7/labeled\.txt from .* is not the published file"):
        written(root, family="u2pl")


def test_ids_that_a_data_set_lacks_are_refused_or_left_out_as_said(root: Path, published: Path) -> None:
    write_voc(root / "voc", train_aug=(FINE + COARSE)[1:], train=FINE[1:])
    with pytest.raises(ValueError, match=r"1 ids of the published partition .* such as fine_00; set data\.absent"):
        written(root, family="u2pl")
    labelled, unlabelled = written(root, family="u2pl", absent="skip")["1-8"]
    assert labelled == FINE[1:7]
    assert len(unlabelled) == 93


def test_a_partition_nobody_published_names_those_that_were(root: Path) -> None:
    with pytest.raises(ValueError, match=r"u2pl published no partition '1-3' of 'cityscapes'; it has \['1-16'"):
        input_key(DATA | {"family": "u2pl"}, "cityscapes", partition="1-3")


def test_every_published_partition_has_checksums_for_both_lists() -> None:
    for dataset, partition in lists.U2PL_FOLDERS:
        assert len(lists.published_identity("u2pl", dataset, partition=partition)) == 2
    assert len(lists.U2PL_SHA256) == 2 * len(lists.U2PL_FOLDERS)


def test_the_input_key_follows_everything_that_decides_a_partition() -> None:
    def key(dataset: str = "voc_blender", partition: str = "1-8", **changes: Any) -> str:
        return input_key(DATA | changes, dataset, partition=partition)

    same = [key(), key(dataset="voc_classic")]  # the name of a seeded data set decides nothing
    others = [
        key(partition="1-4"), key(partition_seed=1), key(order="fine_first"), key(labelled_from="train"),
        key(num_classes=20), key(name="streets"), key(family="u2pl"), key(family="u2pl", partition="1-4"),
        key(family="u2pl", dataset="voc_classic"),
    ]  # fmt: skip
    assert len(set(same)) == 1
    assert len({*same, *others}) == 1 + len(others)


def test_the_input_key_needs_no_torch() -> None:
    code = "import sys, pipeline.data.partition; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
