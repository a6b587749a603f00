"""What launching costs: `python -m tests.benchmarks.cells` (eight minutes; parts: plain, forty, kill, many, queue).

On a test cluster of eight slots (slurm/test_cluster/install has what it needs), a literal `dvc repro` of a copy of the
project in which every cell only sleeps for two seconds: 40 of them, beside what one can do without a launcher; a driver
killed with -9 and started again; 600 of them.

Memory is resident memory summed over processes, so what they share counts more than once; the ingester, which outlives
the driver and is one for all drivers of a store, is counted apart.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from pipeline.store import Store, find_store
from tests.benchmarks.plain_launching import FEW, PLAIN, SECONDS, SLOTS, SUBMIT_ALL, until_ended, write_job
from tests.benchmarks.report import table, write
from tests.benchmarks.store import timed
from tests.benchmarks.watched import Watched
from tests.smoke import PROJECT, copy_project

TOOLS = PROJECT / "slurm" / "test_cluster"
PARTS = ("plain", "forty", "kill", "many", "queue")
MANY = 600
TABLES = {"table_4": {"negatives": ["unreliable"]}, "table_7": {"alpha0": [0.2]}}  # with the labels of the paper's
HEAD = ["cells", "ideal s", "s", "of ideal", "all queued s", "first starts s", "first to last s", "of ideal"]
HEAD += ["stage MB", "with dvc", "ingester", "most", "% of a core waiting", "squeue, sacct calls"]
# The three cells of a row are one here: what takes a row apart finds what it expects.
CHAIN = f"""

def chain(row):
    values = row | {{"seconds": {SECONDS}, "initialisation": 0}}
    return 3 * [Cell("warm_start", values, (), digest(values))]
"""
COMPUTE = """

def compute(cell, store, record, *, work, stop):
    time.sleep(cell.values["seconds"])
    return {"state": "done"}
"""


def main() -> None:
    """Measure what the arguments name; write the section where that is all."""
    parts = sys.argv[1:] or PARTS
    if wrong := set(parts) - set(PARTS):
        sys.exit(f"{' '.join(sorted(wrong))}: allowed are {' '.join(PARTS)}")
    if shutil.which("slurmctld") is None:
        sys.exit("not measured: no SLURM here; slurm/test_cluster/install has what it needs")
    up = subprocess.run([TOOLS / "up", "--nodes=1", f"--cpus={SLOTS}"], capture_output=True, text=True, check=True)
    os.environ |= dict(line.removeprefix("export ").split("=", 1) for line in up.stdout.splitlines() if "=" in line)
    try:
        with tempfile.TemporaryDirectory() as folder:
            body = on_cluster(Path(folder), parts)
    finally:
        subprocess.run([TOOLS / "down"], check=True, capture_output=True)
    if set(parts) == set(PARTS):
        write("cells", "Launching on a cluster of eight slots", body)
    else:
        print(body)


def on_cluster(folder: Path, parts: Sequence[str]) -> str:
    """Measure the parts and return their tables."""
    note_calls(folder)
    project, body, lines = sleeping_project(folder / "project"), "", []
    if "plain" in parts:
        for name, act in PLAIN.items():
            took = timed(lambda act=act, name=name: act(folder / name.replace(" ", "-")))
            lines.append([name, f"{took:.1f}", f"{took * SLOTS / FEW / SECONDS:.2f}"])
        head = [f"{FEW} cells of {SECONDS:g} s, ideal {FEW * SECONDS / SLOTS:g} s", "s", "of ideal"]
        body += table(head, lines) + "\n"
    both = list(TABLES)
    runs = [(FEW, both[:1]), (FEW, both), (FEW, both)] if "forty" in parts else []
    runs += [(MANY, both)] if "many" in parts else []
    lines = [ours(project, num, tables) for num, tables in runs]
    if lines:
        body += (
            "Ours, a literal `dvc repro` of one table's cells, or two tables'; MB resident, summed over processes:\n\n"
        )
        body += table(HEAD, lines) + "\n" + aims(lines)
    body += without_cells(project) + least(project) if "forty" in parts else ""
    body += after_a_kill(project) if "kill" in parts else ""
    return body + (queued(project) if "queue" in parts else "")


def note_calls(folder: Path) -> None:
    """Put scripts before squeue and sacct in the path that note each call in the file `calls`."""
    (folder / "bin").mkdir()
    for name in ("squeue", "sacct"):
        (folder / "bin" / name).write_text(f'#!/bin/sh\necho {name} >> {folder}/calls\nexec /usr/bin/{name} "$@"\n')
        (folder / "bin" / name).chmod(0o755)
    (folder / "calls").touch()
    os.environ["PATH"] = f"{folder}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["CLUSTER"] = "bench"


def sleeping_project(folder: Path) -> Path:
    """Copy the project, let each row be one cell that only sleeps, and run all that comes before cells."""
    copy_project(folder)
    for name, code in (("cell", CHAIN), ("worker", COMPUTE)):
        path = folder / "pipeline" / f"{name}.py"
        path.write_text(path.read_text() + code)
    write_site(folder, pack=None)
    subprocess.run(["dvc", "repro", "-q", "partitions@voc_blender"], cwd=folder, check=True)
    return folder


def write_site(project: Path, *, pack: int | None) -> None:
    """Let as many workers as slots take all cells, or give each of `pack` cells a job of its own."""
    local = yaml.safe_load((PROJECT / "slurm" / "local.yaml").read_text())
    parameters = {"timeout_min": 30, "cpus_per_task": 1, "mem_gb": 1}
    site = local | {"executor": "slurm", "workers": SLOTS, "pack": pack, "parameters": parameters}
    (project / "slurm" / "bench.yaml").write_text(yaml.safe_dump(site))


def aims(lines: Sequence[Sequence[str]]) -> str:
    """Say which aims the lines of the table reach."""
    aimed = [(line[0], float(line[3]), 1.25 if line[0].startswith(f"{FEW} ") else 1.15) for line in lines]
    said = [
        f"{name} {share:.2f} of ideal, aim <= {aim}: {'yes' if share <= aim else '**no**'}"
        for name, share, aim in aimed
    ]
    return "; ".join(said) + ".\n\n"


def fill_tables(project: Path, num: int, tables: Sequence[str] = tuple(TABLES)) -> None:
    """Give these tables as many rows together, none of which was computed."""
    first, each = 1000 * int(time.time()), num // len(tables)
    params = yaml.safe_load((project / "params.yaml").read_text())
    for number, name in enumerate(tables):
        seeds = list(range(first + number * num, first + number * num + each))
        row = {"dataset": "voc_blender", "partition": ["1-4"], "method": "u2pl", "seed": seeds}
        params["tables"][name] = row | TABLES[name]
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    subprocess.run(["dvc", "repro", "-q", "cells"], cwd=project, check=True)


def repro(project: Path, tables: Sequence[str] = tuple(TABLES)) -> subprocess.Popen[bytes]:
    """Start `dvc repro` of the tables' cells."""
    command = ["dvc", "repro", *(f"warm_start@{table}" for table in tables)]
    log = (project / "repro.log").open("wb")
    return subprocess.Popen(command, cwd=project, stdout=log, stderr=log, start_new_session=True)


def ours(project: Path, num: int, tables: Sequence[str]) -> list[str]:
    """Drive as many cells to their end and return the line of the table."""
    fill_tables(project, num, tables)
    store, calls = Store(find_store(project)), project.parent / "calls"
    before, asked, wall = len(store.executions()), len(calls.read_text().splitlines()), time.time()
    watched = Watched(repro(project, tables), project)
    took_s, ideal_s = watched.until_end(), num * SECONDS / SLOTS
    queued_s = max(path.stat().st_mtime for path in store.submissions.glob("*/jobs.json")) - wall
    lines = store.executions()[before:]
    done = Counter(line["key"] for line in lines if line["event"] == "done")
    first_s = min(line["time"] for line in lines if line["event"] == "start") - wall
    cells_s = max(line["time"] for line in lines if line["event"] == "done") - wall - first_s
    assert watched.process.returncode == 0, (project / "repro.log").read_text()
    assert done.total() == len(done) == num
    asked = len(calls.read_text().splitlines()) - asked
    figures = [f"{ideal_s:g}", f"{took_s:.1f}", f"{took_s / ideal_s:.2f}", f"{queued_s:.1f}"]
    figures += [f"{first_s:.1f}", f"{cells_s:.1f}", f"{cells_s / ideal_s:.2f}"]
    figures += [*watched.waiting(since=queued_s), str(asked)]
    return [f"{num} of {SECONDS:g} s, {len(tables)} stage{'s' * (len(tables) > 1)}", *figures]


def without_cells(project: Path) -> str:
    """Run the two stages once more, whose cells are all done: what DVC and the driver take beside them."""
    command = ["dvc", "repro", "--force", "--single-item", *(f"warm_start@{table}" for table in TABLES)]
    times = [timed(lambda: subprocess.run(command, cwd=project, check=True, capture_output=True)) for _ in range(3)]
    return f"The two stages where every cell is done, which no cell can shorten: {sorted(times)[1]:.1f} s.\n\n"


def least(project: Path) -> str:
    """Let the table's stage submit a job a slot and wait, as `PLAIN`'s last does, in a copy of the project."""
    copy, ended = project.parent / "least", project.parent / "least" / "ended"
    shutil.copytree(project, copy)
    ended.mkdir()
    write_job(copy, ended)
    command = f"{SUBMIT_ALL} && {until_ended(ended)}; mkdir -p runs/$1/warm_start/$2"
    (copy / "stages" / "warm_start.py").write_text(
        f"import subprocess, sys\n\nsubprocess.run(['sh', '-c', {command!r}, *sys.argv])\n"
    )
    words = ["dvc", "repro", "--force", "--single-item", f"warm_start@{next(iter(TABLES))}"]
    times = []
    for _ in range(3):
        times.append(timed(lambda: subprocess.run(words, cwd=copy, check=True, capture_output=True)))
        for path in ended.iterdir():
            path.unlink()
    what, spread = f"submits {SLOTS} jobs, each sleeping {FEW // SLOTS} times", f"{min(times):.1f} to {max(times):.1f}"
    return f"A stage of this project that only {what}: {spread} s in three tries.\n\n"


def after_a_kill(project: Path) -> str:
    """Kill `dvc repro` and its stage with -9 while cells run, run it again, and count what was begun twice."""
    fill_tables(project, FEW)
    store = Store(find_store(project))
    submitted, before = len(list(store.submissions.iterdir())), len(store.executions())
    driver = repro(project)
    while sum(line["event"] == "done" for line in store.executions()[before:]) < SLOTS:
        time.sleep(0.1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert repro(project).wait() == 0
    begun = Counter(line["key"] for line in store.executions()[before:] if line["event"] in ("start", "resume"))
    more, twice = len(list(store.submissions.iterdir())) - submitted - 1, sum(count > 1 for count in begun.values())
    return f"Killed with -9 and started again: {more} further submissions, {twice} of {len(begun)} cells begun twice.\n"


def queued(project: Path) -> str:
    """Let each of many cells have a job of its own, and tell when all were queued; the last part, since none is run."""
    write_site(project, pack=1)
    fill_tables(project, MANY)
    store, wall = Store(find_store(project)), time.time()
    driver = repro(project)
    try:
        while not (written := [one.stat().st_mtime for one in store.submissions.glob("*/jobs.json")]) or (
            max(written) < wall
        ):
            assert driver.poll() is None, (project / "repro.log").read_text()
            time.sleep(0.1)
        tasks = subprocess.run(["squeue", "-h", "-r"], capture_output=True, check=True).stdout.count(b"\n")
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    took_s = max(written) - wall
    return f"\n{MANY} cells with `pack: 1`: all queued after {took_s:.1f} s, {tasks} tasks in squeue then.\n"


if __name__ == "__main__":
    main()
