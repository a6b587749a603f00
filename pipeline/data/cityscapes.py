"""Cityscapes: images and fine masks through its official download program, with masks of the 19 training classes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.archives import extract
from pipeline.data.download import alone, fetch, file_matches, is_intact
from pipeline.data.images import read_mask
from pipeline.data.layout import list_ids
from pipeline.data.published import ARCHIVES, Remote

COUNTS = {"train": 2975, "val": 500}

TRAIN_ID_OF = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
    24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id -> training id (road … bicycle); the label ids 0 to 33 that are not here are ignored (255)."""
NUM_LABEL_IDS = 34
SPOILT = ("MD5 sum of downloaded file does not match", "416 Client Error")
"""What csDownload says of a file that is damaged, and of one that is damaged at full length and to be gone on with."""


def make(out: Path, archives: Path) -> None:
    """Write the data set into the existing folder `out`, with its archives in `archives`."""
    for remote in ARCHIVES["cityscapes"]:
        archive = fetch(remote, archives) if os.environ.get("DATA_MIRROR") else _fetch_with_account(remote, archives)
        extract(archive, out, wanted=_wanted)
    for split, expected in COUNTS.items():
        num = len(list_ids(out, "cityscapes", name=split))
        if num != expected:
            raise ValueError(f"Cityscapes has {num} images in leftImg8bit/{split}; it must have {expected}")
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(write_train_ids, sorted((out / "gtFine").glob("*/*/*_gtFine_labelIds.png"))):
            pass


def write_train_ids(path: Path) -> None:
    """Write the mask of training ids beside a mask of label ids (`…_gtFine_labelIds.png`)."""
    table = np.full(256, 255, dtype=np.uint8)
    table[list(TRAIN_ID_OF)] = list(TRAIN_ID_OF.values())
    ids = table[read_mask(path, NUM_LABEL_IDS)]
    Image.fromarray(ids).save(path.with_name(path.name.replace("_labelIds", "_labelTrainIds")))


def _fetch_with_account(remote: Remote, archives: Path) -> Path:
    """Download an archive with `csDownload`, which asks for the account."""
    target = archives / remote.name
    if is_intact(target, remote):
        return target
    part = archives / "part" / remote.name  # csDownload goes on with a file of its own name
    part.parent.mkdir(parents=True, exist_ok=True)
    with alone(target):
        if is_intact(target, remote):
            return target
        if not _is_whole(part, remote):
            _run_download_program(remote, part)
            if not is_intact(part, remote):
                raise ValueError(
                    f"{remote.name} from csDownload was damaged and is removed; run again to fetch it again"
                )
        part.replace(target)
    return target


def _is_whole(part: Path, remote: Remote) -> bool:
    return part.exists() and file_matches(part, remote.checksum)


def _run_download_program(remote: Remote, part: Path) -> None:
    """Run `csDownload`; what it says is damaged it would go on with for ever, so that is removed and fetched anew."""
    program = shutil.which("csDownload")
    if program is None:
        raise FileNotFoundError(
            f"{remote.name} needs csDownload, which is not installed: `pip install -e '.[cityscapes]'` (the package"
            " cityscapesscripts) brings it; or set DATA_MIRROR to a folder that has the file"
        )
    for _ in range(2):
        resume = ["--resume"] if part.exists() else []
        command = [program, "--destination_path", str(part.parent), *resume, remote.name]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)  # its progress is on stdout
        sys.stderr.write(done.stderr)
        if done.returncode == 0 or _is_whole(part, remote):
            return
        if not part.exists() or not any(words in done.stderr for words in SPOILT):
            break
        print(f"{remote.name} is damaged ({part.stat().st_size} bytes, says csDownload): it was removed", flush=True)
        part.unlink()
    raise OSError(
        f"csDownload could not fetch {remote.name}; run `csDownload -l` once to store the account, then run again"
        " to go on"
    )


def _wanted(name: str) -> str | None:
    parts = name.split("/")
    if len(parts) != 4 or parts[1] not in COUNTS:
        return None
    return name if name.endswith(("_leftImg8bit.png", "_gtFine_labelIds.png")) else None
