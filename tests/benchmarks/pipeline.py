"""What the pipeline itself costs, in a project whose tables are built: `python -m tests.benchmarks.pipeline`.

Processor time of a `dvc repro` with nothing to do, beside plain `dvc status`; memory of a waiting stage and of the
ingester's process; an experiment that a table holds; and, from the store's execution log and results, how long the
grid took and which share of the cores' time its cells filled.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
import time
from pathlib import Path

from pipeline.cell import cells_of, read_rows
from pipeline.files import read_json
from pipeline.sbatch import num_cores
from pipeline.store import Store, find_store
from tests.benchmarks.report import Figure, figures, write

PAUSE_S = 600.0
"""Without the end of any cell for so long, a run of the grid is over."""

BUSY_SHARE = 0.9


def main() -> None:
    """Measure and write the section."""
    written = ["params.yaml", "dvc.lock", "reports/embedded"]
    if subprocess.run(["git", "status", "--porcelain", *written], capture_output=True, check=True).stdout:
        sys.exit(f"{' '.join(written)}: commit what was edited there, an experiment is made and undone")
    (repro_s, repro_cpu_s), (_, status_cpu_s) = cost(["dvc", "repro"]), cost(["dvc", "status"])
    waiting = memory_mb("import pipeline.attach, pipeline.progress")
    ingester = memory_mb("import pipeline.tracking.sending, mlflow; mlflow.MlflowClient()")
    spent = grid(Store(find_store(Path.cwd())), Path.cwd())
    held_s, held_cpu_s = cost(["dvc", "exp", "run", "-S", "alpha0=0.3", "tables@experiment"])
    subprocess.run(["git", "checkout", "-q", *written], check=True)
    lines = [
        Figure("`dvc repro` with nothing to do, beside `dvc status`", repro_cpu_s, status_cpu_s, unit="CPU-s"),
        Figure("the same, wall time", repro_s, unit="s"),
        Figure("`dvc exp run -S alpha0=0.3 tables@experiment`, held by a table", held_s, unit="s"),
        Figure("the same, processor time", held_cpu_s, unit="CPU-s"),
        Figure("a waiting stage", waiting, unit="MB"),
        Figure("the ingester", ingester, unit="MB"),
    ]
    write("pipeline", "The pipeline itself, in a project whose tables are built", figures(lines) + spent)


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


def grid(store: Store, root: Path) -> str:
    """Tell from the execution log and the results how the time of the cells of today's tables was spent."""
    rows = [row for path in sorted((root / "reports/embedded/cells").glob("*.json")) for row in read_rows(path)]
    cells = {cell.key: cell for row in rows for cell in cells_of(row)}
    began: dict[str, float] = {}
    ended: dict[str, float] = {}
    for line in store.executions():
        if line["key"] in cells and line["event"] in ("start", "resume"):
            began[line["key"]] = line["time"]
        elif line["event"] == "done" and line["key"] in began:
            ended[line["key"]] = line["time"]
    for since, until in itertools.pairwise(sorted(ended.values())):
        if until - since > PAUSE_S:  # what was computed before is another run's
            ended = {key: time_s for key, time_s in ended.items() if time_s >= until}
    if not ended:
        return ""
    said = []
    for kind in dict.fromkeys(cells[key].kind for key in ended):
        taken = [ended[key] - began[key] for key in ended if cells[key].kind == kind]
        said.append(
            f"{len(taken)} {kind} cells: {sum(taken) / len(taken):.1f} s on average, {max(taken):.1f} s at most"
        )
    span_s, cores = max(ended.values()) - min(began[key] for key in ended), num_cores()
    busy = sum(ended[key] - began[key] for key in ended) / span_s / cores
    results = [read_json(store.done(key) / "result.json") or {} for key in ended]
    cpu_s = sum(result.get("provenance", {}).get("cpu_s", 0.0) for result in results)
    said.append(f"from the first start to the last end: {span_s / 60:.1f} min")
    own = cpu_s / span_s / cores
    met = "yes" if busy >= BUSY_SHARE else "**no**"
    said.append(f"cells filled {busy:.0%} of the cores' time, aim >= {BUSY_SHARE:.0%}: {met}")
    said.append(f"their own processor time is {own:.0%} of the cores' time")
    return "\nThe grid, by its execution log and results:\n\n" + "".join(f"* {line}\n" for line in said)


if __name__ == "__main__":
    main()
