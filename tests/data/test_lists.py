"""Published lists of labelled images alone: counted, their ids verified, and all other images unlabelled."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.data import lists
from pipeline.data.layout import read_ids
from tests.data.test_download import Host
from tests.data.test_download import host as loopback_host

host = loopback_host

SPLITS = Path(__file__).parents[3] / "shared" / "data" / "splits"


def lines_of(family: str, dataset: str, ids: list[str]) -> str:
    """Ids as the published list of a family writes them."""
    if (family, dataset) == ("cps", "cityscapes"):
        names = [identity.rpartition("/")[2].removesuffix("_leftImg8bit.png") for identity in ids]
        return "".join(f"/images/train/{name}.png\t/segmentation/train/{name}_gtFine.png\n" for name in names)
    return "\r\n".join(f"train2017/{identity}" if dataset == "coco" else identity for identity in ids)


@pytest.mark.parametrize(("family", "dataset"), [(family, role) for family in lists.LABELLED_ONLY for role in
    sorted({dataset for dataset, _ in lists.LABELLED_ONLY[family]})])  # fmt: skip
def test_a_list_of_labelled_images_is_counted_and_verified_and_all_others_are_unlabelled(
    family: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition, listed = next((part, listed) for (role, part), listed in lists.LABELLED_ONLY[family].items()
                             if role == dataset)  # fmt: skip
    street = "leftImg8bit/train/ulm/ulm_{:06}_000019_leftImg8bit.png"
    ids = [street.format(i) if dataset == "cityscapes" else f"2007_{i:06}" for i in range(listed.count)]
    file = tmp_path / "splits" / family / dataset / listed.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_text(lines_of(family, dataset, ids), newline="")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    pinned = replace(listed, sha256=lists.ids_digest(ids))
    monkeypatch.setitem(lists.LABELLED_ONLY[family], (dataset, partition), pinned)
    assert lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "fetched") == (ids, None)
    file.write_text(lines_of(family, dataset, ids[::-1]))
    with pytest.raises(ValueError, match="names other images than published, or in another order"):
        lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "other")
    file.write_text(lines_of(family, dataset, ids[:-1]))
    with pytest.raises(ValueError, match=f"names {listed.count - 1} images; it must name {listed.count}"):
        lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "other")
    file.write_text(lines_of(family, dataset, ids))
    assert lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "other") == (ids, None)


def test_lists_of_two_data_sets_never_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPS's of VOC and of Cityscapes have one name."""
    given = {dataset: [f"{dataset}_{i:06}" for i in range(9)] for dataset in ("voc_blender", "cityscapes")}
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    for dataset, ids in given.items():
        listed = lists.List(lists.CPS[dataset, "1-16"].url, len(ids), lists.ids_digest(ids))
        file = tmp_path / "splits" / "cps" / dataset / listed.url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        file.write_text("\n".join(ids))
        monkeypatch.setitem(lists.CPS, (dataset, "1-16"), listed)
    for dataset, ids in given.items():
        found = lists.published_ids("cps", dataset, partition="1-16", folder=tmp_path / "fetched")
        assert found == (ids, None)


def test_lists_are_identified_by_the_checksum_of_their_ids() -> None:
    pinned = [
        identity
        for family, known in lists.LABELLED_ONLY.items()
        for dataset, partition in known
        for identity in lists.published_identity(family, dataset, partition=partition)
    ]
    assert all(len(identity) == 64 for identity in pinned)
    assert len(set(pinned)) == len(pinned) == 17


def test_pseudosegs_lists_are_u2pls_but_for_the_half() -> None:
    """U2PL's list of 732 shares only 371 images with PseudoSeg's own, which is the one that CPS carries."""
    for name, partition in (("92", "1-16"), ("183", "1-8"), ("366", "1-4"), ("732", "1-2")):
        file = SPLITS / "pascal" / name / "labeled.txt"
        if not file.exists():
            pytest.skip("U2PL's lists are not beside the checkout (../shared/data/splits)")
        same = lists.ids_digest(read_ids(file)) == lists.PSEUDOSEG_SHA256["voc_classic", partition]
        assert same == (name != "732")


def test_cpss_voc_lists_are_every_nth_of_the_sorted_training_images() -> None:
    folder = SPLITS / "pascal" / "92"
    if not folder.exists():
        pytest.skip("U2PL's lists are not beside the checkout (../shared/data/splits)")
    every = sorted([*read_ids(folder / "labeled.txt"), *read_ids(folder / "unlabeled.txt")])
    for stride in (16, 8, 4, 2):
        assert lists.ids_digest(every[::stride]) == lists.CPS_SHA256["voc_blender", f"1-{stride}"]


IDS = [f"2007_{i:06}" for i in range(92)]
FILE = "/splits/pascal/92/labeled.txt"


def publish_lists(host: Host, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Let the loopback host be the mirror of U2PL's lists of 92 images; return the labelled one."""
    labelled, others = "\n".join(IDS).encode(), b"2008_000001\n"
    for name, content in (("labeled", labelled), ("unlabeled", others)):
        monkeypatch.setitem(lists.U2PL_SHA256, f"pascal/92/{name}.txt", hashlib.sha256(content).hexdigest())
        host.files[f"/splits/pascal/92/{name}.txt"] = content
    monkeypatch.setenv("DATA_MIRROR", host.url)
    return labelled


def u2pl_ids(folder: Path) -> tuple[list[str], list[str] | None]:
    return lists.published_ids("u2pl", "voc_classic", partition="1-16", folder=folder)


def test_a_list_whose_answer_is_cut_is_gone_on_with(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = publish_lists(host, monkeypatch)
    host.faults = ["cut"]
    assert u2pl_ids(tmp_path) == (IDS, ["2008_000001"])
    assert host.requests[:2] == [(FILE, None), (FILE, f"bytes={len(labelled) // 2}-")]


def test_an_html_answer_is_no_list(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_lists(host, monkeypatch)
    host.files[FILE] = b"<html>please log in</html>"
    with pytest.raises(ValueError, match=r"splits/pascal/92/labeled\.txt from http.* is not the published file"):
        u2pl_ids(tmp_path)


def test_an_html_answer_is_no_list_of_those_that_are_verified_by_their_ids(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_MIRROR", host.url)
    host.files["/splits/cps/voc_blender/train_aug_labeled_1-16.txt"] = b"<html>\nplease log in\n</html>"
    with pytest.raises(ValueError, match=r"train_aug_labeled_1-16\.txt of cps names 3 images; it must name 662"):
        lists.published_ids("cps", "voc_blender", partition="1-16", folder=tmp_path)


def test_a_list_that_is_not_there_is_named_with_its_address(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_lists(host, monkeypatch)
    del host.files[FILE]
    with pytest.raises(OSError, match=rf"labeled\.txt could not be fetched.*DATA_MIRROR.*\n{host.url}{FILE}: .*404"):
        u2pl_ids(tmp_path)
    assert len(host.requests) == 1
