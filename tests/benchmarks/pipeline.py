"""What the pipeline itself costs, in a project whose tables are built: `python -m tests.benchmarks.pipeline`.

Prints CPU-seconds of a `dvc repro` with nothing to do (beside plain `dvc status`, the baseline), memory of a waiting
stage and of the ingester's process, the time of an experiment that a table holds, and, from the store's execution log,
how long the grid took and which share of the cores' time its cells filled.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from pipeline.store import Store, find_store


def main() -> None:
    """Measure and print, one figure a line."""
    for name, command in (("no-op dvc repro", ["dvc", "repro"]), ("baseline: dvc status", ["dvc", "status"])):
        wall_s, cpu_s = cost(command)
        print(f"{name}: {cpu_s:.1f} CPU-s, {wall_s:.1f} s")
    waiting = "import pipeline.attach, pipeline.progress"
    print(f"waiting stage: {memory_mb(waiting):.0f} MB")
    print(f"ingester: {memory_mb('import pipeline.tracking, mlflow; mlflow.MlflowClient()'):.0f} MB")
    grid(Store(find_store(Path.cwd())))
    wall_s, cpu_s = cost(["dvc", "exp", "run", "-S", "alpha0=0.3", "tables@experiment"])
    print(f"dvc exp run -S alpha0=0.3, a cell that a table holds: {wall_s:.1f} s, {cpu_s:.1f} CPU-s")
    subprocess.run(["git", "checkout", "-q", "params.yaml", "dvc.lock", "reports"], check=False)


def cost(command: list[str]) -> tuple[float, float]:
    """Return wall and CPU seconds of a command and its children."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu_s


def memory_mb(code: str) -> float:
    """Return the resident memory of a process that ran `code`."""
    code += "; import psutil; print(psutil.Process().memory_info().rss)"
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) / 1e6


def grid(store: Store) -> None:
    """Print, from the execution log, how the last grid's time was spent."""
    started: dict[str, tuple[str, float]] = {}
    seconds: dict[str, list[float]] = defaultdict(list)
    first, last = float("inf"), 0.0
    for line in store.executions():
        if line["event"] in ("start", "resume"):
            started[line["key"]] = (line["kind"], line["time"])
            first = min(first, line["time"])
        elif line["event"] == "done":
            kind, since = started[line["key"]]
            seconds[kind].append(line["time"] - since)
            last = max(last, line["time"])
    for kind, taken in seconds.items():
        print(f"{len(taken)} {kind} cells: {sum(taken) / len(taken):.1f} s on average, {max(taken):.1f} s at most")
    busy = sum(map(sum, seconds.values())) / ((last - first) * (os.cpu_count() or 1))
    print(f"grid: {(last - first) / 60:.1f} min from first start to last end")
    print(f"cells filled {100 * busy:.0f} % of the cores' time")


if __name__ == "__main__":
    main()
