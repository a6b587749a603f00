"""What a step holds at once, and the batch that fits a card: `python -m tests.benchmarks.memory`.

Counted on fake tensors at the paper's sizes with 2 + 2 and 4 + 4 images; a straight line through both gives the batch,
and 16 + 16 are counted beside it. Libraries' workspaces and an allocator's waste are not in it, so a card must hold a
fifth more, as `python -m pipeline plan` advises. Checked at a small size against the resident memory of a process that
really does the step: where freed memory is given back at once, since only what is alive is counted, and as glibc is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from pipeline.commands.forecast import step_cost, synthetic_run
from pipeline.training.cost import begin_peak, peak_memory_mib
from pipeline.training.engine import train_step
from tests.benchmarks.report import Figure, figures, table, write
from tests.benchmarks.step import PARAMS, paper_row

CARDS_GB, MORE, FULL = (16, 24, 40, 80), 0.2, 16
WORDS = f"""\
513 x 513, float32, ResNet-101; tensors alive at once, counted. The line goes through 2 + 2 and 4 + 4 images; {FULL} +
{FULL} is counted, beside what the line says. A batch fits where the card holds {MORE:.0%} more than is counted, for
libraries' workspaces and the allocator's waste: {MORE / (1 + MORE):.0%} of the card are left free.

"""
CHECKED = """
Counted beside the resident memory of processes that really do two steps of U2PL with 2 + 2 images of 193 x 193:

"""
COUNTED_AIM, CHILDREN = "<= 1.1", 3
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
SMALL: dict[str, Any] = {"crop": 193, "labelled_batch": 2, "unlabelled_batch": 2}


def main() -> None:
    """Count, check and write the section."""
    rows = []
    for method in sorted(path.stem for path in (PARAMS.parent / "pipeline" / "methods").glob("[a-z]*.py")):
        few, more, full = (step_cost(paper_row(method, num)).peak_bytes for num in (2, 4, FULL))
        image, fixed = (more - few) / 2, 2 * few - more
        fits = [max(0, int((card * 2**30 / (1 + MORE) - fixed) / image)) for card in CARDS_GB]
        rows.append(
            [
                method,
                f"{fixed / 2**30:.1f}",
                f"{image / 2**30:.2f}",
                f"{full / 2**30:.1f}",
                f"{(fixed + FULL * image) / 2**30:.1f}",
                *(f"{num} + {num}" for num in fits),
            ]
        )
    head = [
        "method",
        "fixed GiB",
        "GiB for each 1 + 1",
        f"{FULL} + {FULL}, GiB",
        "by the line",
        *(f"{card} GB" for card in CARDS_GB),
    ]
    counted_mib = step_cost(small_row()).peak_bytes / 2**20
    held = [
        Figure("freed memory given back at once", resident_mib(GIVE_BACK), counted_mib, aim=COUNTED_AIM, unit="MiB"),
        Figure("glibc as it is", resident_mib({}), counted_mib, unit="MiB"),
    ]
    body = WORDS + table(head, rows) + CHECKED + figures(held)
    write("memory", "Memory of a step", body)


def resident_mib(environment: dict[str, str]) -> float:
    """Return what real steps hold at most, by processes of their own: the median."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "child"]
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
        for _ in range(CHILDREN)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def small_row() -> dict[str, Any]:
    """Return U2PL's row at a size that any machine can train."""
    row = paper_row("u2pl", 2)
    return row | {"training": row["training"] | SMALL}


def child() -> None:
    """Print the resident MiB that two real steps take beside what the process held before."""
    torch.set_num_threads(1)
    before_mib = psutil.Process().memory_info().rss / 2**20
    begin_peak("cpu")
    run = synthetic_run(small_row())
    for _ in range(2):
        train_step(run)
    print((peak_memory_mib("cpu") or 0) - before_mib)


if __name__ == "__main__":
    child() if Path(sys.argv[-1]).name == "child" else main()
