"""Published lists without checksums: counted, brought to our ids, and all other images unlabelled."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data import lists


def lines_of(family: str, dataset: str, ids: list[str]) -> str:
    """Ids as the published list of a family writes them."""
    if (family, dataset) == ("cps", "cityscapes"):
        names = [identity.rpartition("/")[2].removesuffix("_leftImg8bit.png") for identity in ids]
        return "".join(f"/images/train/{name}.png\t/segmentation/train/{name}_gtFine.png\n" for name in names)
    return "\r\n".join(f"train2017/{identity}" if dataset == "coco" else identity for identity in ids)


@pytest.mark.parametrize(("family", "dataset"), [(family, role) for family in lists.UNVERIFIED for role in
    sorted({dataset for dataset, _ in lists.UNVERIFIED[family]})])  # fmt: skip
def test_a_family_without_checksums_is_counted_and_its_unlabelled_images_are_all_others(
    family: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition, listed = next((part, listed) for (role, part), listed in lists.UNVERIFIED[family].items()
                             if role == dataset)  # fmt: skip
    street = "leftImg8bit/train/ulm/ulm_{:06}_000019_leftImg8bit.png"
    ids = [street.format(i) if dataset == "cityscapes" else f"2007_{i:06}" for i in range(listed.count)]
    file = tmp_path / "splits" / family / listed.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_text(lines_of(family, dataset, ids), newline="")
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path))
    assert lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "fetched") == (ids, None)
    file.write_text(lines_of(family, dataset, ids[:-1]))
    with pytest.raises(ValueError, match=f"names {listed.count - 1} labelled images; it must name {listed.count}"):
        lists.published_ids(family, dataset, partition=partition, folder=tmp_path / "again")
