"""Where the project is, and how a command that is typed somewhere below it gets there."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path


def find_project() -> Path:
    """Return the nearest folder with `dvc.yaml` and `.dvc`, here or above: those of reports/ have stages alone.

    Raises ValueError where there is none.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "dvc.yaml").exists() and (folder / ".dvc").is_dir():
            return folder
    raise ValueError(f"{Path.cwd()}: no dvc.yaml beside a folder .dvc, here or above; run inside the project")


def enter_project(options: Namespace) -> Path:
    """Go to the project, since keys and folders of one's own are read from there, and return it.

    What the command line names stays where it was named: paths, and a cell that is given as a folder which has it.
    """
    root = find_project()
    if root != Path.cwd():
        for name, value in vars(options).items():
            if isinstance(value, Path) or (name == "cell" and (Path(value) / "cell.json").exists()):
                setattr(options, name, type(value)(Path(value).absolute()))
        os.chdir(root)
    return root
