"""The whole path at scale `smoke`, in a copy of the project: `python -m tests.smoke [FOLDER]`, or `make smoke`.

Every stage runs: data, partitions, cells, and one table of each kind (methods, components, a sweep, Cityscapes'
sliding windows) with the experiment, then the page. Prints what a table looks like and where all of it lies.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.params import params_text

PROJECT = Path(__file__).parents[1]
TABLES = ("table_6", "table_7", "table_a2", "experiment")
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".git", ".venv", "cache", "tmp", "data", "runs", ".*_cache", "smoke")


def copy_project(folder: Path) -> Path:
    """Copy the project, without environment, history, cache and results, into a git repository of its own."""
    shutil.copytree(PROJECT, folder, ignore=_left_out, dirs_exist_ok=True)
    (folder / "params.yaml").write_text(params_text("smoke"))
    identity = ["-c", "user.name=smoke", "-c", "user.email=smoke@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "A copy to try"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def _left_out(place: str, names: list[str]) -> set[str]:
    inside = Path(place).relative_to(PROJECT).parts
    ignored = LEFT_OUT(place, names) | ({"own"} if not inside else set())  # somebody's photographs; not reports/own
    return (
        ignored if not inside or inside[0] in (".dvc", "reports") else {name for name in names if name == "__pycache__"}
    )


def main() -> int:
    """Run it; return the exit status of the stage that failed, or 0."""
    folder = copy_project(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="smoke-")))
    targets = [f"tables@{table}" for table in TABLES]
    status = subprocess.run(["dvc", "repro", *targets], cwd=folder, check=False).returncode
    for stage in ("pictures", "report"):  # not through DVC, which wants all tables for them
        if status == 0:
            status = subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", "smoke"], cwd=folder, check=False
            ).returncode
    if status == 0:
        print((folder / "reports" / "smoke" / "tables" / "table_7.md").read_text())
        print(f"all of it: {folder / 'reports' / 'smoke' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
