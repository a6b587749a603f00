"""What launching costs: `python -m tests.benchmarks.cells` (needs SLURM; slurm/test_cluster/install has it).

On a test cluster of eight slots: 40 sleeping cells of 2 s and 600 of 1 s, beside the plain way, one job a cell, in the
same run; then a driver killed with -9 and started again. On a simulated store: what claiming and taking cost a cell,
from 10 cells to 10,000.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import yaml

from pipeline.cell import Cell, digest
from pipeline.store import Store
from pipeline.worker import take

PROJECT = Path(__file__).parents[2]
TOOLS = PROJECT / "slurm" / "test_cluster"
SLOTS = 8
DRIVER = """
import json, subprocess, sys
from pathlib import Path
from pipeline import attach
from pipeline.cell import from_json
from pipeline.launch import submit
from pipeline.store import Store
root, cells = Path(sys.argv[1]), [from_json(cell) for cell in json.load(sys.stdin)]
store = Store(root / "cells")
if sys.argv[2] == "submit":
    submit(store, cells, root=root, data_root=root)
else:
    again = [sys.executable, "-c", Path(sys.argv[3]).read_text(), str(root), "submit"]
    given = json.dumps([cell.to_json() for cell in cells])
    start = lambda: subprocess.run(again, input=given, text=True, check=True)
    print(attach.wait(store, {cell.key: cell for cell in cells}, start, title="benchmark"))
"""


def main() -> None:
    """Measure and print the tables."""
    growth([10, 100, 1000, 10_000])
    up = subprocess.run([TOOLS / "up", "--nodes=1", f"--cpus={SLOTS}"], capture_output=True, text=True, check=True)
    os.environ |= dict(line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines() if "=" in line)
    try:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "slurm").mkdir()
            (root / "slurm" / "bench.yaml").write_text(yaml.safe_dump(site()))
            os.environ |= {"CLUSTER": "bench", "PYTHONPATH": str(PROJECT)}
            (root / "driver.py").write_text(DRIVER)
            print("\n| cells | slots | ideal s | plain s | ours s | of ideal | queued s | driver MB | its %")
            print("|---|---|---|---|---|---|---|---|---|")
            for num, seconds in ((40, 2.0), (600, 1.0)):
                plain_s = plain(root, num, seconds) if num <= 100 else float("nan")
                print(ours(root, num, seconds, plain_s))
            print(after_a_kill(root))
    finally:
        subprocess.run([TOOLS / "down"], check=True, capture_output=True)


def site() -> dict[str, Any]:
    """Return a site of eight workers that share all cells."""
    local = yaml.safe_load((PROJECT / "slurm" / "local.yaml").read_text())
    parameters = {"timeout_min": 30, "cpus_per_task": 1, "mem_gb": 1}
    return local | {"executor": "slurm", "workers": SLOTS, "pack": None, "parameters": parameters}


def sleepers(num: int, seconds: float) -> list[Cell]:
    """Return cells that only sleep."""
    values = {"seconds": seconds, "dataset": "none", "partition": "-", "seed": 0}
    return [Cell("sleep", values | {"number": i}, (), digest([time.time(), num, i])) for i in range(num)]


def plain(root: Path, num: int, seconds: float) -> float:
    """Return the seconds that one job a cell takes, each a Python process, as an array without throttle."""
    began = time.monotonic()
    job = f"{sys.executable} -c 'import time; time.sleep({seconds})'"
    command = ["sbatch", "--wait", f"--array=0-{num - 1}", "--output=/dev/null", "--mem=1G", f"--wrap={job}"]
    subprocess.run(command, check=True, capture_output=True, cwd=root)
    return time.monotonic() - began


def ours(root: Path, num: int, seconds: float, plain_s: float) -> str:
    """Drive cells to their end and return the line of the table."""
    cells, store = sleepers(num, seconds), Store(root / "cells")
    began, wall = time.monotonic(), time.time()
    driver = start(root, cells)
    watched, queued, peak, busy_s = psutil.Process(driver.pid), wall, 0, 0.0
    while driver.poll() is None:
        queued = max([queued, *(path.stat().st_mtime for path in store.submissions.glob("*/jobs.json"))])
        try:
            peak = max(peak, watched.memory_info().rss)
            times = watched.cpu_times()
            busy_s = times.user + times.system
        except psutil.NoSuchProcess:
            break
        time.sleep(0.1)
    took, ideal = time.monotonic() - began, num * seconds / SLOTS
    done = Counter(line["key"] for line in store.executions() if line["event"] == "done")
    assert all(done[cell.key] == 1 for cell in cells)
    figures = f"{plain_s:.1f} | {took:.1f} | {took / ideal:.2f} | {queued - wall:.1f} | {peak / 1e6:.0f}"
    return f"| {num} of {seconds:g} s | {SLOTS} | {ideal:.0f} | {figures} | {100 * busy_s / took:.1f} |"


def start(root: Path, cells: list[Cell]) -> subprocess.Popen[str]:
    """Start a driver that waits for its cells as a stage does."""
    command = [sys.executable, "-c", DRIVER, str(root), "wait", str(root / "driver.py")]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=root, text=True)
    assert driver.stdin is not None
    driver.stdin.write(json.dumps([cell.to_json() for cell in cells]))
    driver.stdin.close()
    return driver


def after_a_kill(root: Path) -> str:
    """Kill a driver with -9 while its cells run, start it again, and count what was submitted or begun twice."""
    cells, store = sleepers(24, 2.0), Store(root / "cells")
    before = len(list(store.submissions.iterdir()))
    driver = start(root, cells)
    while sum(store.is_done(cell.key) for cell in cells) < SLOTS:
        time.sleep(0.1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    start(root, cells).wait()
    begun = Counter(line["key"] for line in store.executions() if line["event"] in ("start", "resume"))
    twice = sum(begun[cell.key] != 1 for cell in cells)
    more = len(list(store.submissions.iterdir())) - before - 1
    return f"\ndriver killed with -9 and started again: {more} further submissions, {twice} of 24 cells begun twice"


def growth(counts: list[int]) -> None:
    """Print what a cell costs the store, by the number of cells."""
    print("| cells | claim ms a cell | look at all, s | take and end ms a cell |\n|---|---|---|---|")
    for num in counts:
        with tempfile.TemporaryDirectory() as folder:
            store, cells = Store(Path(folder) / "cells"), sleepers(num, 0.0)
            claim_s = timed(lambda store=store, cells=cells: [store.claim(cell.key, "s") for cell in cells])
            look_s = timed(lambda store=store, cells=cells: [store.state(cell.key) for cell in cells])
            drained_s = timed(lambda store=store, cells=cells: drain(store, list(cells)))
            print(f"| {num} | {1e3 * claim_s / num:.2f} | {look_s:.3f} | {1e3 * drained_s / num:.2f} |")


def drain(store: Store, cells: list[Cell]) -> None:
    """Take and publish every cell, as one worker does."""
    holder = {"submission": "s", "host": "n1", "pid": 1, "job": "7_1"}
    while (taken := take(store, cells, holder)[0]) is not None:
        store.publish(taken[0].key, taken[1], {"state": "done"})


def timed(act: Any) -> float:
    """Return the seconds that a call takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
