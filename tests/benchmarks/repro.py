"""`dvc repro` against the number of cells: `python -m tests.benchmarks.repro [COUNT …]` (10 to 10,000; needs no SLURM).

In a copy of the project in which each row is one cell that only sleeps: seconds of a literal `dvc repro` that finds the
results of all cells of two tables in the store, and of one with nothing to do. No ingester runs beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline.files import try_lock
from pipeline.store import find_store
from tests.benchmarks.cells import TABLES, fill_tables, repro, sleeping_project
from tests.benchmarks.report import fitted, table, write
from tests.benchmarks.store import timed

COUNTS = (10, 100, 1000, 10_000)
PUBLISH = f"""
import os
from pathlib import Path
from pipeline.cell import cells_of, read_rows
from pipeline.store import Store, find_store
os.fsync = lambda _: None  # not what is timed
store = Store(find_store(Path.cwd()))
for path in [Path("reports/smoke/cells") / f"{{table}}.json" for table in {list(TABLES)}]:
    for cell in {{cell.key: cell for row in read_rows(path) for cell in cells_of(row)}}.values():
        token = store.hold(cell.to_json(), {{"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}})
        store.publish(cell.key, token, {{"state": "done", "provenance": {{}}}})
"""
WORDS = """\
Wall seconds, single shots: the stage that writes the cells of two tables, with all of DVC's start; `dvc repro` of these
tables' cells where the store has every result; the same with nothing to do.

"""


def main() -> None:
    """Measure and write the section."""
    counts = list(map(int, sys.argv[1:] or COUNTS))
    with tempfile.TemporaryDirectory() as folder:
        project = sleeping_project(Path(folder) / "project")
        lines = [[num, *measured(project, num)] for num in counts]
    body = WORDS + table(
        ["cells", "write the cells", "all in the store", "nothing to do"], [shown(one) for one in lines]
    )
    if len(counts) > 1:
        num, *columns = (np.array(column, dtype=float) for column in zip(*lines, strict=True))
        for name, column in zip(("write the cells", "all in the store", "nothing to do"), columns, strict=True):
            fixed, each, off = fitted(num, column)
            body += f"\n* {name}: {fixed:.2g} s + {1e3 * each:.2g} ms a cell, off by {off:.0%} at most"
    if sys.argv[1:]:
        print(body)
    else:
        write("repro", "`dvc repro` against the number of cells", body)


def shown(line: list[float]) -> list[str]:
    """Return a line of the table."""
    return [f"{line[0]:,.0f}", *(f"{seconds:.1f}" for seconds in line[1:])]


def measured(project: Path, num: int) -> list[float]:
    """Return the seconds of writing so many cells, of a `dvc repro` that finds them done, and of one more."""
    write_s = timed(lambda: fill_tables(project, num))
    subprocess.run([sys.executable, "-c", PUBLISH], cwd=project, check=True)
    lock = try_lock(find_store(project) / "tracking" / "ingester.lock")
    assert lock is not None
    try:
        return [write_s, timed(lambda: succeed(project)), timed(lambda: succeed(project))]
    finally:
        lock.close()


def succeed(project: Path) -> None:
    """Run `dvc repro` of the two tables' cells. Raises AssertionError where it fails."""
    assert repro(project).wait() == 0, (project / "repro.log").read_text()


if __name__ == "__main__":
    main()
