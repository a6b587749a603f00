"""How costs grow: `python -m tests.benchmarks.growth`.

What U2PL adds to a step, counted on fake tensors while one of crop, classes, queue length and batch grows, and its law
as a least-squares line a + b x (x is the crop's area); then the same of whole steps, networks and all; then what a cell
costs before it runs: from the rows of a table to the keys of its cells, and `dvc status` of a stage that reads these
rows.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cell import chain, read_rows
from pipeline.commands.forecast import step_cost
from tests.benchmarks.counting import count, is_network
from tests.benchmarks.report import fitted, table, write
from tests.benchmarks.step import paper_row

GROWING: dict[str, Sequence[int]] = {
    "crop": (129, 257, 513),
    "classes": (2, 21, 150),
    "queue": (1_000, 10_000, 50_000),
    "batch": (2, 8, 16),
}
SIZES = {"crop": 257, "classes": 21, "queue": 50_000, "batch": 4}
FLAT = 0.02
"""What grows by less than this share of the whole does not grow."""

NARROW: dict[str, Any] = {"blocks": [1, 1, 1, 1], "width": 8, "multi_grid": [1]}
"""A small encoder: what U2PL adds does not depend on it, but for the optimiser and the average."""

NUM_CELLS = (10, 100, 1000, 10_000)


WHOLE = {name: values for name, values in GROWING.items() if name != "queue"}
WORDS = f"""\
One of these at a time, the others 257 pixels, 21, 50,000 and 4 + 4: \
{"; ".join(f"{name} {', '.join(map(str, values))}" for name, values in GROWING.items())}. Counted on fake tensors; a law
is the line with the least sum of squared relative errors through the three, and *off by* its largest relative error
there. Of crops the line is in the area, x = (crop / 257)^2; else x is the number itself.

"""


def main() -> None:
    """Count, measure and write the section."""
    body = WORDS + "What U2PL adds, the optimiser left out:\n\n"
    body += laws(GROWING, added, ("bytes, GB", "operations, G", "launches"))
    body += "\nWhole steps, networks of ResNet-50 and all:\n\n"
    body += laws(WHOLE, whole, ("operations, T", "memory, GiB"))
    write("growth", "Growth", body + "\n" + cells())


def laws(growing: dict[str, Sequence[int]], cost: Callable[[str, int], Sequence[float]], units: Sequence[str]) -> str:
    """Return the table of what grows: three values of each, and the line through them."""
    rows = []
    for name, values in growing.items():
        counted = zip(*(cost(name, value) for value in values), strict=True)
        x = np.array([(value / SIZES["crop"]) ** 2 if name == "crop" else value for value in values], dtype=float)
        for unit, series in zip(units, counted, strict=True):
            fixed, each, off = fitted(x, np.array(series, dtype=float))
            law = f"{fixed:.3g}" if abs(each) * x.max() < FLAT * fixed else f"{fixed:.3g} + {each:.3g} x"
            rows.append([name, unit, *(f"{value:,.3g}" for value in series), law, f"{off:.0%}"])
    return table(["what grows", "what", "small", "middle", "large", "law", "off by"], rows)


def changed(name: str, value: int, **model: Any) -> dict[str, Any]:
    """Return U2PL's row with one size changed."""
    sizes = SIZES | {name: value}
    row = paper_row("u2pl", sizes["batch"])
    queue = {"queue_size": max(1, sizes["queue"] * 3 // 5), "queue_size_class_0": sizes["queue"], "rank_low": 1}
    queue["max_enqueue_per_class"] = min(row["parameters"]["max_enqueue_per_class"], queue["queue_size"])
    return row | {
        "parameters": row["parameters"] | queue,
        "training": row["training"] | {"crop": sizes["crop"]},
        "data": row["data"] | {"num_classes": sizes["classes"]},
        "model": row["model"] | {"encoder": row["model"]["encoder"] | model},
    }


def added(name: str, value: int) -> tuple[float, float, float]:
    """Return bytes, operations and launches of what U2PL adds."""
    row = changed(name, value, **NARROW)
    tally = count(row).total(lambda file: not is_network(file) and file != "torch/optim")
    return tally.moved_bytes / 1e9, tally.operations / 1e9, tally.launches


def whole(name: str, value: int) -> tuple[float, float]:
    """Return operations and memory of whole steps."""
    cost = step_cost(changed(name, value, blocks=[3, 4, 6, 3]))
    return cost.flop / 1e12, cost.peak_bytes / 2**30


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
