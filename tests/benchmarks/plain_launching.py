"""What one can do without a launcher: the baselines of `tests.benchmarks.cells`, of cells that only sleep."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

SLOTS, SECONDS, FEW = 8, 2.0, 40
SUBMIT_ALL = f"sbatch --array=1-{SLOTS} --output=/dev/null --mem=1G job"


def one_stage_a_cell(folder: Path) -> None:
    """Let DVC compute each cell in a stage of its own, one after another."""
    dvc_project(folder, f"python -c 'import time; time.sleep({SECONDS})' && echo > out/${{item}}")


def one_stage_a_cell_that_waits(folder: Path) -> None:
    """Submit an array first; a stage of each cell waits for it."""
    folder.mkdir()
    submit_array(f"> {folder}/ended-$SLURM_ARRAY_TASK_ID")
    dvc_project(folder, f"until test -e {folder}/ended-${{item}}; do sleep 0.1; done; echo > out/${{item}}")


def one_array(folder: Path) -> None:
    """Submit an array of a job a cell and wait for it, without DVC."""
    del folder
    submit_array("", "--wait")


def one_stage_that_submits_as_many_jobs_as_slots(folder: Path) -> None:
    """Let one stage submit a job a slot, each of which does a slot's share of the cells, and wait: the least of all.

    It knows nothing of what was done before, and its jobs import nothing.
    """
    (folder / "ended").mkdir(parents=True)
    write_job(folder, folder / "ended")
    dvc_project(folder, f"{SUBMIT_ALL} && {until_ended(folder / 'ended')}; echo > out/${{item}}", num=1)


def write_job(folder: Path, ended: Path) -> None:
    """Write the script of a job that sleeps as often as a slot has cells and says that it has ended."""
    sleeping = f"for _ in range({FEW // SLOTS}): time.sleep({SECONDS})"
    (folder / "job").write_text(
        f"#!/bin/sh\n{sys.executable} -c 'import time\n{sleeping}'\necho > {ended}/$SLURM_ARRAY_TASK_ID\n"
    )


def until_ended(ended: Path) -> str:
    """Return the shell's words for waiting until all such jobs have ended."""
    return f"until test $(ls {ended} | wc -l) -eq {SLOTS}; do sleep 0.1; done"


def submit_array(after: str, *options: str) -> None:
    """Submit a job for each of a few cells, as many at once as there are slots."""
    job = f"{sys.executable} -c 'import time; time.sleep({SECONDS})' {after}"
    shape = (f"--array=0-{FEW - 1}%{SLOTS}", "--output=/dev/null", "--mem=1G")
    subprocess.run(["sbatch", *options, *shape, f"--wrap={job}"], check=True, capture_output=True)


def dvc_project(folder: Path, command: str, *, num: int = FEW) -> None:
    """Run a DVC project of so many stages of this command."""
    (folder / "out").mkdir(parents=True)
    stages = {"cell": {"foreach": list(range(num)), "do": {"cmd": command, "outs": ["out/${item}"]}}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for words in (["init", "-q", "--no-scm"], ["repro", "-q"]):
        subprocess.run(["dvc", *words], cwd=folder, check=True)


PLAIN = {
    "plain dvc repro one stage a cell": one_stage_a_cell,
    "dvc repro one stage a cell that waits for an array": one_stage_a_cell_that_waits,
    "one sbatch array without dvc": one_array,
    f"one stage that submits {SLOTS} jobs, each sleeping {FEW // SLOTS} times": (
        one_stage_that_submits_as_many_jobs_as_slots
    ),
}
