"""Published lists of labelled and unlabelled images: fetched at a pinned commit and verified, never carried along.

A family is named after the paper whose authors published it; families differ, even at equal counts. `u2pl`: U2PL's.
`cps`: those of Cross Pseudo Supervision, which UniMatch and CorrMatch use too; of VOC they are every 16th, 8th, 4th or
2nd of the sorted training images. `pseudoseg`: PseudoSeg's, those of VOC as CPS carries them. Its 92, 183 and 366 are
U2PL's classic lists too; its 732 are its own (`2_clean`), of which U2PL's list of 732 holds only 371.

U2PL's files are verified by their bytes. The others come with line ends that differ from copy to copy, so their ids
are verified, as they stand after parsing. They name labelled images only; all other training images are unlabelled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.download import fetch
from pipeline.data.layout import read_ids, unique
from pipeline.data.published import Remote

GITHUB = "https://raw.githubusercontent.com"
U2PL_URL = f"{GITHUB}/Haochen-Wang409/U2PL/ab3d2be313d4d6b2885e7a0213d4fce82a803b79/data/splits"
CPS_URL = f"{GITHUB}/charlesCXK/TorchSemiSeg/d859611bc540a0f524f3db8e5fc23fe79da516ec/DATA"
WSS_URL = f"{GITHUB}/googleinterns/wss/8069dbe8b68b409a891224508f35c6ae5ecec4c9/data_splits"


@dataclass(frozen=True)
class List:
    """A labelled list: its address, how many images it names, the sha256 of their ids, and how a line names one."""

    url: str
    count: int
    sha256: str
    to_id: Callable[[str], str] = str.strip


def _street(line: str) -> str:
    """Return the id of CPS's `/images/train/<city>_<frame>.png <mask>`: U2PL's path of the same image."""
    name = line.split(maxsplit=1)[0].rpartition("/")[2].removesuffix(".png")
    return f"leftImg8bit/train/{name.partition('_')[0]}/{name}_leftImg8bit.png"


def _coco(line: str) -> str:
    """Return the id of `train2017/<id>`."""
    return line.strip().rpartition("/")[2]


CPS_SHA256 = {
    ("voc_blender", "1-16"): "7dada8ccc5eb6309b4b81e172dfc24f0d83ea72078675083778ca10487182748",
    ("voc_blender", "1-8"): "df63f50a798512c3befb5364052733bd8bc169f609e034e9f55b5853798ead10",
    ("voc_blender", "1-4"): "62c450787069b36d88ea7bb35895a808885720ae833bae8b9c81775731062ea1",
    ("voc_blender", "1-2"): "192132b4f645339dd143850359d4e27bb62ba3ce447553a07de23fbff4f0c8b9",
    ("cityscapes", "1-16"): "5b05501dedd76c87c54833c717c72349cef18487fdc7e4e61df776f248e330bb",
    ("cityscapes", "1-8"): "09a934ae238f11435e28f43ee77446ac910490a10f37e6bd058564318c46973d",
    ("cityscapes", "1-4"): "39c433d885f4eb3fa5d21cb442711c9428efb98e71dd70950d9a277141e28dc0",
    ("cityscapes", "1-2"): "99e9ffd2a51917d1b8e13f1daf79aaf2998c16e31c82003c98fd1a5a726e93ba",
}
PSEUDOSEG_SHA256 = {
    ("voc_classic", "1-16"): "a2a472eb74fcf8f3ec462d1151f98f68bfcbded3fbfd08c08a49b2d9d7a51ca5",
    ("voc_classic", "1-8"): "7d364bb88766ba220e68e01eb066d94e714349209af73608eaf8940ca2cdedc9",
    ("voc_classic", "1-4"): "4b58843de93dc6927e66a6ae10e0dd257f70ddc370c0875a42a79419290d745a",
    ("voc_classic", "1-2"): "5fef6d10440f157ddd4408bf72401f27c72faf4d0f5f61b26d916ad0a96a40cb",
    ("coco", "1-512"): "848271e2a89eb355f7ace6ec9e9123986de5ae0f4ba4850e90dc7f2beb709fe8",
    ("coco", "1-256"): "09b066836866e4539d84c94a40b9c3a185946d5b1ce8571a1f3b10cfdb12f23d",
    ("coco", "1-128"): "f0e5060945fd3711f88099fe4e005261b9c9c9e610c033191c81fe7f8096dbb1",
    ("coco", "1-64"): "2d5fe5725d397e4a841392ebcb34ad4d3f993b4cbc4dba08093fb20ac5e20f62",
    ("coco", "1-32"): "553d27c36c91e0e058bf4ce3ee842a7af077aa4a41f4c45ef3fadd7b555ed65e",
}
"""Of the ids, an id and a line feed each, in the published order."""

CPS = {
    ("voc_blender", part): List(
        f"{CPS_URL}/pascal_voc/subset_train_aug/train_aug_labeled_{part}.txt", count, CPS_SHA256["voc_blender", part]
    )
    for part, count in {"1-16": 662, "1-8": 1323, "1-4": 2646, "1-2": 5291}.items()
} | {
    ("cityscapes", part): List(
        f"{CPS_URL}/city/config_new/subset_train/train_aug_labeled_{part}.txt",
        count,
        CPS_SHA256["cityscapes", part],
        _street,
    )
    for part, count in {"1-16": 186, "1-8": 372, "1-4": 744, "1-2": 1488}.items()
}
PSEUDOSEG = {
    ("voc_classic", part): List(
        f"{CPS_URL}/pascal_voc/subset_train_aug/pseudoseg_labeled_{part}.txt",
        count,
        PSEUDOSEG_SHA256["voc_classic", part],
    )
    for part, count in {"1-16": 92, "1-8": 183, "1-4": 366, "1-2": 732}.items()
} | {
    ("coco", f"1-{whole}"): List(
        f"{WSS_URL}/coco/{whole}_all.txt", count, PSEUDOSEG_SHA256["coco", f"1-{whole}"], _coco
    )
    for whole, count in {512: 232, 256: 463, 128: 925, 64: 1849, 32: 3697}.items()
}

U2PL_FOLDERS = {
    ("voc_classic", "1-16"): "pascal/92",
    ("voc_classic", "1-8"): "pascal/183",
    ("voc_classic", "1-4"): "pascal/366",
    ("voc_classic", "1-2"): "pascal/732",
    ("voc_classic", "full"): "pascal/1464",
    ("voc_blender", "1-16"): "pascal/662",
    ("voc_blender", "1-8"): "pascal/1323",
    ("voc_blender", "1-4"): "pascal/2646",
    ("voc_blender", "1-2"): "pascal/5291",
    ("cityscapes", "1-16"): "cityscapes/186",
    ("cityscapes", "1-8"): "cityscapes/372",
    ("cityscapes", "1-4"): "cityscapes/744",
    ("cityscapes", "1-2"): "cityscapes/1488",
}
"""(data set, partition) -> folder; its name is the number of labelled images."""

U2PL_SHA256 = {
    "cityscapes/186/labeled.txt": "b325a363ec870628cbf3265bf48f9d9bf3e6e87a6e5c004ca989cda6279a0fd4",
    "cityscapes/186/unlabeled.txt": "0adcdcf9cf5db4276dfcdba1c207b2e5439ee465102d923eff3eec61573c5393",
    "cityscapes/372/labeled.txt": "a7fa9c926a15c3983a6b2b884dc455bcfaf59ddc2cbe63f895e1d067d5a7f9b4",
    "cityscapes/372/unlabeled.txt": "de6eeec7ec6d43403138d840e91e671af0033dc09a09cbcd14a7b872963b034f",
    "cityscapes/744/labeled.txt": "489d49d7dde31150a862dbd0aabfa8e787b9278ee51978d7d3d2c8e67d666c66",
    "cityscapes/744/unlabeled.txt": "e7b30bf5cee9103f546818e61fd8e26eb63c3a763fdd2a45343744bb6d96618a",
    "cityscapes/1488/labeled.txt": "1c345bd7ed630b201bc3c3cde2604dce0d65df35c142bbf35ffea8a699485488",
    "cityscapes/1488/unlabeled.txt": "be9e936decc74da8575cd57974e3b0ed4a669317873a5748125330b7d10409dc",
    "pascal/92/labeled.txt": "7feeb5314d99485739e79c385d3b70145d44dc60190acb4d5df63165c630ef6a",
    "pascal/92/unlabeled.txt": "9ae9c7726c7e06f8ef40cddfea55911128157c5a21c3c5195074e4e45e48031f",
    "pascal/183/labeled.txt": "5dac0b72efebf63344c90c3700537e6d667c80bfa4c17205d96d459e655ec976",
    "pascal/183/unlabeled.txt": "4a3f4c77c01bae73b342439dbb3eb9f09b102e5ca5680fcfd941785bafd0cc98",
    "pascal/366/labeled.txt": "97abd8fe7d52346b2663e6faed73e89560a171788ea0a12c012bff26c74a25d4",
    "pascal/366/unlabeled.txt": "2cb6fe3645fa20e66653209b003e9d8b059e18bc664341515ea352eac2ef273c",
    "pascal/662/labeled.txt": "e9bb5d18af8041799389ad0c2274f043161a912837416c2c6403d9d901dee4c1",
    "pascal/662/unlabeled.txt": "a9a7e39271779ccaacced31633d32d55a0dc27f61a451ac5e3a7a1403cdfb5af",
    "pascal/732/labeled.txt": "b2973f8d47b780e0bc53f598a51fb651c21c7485f4d02111296452abb931ce44",
    "pascal/732/unlabeled.txt": "077f8aab596629403bb38177c3c678a17a30eb7132a38f4952237763b311a170",
    "pascal/1323/labeled.txt": "112dcea11e1a1d211e03db87c743989ffb29c16f90ce30da7c118b3c28f8d697",
    "pascal/1323/unlabeled.txt": "669ca8dc16acaf33a9db723d40e914f93d8d4ab5edab121148fbf30861128694",
    "pascal/1464/labeled.txt": "129f1fe991729b1862115b77738c938c149c1f167baa02b4b3186aea9f0d6a84",
    "pascal/1464/unlabeled.txt": "ba34ae09804b56761fbb46667ed6eb962a498205c068521b1105a0944f08ac40",
    "pascal/2646/labeled.txt": "4cc769f75d69c74e4eabdb1dff7cb93ac22a4c30a9b759a7cedec3e3c6b7ed28",
    "pascal/2646/unlabeled.txt": "4fd8e0bc7304c99ac884c6876a8f5d23ce6d9468fa55601334982ad4fa631f4f",
    "pascal/5291/labeled.txt": "989051b20c885ee09c37b5e5d005c067a6cd1bbcf40b06df6eb4af9e41992296",
    "pascal/5291/unlabeled.txt": "7594c243192ee8decac87d733eb977fea16ede88f9b0cf7759c73251e7f0a82c",
}

LABELLED_ONLY = {"cps": CPS, "pseudoseg": PSEUDOSEG}
FAMILIES = ("u2pl", *LABELLED_ONLY)


def published_ids(family: str, dataset: str, *, partition: str, folder: Path) -> tuple[list[str], list[str] | None]:
    """Return the labelled and unlabelled ids of a published partition, fetched into `folder`.

    None in place of the unlabelled ones: all other training images. Raises ValueError where the family has no such
    partition, and where a list is not the published one; the file is removed then, to be fetched again.
    """
    names, expected = _names(family, dataset, partition=partition)
    files = [fetch(remote, folder) for remote in _remotes(family, dataset, names=names)]
    if family == "u2pl":  # verified by their bytes
        labelled, unlabelled = (read_ids(file) for file in files)
        return labelled, unlabelled
    listed = LABELLED_ONLY[family][dataset, partition]
    try:
        labelled = unique([listed.to_id(line) for line in read_ids(files[0])], str(files[0]))
        if len(labelled) != expected:
            raise ValueError(f"list {names[0]} of {family} names {len(labelled)} images; it must name {expected}")
        if ids_digest(labelled) != listed.sha256:
            raise ValueError(f"list {names[0]} of {family} names other images than published, or in another order")
    except ValueError:
        files[0].unlink()
        raise
    return labelled, None


def ids_digest(ids: list[str]) -> str:
    """Return the sha256 of ids in their order, a line feed after each."""
    return hashlib.sha256("".join(f"{identity}\n" for identity in ids).encode()).hexdigest()


def is_published(family: str, dataset: str, *, partition: str) -> bool:
    """Return whether a partition is a family's; where `full` is none of its lists, it is simply all masks."""
    return family != "seeded" and (partition != "full" or (dataset, partition) in _partitions(family))


def published_identity(family: str, dataset: str, *, partition: str) -> list[str]:
    """Return what stands for the lists of a partition before anything is downloaded: their checksums."""
    names, _ = _names(family, dataset, partition=partition)
    if family == "u2pl":
        return [remote.checksum for remote in _remotes(family, dataset, names=names)]
    listed = LABELLED_ONLY[family][dataset, partition]
    return [listed.sha256]


def _partitions(family: str) -> list[tuple[str, str]]:
    """Return the data sets and partitions that a family has lists of."""
    if family not in FAMILIES:
        raise ValueError(f"list family is {family!r}; allowed are {FAMILIES} and 'seeded'")
    return list(U2PL_FOLDERS if family == "u2pl" else LABELLED_ONLY[family])


def _names(family: str, dataset: str, *, partition: str) -> tuple[list[str], int]:
    """Return where a family keeps a partition's lists, and how many labelled images there are."""
    if (dataset, partition) not in _partitions(family):
        known = [part for role, part in _partitions(family) if role == dataset]
        raise ValueError(f"{family} published no partition {partition!r} of {dataset!r}; it has {known}")
    if family == "u2pl":
        folder = U2PL_FOLDERS[dataset, partition]
        return [f"{folder}/{which}.txt" for which in ("labeled", "unlabeled")], int(folder.rpartition("/")[2])
    listed = LABELLED_ONLY[family][dataset, partition]
    return [listed.url], listed.count


def _remotes(family: str, dataset: str, *, names: list[str]) -> list[Remote]:
    """Return what is fetched. A family's lists of two data sets may have one name, so each has a folder of its own."""
    if family == "u2pl":
        return [Remote(f"splits/{name}", (f"{U2PL_URL}/{name}",), f"sha256:{U2PL_SHA256[name]}") for name in names]
    return [Remote(f"splits/{family}/{dataset}/{name.rpartition('/')[2]}", (name,), "") for name in names]
