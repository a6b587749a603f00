"""What a worker costs and what its steps are made of: `python -m tests.benchmarks.workers`.

Start-up to the first step and resident memory, each in a process of its own; tiny cells a minute of one core, from
data to weights; where the time of a step at scale `embedded` goes, by operation.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.cell import chain
from pipeline.commands.forecast import synthetic_run
from pipeline.data.partition import write_partitions
from pipeline.data.sources import prepare
from pipeline.params import load_params, resolve_table
from pipeline.training.engine import start_run, train_cell, train_step
from tests.benchmarks.report import Figure, figures, rounds, table, write

PARAMS = Path(__file__).parents[2] / "params.yaml"
PROFILED, TOP, CELLS = 20, 12, 5
START = """
import time
began = time.process_time()
import psutil
import torch
torch.set_num_threads(1)
imported, held = time.process_time(), psutil.Process().memory_info().rss
from tests.benchmarks.workers import row_of
from pipeline.commands.forecast import synthetic_run
from pipeline.training.engine import train_step
run = synthetic_run(row_of("embedded", "u2pl"))
train_step(run)
print(imported - began, time.process_time() - began, held / 2**20, psutil.Process().memory_info().rss / 2**20)
"""


def main() -> None:
    """Measure and write the section."""
    torch.set_num_threads(1)
    told = subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, text=True).stdout.split()
    imported_s, first_s, imported_mib, mib = map(float, told)
    lines = [
        Figure("start-up to the end of the first step, beside `import torch`", first_s, imported_s, unit="s"),
        Figure("memory of a worker after it, beside `import torch`", mib, imported_mib, unit="MiB"),
        Figure("tiny cells a minute of one core, beside the bare steps of as many", *tiny_cells()),
    ]
    body = figures(lines)
    for method in ("u2pl", "cutmix"):
        body += f"\n`{method}`, scale `embedded`, {PROFILED} steps:\n\n{profiled(method)}"
    body += "\nStep by precision, as float32 over bfloat16:\n\n" + figures(
        [precision(one) for one in ("u2pl", "cutmix")]
    )
    write("workers", "A worker and its cells", body)


def row_of(scale: str, method: str, **training: Any) -> dict[str, Any]:
    """Return a method's row at a scale."""
    params = load_params(PARAMS) | {"scale": scale, "method": method}
    (row,) = resolve_table(params, "experiment")
    return row | {"training": row["training"] | training}


def tiny_cells() -> tuple[float, float]:
    """Return how many trainings of scale `smoke` a minute of processor time holds, in one process.

    And how many where it does nothing but their training steps, no start, logging, measuring or saving.
    """
    with tempfile.TemporaryDirectory() as folder:
        root, row = Path(folder), row_of("smoke", "suponly", warm_start_epochs=0)
        prepare(row["data"], root / row["data"]["source"])
        write_partitions(row["data"], row["dataset"], root=root, out=root / "partitions" / row["dataset"])
        whole_s = steps_s = 0.0
        for seed in range(CELLS):
            (root / str(seed)).mkdir()
            (train,) = [cell for cell in chain(row | {"seed": seed}) if cell.kind == "train"]
            began = time.process_time()
            train_cell(train, root / str(seed), data_root=root, upstream=[], stop=lambda: False)
            whole_s += time.process_time() - began
            run = start_run(train, root, upstream=[], device="cpu")
            began = time.process_time()
            while run.step < run.last_step:
                train_step(run)
                run.step += 1
            steps_s += time.process_time() - began
        return 60 * CELLS / whole_s, 60 * CELLS / steps_s


def profiled(method: str) -> str:
    """Return the operations that take most of a step's time."""
    run = synthetic_run(row_of("embedded", method))
    for _ in range(3):
        train_step(run)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(PROFILED):
            train_step(run)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    rows = [
        [
            f"`{event.key}`",
            event.count // PROFILED,
            f"{event.self_cpu_time_total / PROFILED / 1e3:.2f}",
            f"{100 * event.self_cpu_time_total / whole:.1f}",
        ]
        for event in events[:TOP]
    ]
    return table(["operation", "calls a step", "ms a step", "%"], rows)


def precision(method: str) -> Figure:
    """Compare a step in float32 with one in bfloat16."""
    runs = {name: synthetic_run(row_of("embedded", method, precision=name)) for name in ("float32", "bfloat16")}
    taken_s = rounds({name: lambda run=run: train_step(run) for name, run in runs.items()}, num=9)
    return Figure(method, 1e3 * taken_s["float32"], 1e3 * taken_s["bfloat16"], unit="ms")


if __name__ == "__main__":
    main()
