"""How costs grow: `python -m tests.benchmarks.growth`.

What U2PL adds to a step, counted on fake tensors while one of crop, classes, queue length and batch grows; then what a
cell costs before it runs: from the rows of a table to the keys of its cells, and `dvc status` of a stage that reads
these rows. A slope of 1 is proportional, 2 quadratic.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.cell import chain, read_rows
from tests.benchmarks.counting import count, is_network
from tests.benchmarks.report import table, write
from tests.benchmarks.step import paper_row

GROWING: dict[str, Sequence[int]] = {
    "crop": (129, 257, 513),
    "classes": (2, 21, 150),
    "queue": (1_000, 10_000, 50_000),
    "batch": (2, 8, 16),
}
NARROW: dict[str, Any] = {"blocks": [1, 1, 1, 1], "width": 8, "multi_grid": [1]}
"""A small encoder: what U2PL adds does not depend on it, but for the optimiser and the average."""

NUM_CELLS = (10, 100, 1000, 10_000)


def main() -> None:
    """Count, measure and write the section."""
    rows = []
    for name, values in GROWING.items():
        counted = [added(name, value) for value in values]
        for unit, series in zip(("bytes, GB", "operations, G", "launches"), zip(*counted, strict=True), strict=True):
            rows.append([name, unit, *(f"{value:,.3g}" for value in series), f"{slope(values, series):.2f}"])
    head = ["what grows", "U2PL's own", "small", "middle", "large", "slope"]
    sizes = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in GROWING.items())
    body = f"One of these at a time, the others 257 pixels, 21, 50,000 and 4 + 4: {sizes}.\n\n" + table(head, rows)
    write("growth", "Growth", body + "\n" + cells())


def added(name: str, value: int) -> tuple[float, float, float]:
    """Return bytes, operations and launches of what U2PL adds."""
    sizes = {"crop": 257, "classes": 21, "queue": 50_000, "batch": 4} | {name: value}
    row = paper_row("u2pl", sizes["batch"])
    queue = {"queue_size": max(1, sizes["queue"] * 3 // 5), "queue_size_class_0": sizes["queue"], "rank_low": 1}
    queue["max_enqueue_per_class"] = min(row["parameters"]["max_enqueue_per_class"], queue["queue_size"])
    changed = {
        "parameters": row["parameters"] | queue,
        "training": row["training"] | {"crop": sizes["crop"]},
        "data": row["data"] | {"num_classes": sizes["classes"]},
        "model": row["model"] | {"encoder": row["model"]["encoder"] | NARROW},
    }
    tally = count(row | changed).total(lambda file: not is_network(file) and file != "torch/optim")
    return tally.moved_bytes / 1e9, tally.operations / 1e9, tally.launches


def slope(values: Sequence[float], series: Sequence[float]) -> float:
    """Return the slope between the last two points, both axes logarithmic."""
    return math.log(series[-1] / series[-2]) / math.log(values[-1] / values[-2])


def cells() -> str:
    """Return what a cell costs before it runs, by their number."""
    row, rows = paper_row("u2pl", 16), []
    chain(row)  # the code's own hash is computed once a process
    for num in NUM_CELLS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            path.write_text(json.dumps([row | {"seed": seed} for seed in range(num)]))
            began = time.process_time()
            keys = {cell.key for one in read_rows(path) for cell in chain(one)}
            taken_s = time.process_time() - began
            assert len(keys) == 3 * num  # a warm start, a training, an evaluation
            rows.append([num, f"{1e3 * taken_s / num:.2f}", f"{status_s(Path(folder)):.1f}"])
    return "Cells before they run:\n\n" + table(["rows", "keys, ms a row", "dvc status, s"], rows)


def status_s(folder: Path) -> float:
    """Return the seconds of `dvc status` where one stage depends on the rows."""
    (folder / "dvc.yaml").write_text("stages:\n  read:\n    cmd: 'true'\n    deps: [rows.json]\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "repro", "-q"]):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    began = time.monotonic()
    subprocess.run(["dvc", "status"], cwd=folder, check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
