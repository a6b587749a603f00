from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import cityscapes
from pipeline.data.images import read_mask
from pipeline.data.layout import list_ids, pairs
from pipeline.data.sources import prepare

FRAMES = ["leftImg8bit/train/ulm/ulm_0_1", "leftImg8bit/train/jena/jena_0_2", "leftImg8bit/val/lindau/lindau_0_3"]
TRAIN_IDS = {
    "road": (7, 0), "sidewalk": (8, 1), "building": (11, 2), "wall": (12, 3), "fence": (13, 4), "pole": (17, 5),
    "traffic light": (19, 6), "traffic sign": (20, 7), "vegetation": (21, 8), "terrain": (22, 9), "sky": (23, 10),
    "person": (24, 11), "rider": (25, 12), "car": (26, 13), "truck": (27, 14), "bus": (28, 15), "train": (31, 16),
    "motorcycle": (32, 17), "bicycle": (33, 18),
}  # fmt: skip


@pytest.fixture
def out(mirror: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    images, fine = {}, {}
    for frame in [*FRAMES, "leftImg8bit/test/bonn/bonn_0_4"]:
        label = frame.replace("leftImg8bit", "gtFine")
        images[f"{frame}_leftImg8bit.png"] = mirror.photo("PNG")
        fine[f"{label}_gtFine_labelIds.png"] = mirror.mask(mirror.ids(frame, 34))
        fine[f"{label}_gtFine_polygons.json"] = b"{}"
    mirror.zip("leftImg8bit_trainvaltest.zip", images | {"license.txt": b"", "README": b""})
    mirror.zip("gtFine_trainvaltest.zip", fine)
    mirror.publish("cityscapes")
    monkeypatch.setattr(cityscapes, "COUNTS", {"train": 2, "val": 1})
    return tmp_path / "data" / "paper" / "cityscapes"


def check(mirror: Any, out: Path) -> None:
    known = dict(TRAIN_IDS.values())
    assert list_ids(out, "cityscapes", name="train") == sorted(f"{frame}_leftImg8bit.png" for frame in FRAMES[:2])
    for pair in pairs(out, "cityscapes", ids=[f"{frame}_leftImg8bit.png" for frame in FRAMES]):
        assert pair.mask is not None
        labels = mirror.ids(pair.id.removesuffix("_leftImg8bit.png"), 34)
        expected = [[known.get(int(label), 255) for label in row] for row in labels]
        np.testing.assert_array_equal(read_mask(pair.mask, 19), expected)
    assert not (out / "leftImg8bit" / "test").exists()
    assert not list(out.rglob("*.json"))


def install_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put a stand-in for csDownload first on the path; it notes its arguments, of which `$name` is the last."""
    folder, log = tmp_path / "bin", tmp_path / "calls.txt"
    folder.mkdir()
    (folder / "csDownload").write_text(f'#!/bin/sh\necho "$@" >> {log}\nfor name; do :; done\n{body}\n')
    (folder / "csDownload").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("DATA_MIRROR")
    return log


def test_masks_of_training_ids_are_made(mirror: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare({"name": "cityscapes"}, out)
    said = capsys.readouterr().out
    assert "non-commercial research and teaching, not to be passed on" in said
    assert "https://www.cityscapes-dataset.com/license/" in said
    check(mirror, out)


def test_archives_come_through_the_official_program_which_resumes(
    mirror: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = install_program(tmp_path, monkeypatch, f'cp {mirror.folder}/"$name" "$2"/')
    parts = out.parents[1] / "archives" / "part"
    parts.mkdir(parents=True)
    (parts / "gtFine_trainvaltest.zip").write_bytes(b"begun")
    prepare({"name": "cityscapes"}, out)
    check(mirror, out)
    expected = [
        f"--destination_path {parts} --resume gtFine_trainvaltest.zip",
        f"--destination_path {parts} leftImg8bit_trainvaltest.zip",
    ]
    assert log.read_text().splitlines() == expected
    prepare({"name": "cityscapes"}, out)
    assert log.read_text().splitlines() == expected


def test_an_archive_that_was_complete_when_the_run_died_is_not_asked_for_again(
    mirror: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = install_program(tmp_path, monkeypatch, f'cp {mirror.folder}/"$name" "$2"/')
    parts = out.parents[1] / "archives" / "part"
    parts.mkdir(parents=True)
    (parts / "gtFine_trainvaltest.zip").write_bytes((mirror.folder / "gtFine_trainvaltest.zip").read_bytes())
    prepare({"name": "cityscapes"}, out)
    assert len(log.read_text().splitlines()) == 1


def test_a_damaged_archive_is_removed_and_said(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_program(tmp_path, monkeypatch, 'echo half > "$2/$name"')
    with pytest.raises(ValueError, match=r"gtFine_trainvaltest\.zip from csDownload was damaged and is removed"):
        prepare({"name": "cityscapes"}, out)
    assert not list((out.parents[1] / "archives").rglob("*.zip"))


WRONG_SUM = "Traceback …\nException: MD5 sum of downloaded file does not match."
AT_THE_END = "requests.exceptions.HTTPError: 416 Client Error: Requested Range Not Satisfiable for url: …"


def real_program(first: str, *, says: str, good: Path) -> str:
    """A stand-in that fails as csDownload does: once, after writing `first` and with words on stderr; then it works."""
    return f"""if [ ! -e "$2/../failed" ]; then
touch "$2/../failed"; {first}
printf '%s\\n' '{says}' >&2; exit 1; fi
cp {good}/"$name" "$2"/"""


@pytest.mark.parametrize("says", [WRONG_SUM, AT_THE_END])
def test_what_the_official_program_finds_damaged_is_removed_and_fetched_anew(
    mirror: Any,
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    says: str,
) -> None:
    """It checks the sum itself and exits with 1; `--resume` would find the same file again, for ever."""
    log = install_program(
        tmp_path, monkeypatch, real_program('printf spoilt >> "$2/$name"', says=says, good=mirror.folder)
    )
    parts = out.parents[1] / "archives" / "part"
    parts.mkdir(parents=True)
    (parts / "gtFine_trainvaltest.zip").write_bytes(b"begun ")
    prepare({"name": "cityscapes"}, out)
    check(mirror, out)
    said = capsys.readouterr()
    assert "gtFine_trainvaltest.zip is damaged (12 bytes, says csDownload): it was removed" in said.out
    assert says in said.err
    assert ["--resume" in line for line in log.read_text().splitlines()] == [True, False, False]


def test_a_network_that_is_down_costs_nothing_of_what_is_there(
    mirror: Any, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says = "requests.exceptions.ConnectionError: Network is unreachable"
    log = install_program(tmp_path, monkeypatch, real_program("", says=says, good=mirror.folder))
    part = out.parents[1] / "archives" / "part" / "gtFine_trainvaltest.zip"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"begun")
    with pytest.raises(OSError, match=r"csDownload could not fetch gtFine.*then run again to go on"):
        prepare({"name": "cityscapes"}, out)
    assert part.read_bytes() == b"begun"
    assert len(log.read_text().splitlines()) == 1


def test_a_refused_account_says_how_to_store_one(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_program(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(OSError, match=r"csDownload could not fetch gtFine.*; run `csDownload -l` once to store the ac"):
        prepare({"name": "cityscapes"}, out)


def test_a_missing_program_says_what_to_install(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_MIRROR")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"pip install -e '\.\[cityscapes\]'` \(the package cityscapesscripts\)"
    ):
        prepare({"name": "cityscapes"}, out)


def test_an_incomplete_set_is_refused_with_both_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cityscapes, "COUNTS", {"train": 2975, "val": 500})
    with pytest.raises(ValueError, match="Cityscapes has 2 images in leftImg8bit/train; it must have 2975"):
        prepare({"name": "cityscapes"}, out)


def test_an_unlisted_label_id_is_named(tmp_path: Path, mirror: Any) -> None:
    path = tmp_path / "a_gtFine_labelIds.png"
    path.write_bytes(mirror.mask(np.full((4, 4), 34, dtype=np.uint8)))
    with pytest.raises(ValueError, match=r"a_gtFine_labelIds\.png holds \[34\]; allowed are 0 to 33"):
        cityscapes.write_train_ids(path)
