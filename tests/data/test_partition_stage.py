"""What the stage says of its partitions, and the laptop's: the published lists as far as there are photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.data.layout import read_ids
from pipeline.data.partition import write_partitions
from stages import partitions as partitions_stage
from tests.params import FILE, project_params


def test_the_stage_says_what_each_partition_holds(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "smoke").mkdir(parents=True)
    (tmp_path / "data" / "smoke" / "voc").symlink_to(data_root / "voc")
    (tmp_path / "params.yaml").symlink_to(FILE)
    monkeypatch.chdir(tmp_path)
    assert partitions_stage.main("smoke", "voc_blender") == 0
    lines = capsys.readouterr().out.splitlines()
    folder, num_val = (
        tmp_path / "data/smoke/partitions/voc_blender",
        len(read_ids(data_root / "partitions/voc_blender/val.txt")),
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert len(lines) == len(summary["partitions"]) == 5
    for line, (name, facts) in zip(lines, summary["partitions"].items(), strict=True):
        files = (folder / name / f"{which}.txt" for which in ("labelled", "unlabelled"))
        labelled, unlabelled = (len(path.read_text().split()) for path in files)
        share = round(100 * facts["fine"] / labelled)
        assert line == (
            f"voc_blender/{name} (seeded): {labelled} labelled ({share}% of these with fine masks),"
            f" {unlabelled} unlabelled, {num_val} val, none of val among the others"
        )


PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not PHOTOGRAPHS.exists(), reason="no photographs beside the project (../shared/data)")
@pytest.mark.parametrize(
    ("dataset", "expected"), [("voc_blender", {"1-16": 198, "1-8": 401}), ("voc_classic", {"1-4": 104})]
)
def test_the_laptops_partitions_are_the_published_lists_as_far_as_there_are_photographs(
    dataset: str, expected: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", str(PHOTOGRAPHS))
    scale = project_params()["scales"]["laptop"]
    block = scale[dataset]["data"]
    (tmp_path / block["source"]).symlink_to(PHOTOGRAPHS / "voc256")
    write_partitions(scale["sources"][block["source"]] | block, dataset, root=tmp_path, out=tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["train"], summary["val"], summary["family"]) == (3131, 445, "u2pl")
    assert {name: summary["partitions"][name]["labelled"] for name in expected} == expected
    for name, labelled in expected.items():
        files = [(tmp_path / "out" / name / f"{which}.txt").read_text().split() for which in ("labelled", "unlabelled")]
        assert list(map(len, files)) == [labelled, 3131 - labelled]
