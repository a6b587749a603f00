"""Where results come from: the commit and what differs from it, the stage, the node, the versions of what computed."""

from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.cell import Cell
from pipeline.files import write_bytes
from pipeline.records import Holder, Sources, Submission
from pipeline.store import Store

PACKAGES = ("torch", "torchvision", "numpy", "dvc", "submitit", "mlflow")
NO_SOURCES = (":(exclude)reports", ":(exclude)dvc.lock")
AS_PATCH = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv")
"""Whatever a user's git is told to show, so that `git apply` takes it."""

RECORDED = ("commit", "dirty", "patch", "snapshot", "dvc_experiment")
"""What a submission knew of its code."""


def source_state(store: Store, root: Path) -> Sources:
    """Return the git commit at `root`, whether sources differ from it, and the name of the patch that says how.

    Sources are all files but those that stages write. The patch, of tracked ones, is kept in the store once, at
    `patches/<name>.diff`; new files make the tree differ as well.
    """
    patch, difference = None, git(root, "diff", "HEAD", *AS_PATCH, "--", ".", *NO_SOURCES)
    if difference:
        patch = hashlib.sha256(difference).hexdigest()[:16]
        if not patch_path(store, patch).exists():
            write_bytes(patch_path(store, patch), difference)
    dirty = bool(git(root, "status", "--porcelain", "--untracked-files=normal", "--", ".", *NO_SOURCES).strip())
    return {"commit": git(root, "rev-parse", "HEAD").decode().strip() or None, "dirty": dirty, "patch": patch}


def patch_path(store: Store, name: str) -> Path:
    """Return where a patch is kept."""
    return store.root / "patches" / f"{name}.diff"


def git(root: Path, *arguments: str) -> bytes:
    """Return what git answers, or nothing outside a repository and where there is no such program."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return answer.stdout if answer.returncode == 0 else b""


def provenance(cell: Cell, record: Submission, *, holder: Holder, ranks: int, started: float) -> dict[str, Any]:
    """Return where a result comes from: code, stage, node, job, versions, restarts, times (seconds since the epoch).

    `dvc_stage` is the stage of the first table that the cell was submitted for, `submitted_by` the stage that was
    running then: the first of a `dvc repro` submits the cells of all.
    """
    torch = sys.modules.get("torch")
    tables = [name.split("/")[-1] for name, keys in record.get("tables", {}).items() if cell.key in keys]
    return {name: record.get(name) for name in RECORDED} | {
        "dvc_stage": f"{cell.kind}@{tables[0]}" if tables else None,
        "submitted_by": record.get("dvc_stage"),
        "node": socket.gethostname(),
        "job": holder["job"],
        "ranks": ranks,
        "gpu": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None,
        "versions": versions(),
        "restarts": holder["restarts"],
        "started": started,
        "ended": time.time(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed; of CUDA and cuDNN where torch has them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found
