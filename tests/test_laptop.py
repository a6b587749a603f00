"""Real photographs by the README's command, fewer of them and fewer steps; the paper's scale, up to its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml

from tests.smoke import PROJECT
from tests.test_end_to_end import Copy

pytestmark = pytest.mark.slow
DATA = PROJECT.parent / "shared" / "data"
SHORT = {"steps_per_epoch": 1, "epochs": 3, "crop": 64, "labelled_batch": 2, "unlabelled_batch": 2}
NUM_OTHERS, NUM_VAL = 40, 8


def link_photographs(own: Path) -> None:
    """Make a folder in VOC's layout of what the lists of the tables need, and few more: links and short lists."""
    source, lists = DATA / "voc256", DATA / "splits" / "pascal"
    own.mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClassAug"):
        (own / name).symlink_to(source / name)
    there = {name: (source / f"ImageSets/Segmentation/{name}.txt").read_text().split() for name in ("train_aug", "val")}
    named = {name for size in (1323, 366) for name in (lists / f"{size}/labeled.txt").read_text().split()}
    listed = [name for name in there["train_aug"] if name in named]
    others = [name for name in there["train_aug"] if name not in named][:NUM_OTHERS]
    fine = set((source / "ImageSets/Segmentation/train.txt").read_text().split())
    chosen = {"train_aug": listed + others, "val": there["val"][:NUM_VAL]}
    chosen["train"] = [name for name in chosen["train_aug"] if name in fine]
    (own / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, ids in chosen.items():
        (own / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids) + "\n")


@pytest.mark.skipif(not DATA.exists(), reason="no photographs beside the project")
def test_photographs_are_trained_on_and_tabled_by_one_command(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    copy = Copy(tmp_path / "copy")
    link_photographs(copy.folder / "own" / "voc")
    with modify_yaml(copy.folder / "params.yaml") as params:
        params["scales"]["laptop"]["common"]["training"] |= SHORT
        for table in ("table_x6", "table_x7"):
            params["tables"][table]["seed"] = [0]
    copy.environment["DATA_MIRROR"] = str(DATA)
    copy.run("git", "commit", "-qam", "shorter")
    copy.run("dvc", "exp", "run", "-S", "scale=laptop", "reports/laptop/dvc.yaml")
    for table, columns, labelled in (("table_x6", {"1-16", "1-8"}, 198), ("table_x7", {"1-4"}, 104)):
        rows = json.loads((copy.folder / "reports" / "laptop" / "metrics" / f"{table}.json").read_text())
        assert {row["partition"] for row in rows} == columns
        assert len(rows) == 6 * len(columns)
        assert all(row["state"] == "done" for row in rows)
        named = copy.folder / f"data/laptop/partitions/{rows[0]['dataset']}/{rows[0]['partition']}/labelled.txt"
        assert len(named.read_text().split()) == labelled
        assert "VOC animals" in (copy.folder / "reports" / "laptop" / "tables" / f"{table}.md").read_text()


def test_the_papers_scale_names_the_archive_that_a_mirror_lacks(tmp_path: Path) -> None:
    """`dvc exp run -S scale=paper` wants tens of gigabytes; an empty mirror is where it ends here."""
    copy = Copy(tmp_path / "copy")
    (tmp_path / "mirror").mkdir()
    copy.environment["DATA_MIRROR"] = str(tmp_path / "mirror")
    said = copy.run("dvc", "exp", "run", "-S", "scale=paper", status=255)
    assert "is not there; DATA_MIRROR must hold it" in said
