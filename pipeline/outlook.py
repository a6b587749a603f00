"""What lies ahead, for people: what `dvc repro` would run and how long it takes, and what a whole scale would cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pipeline import status
from pipeline.cell import chain
from pipeline.forecast import forecast, total
from pipeline.params import all_tables, choose, load_params, resolve_table
from pipeline.past import Past
from pipeline.store import Store


def show_plan(root: Path, store: Store, targets: list[str], *, tflops: float, as_json: bool) -> None:
    """Print the stale stages of a `dvc repro` of these targets, their cells by state, and the time that is ahead."""
    lines = status.plan(root, store, targets)
    if as_json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        states = ", ".join(f"{line[state]} {state}" for state in (*status.STATES, "shared") if line.get(state))
        print(f"{line['stage']:24} {states or '-':40} {'; '.join(line['why'])}")
    seconds, hours = (sum(line.get(name, 0) for line in lines) for name in ("worker_s", "gpu_hours"))
    gpus = f", {hours:,.2g} GPU-hours" if hours else ""
    print(
        f"{len(lines)} stages; cells to compute: about {seconds / 60:.0f} minutes of one worker{gpus} ({status.MEDIAN})"
    )
    unlike = {line["stage"].partition("@")[2] for line in lines if line.get("unknown")}
    if unlike:
        _count_missing(root, store, unlike, tflops=tflops)


def _count_missing(root: Path, store: Store, names: set[str], *, tflops: float) -> None:
    """Print the cost of those of the tables' missing trainings that have no like, counted on tensors without values."""
    scale, tables, past = status.current_scale(root), status.tables_of(root), Past(store)
    missing = {}
    for table in sorted(names):
        cells = [(chain(row)[-2], row) for row in tables[scale, table]]
        unlike = [(cell, row) for cell, row in cells if past.typical_s(cell) is None]
        missing[table] = [(cell.key, row) for cell, row in unlike if store.state(cell.key) == "missing"]
    if any(missing.values()):
        found = total(forecast(missing, root / "data" / scale))
        hours = found.flop / (tflops * 1e12) / 3600
        print(
            f"{found.trainings} trainings whose like never ran here: {found.flop / 1e15:,.3g} PFLOP counted,"
            f" {hours:,.2g} GPU-hours at an assumed {tflops:g} TFLOP/s (--tflops)"
        )


def show_scale(root: Path, scale: str, tables: list[str], *, tflops: float, as_json: bool) -> None:
    """Print what the tables of a scale would cost, all without names."""
    params = load_params(root / "params.yaml")
    params["scale"] = choose(scale, params["scales"], "--scale")
    wanted = tables or [table for table in all_tables(params) if table != "experiment"]
    keyed = {table: [(chain(row)[-2].key, row) for row in resolve_table(params, table)] for table in wanted}
    found = forecast(keyed, root / "data" / scale)
    if as_json:
        print(json.dumps([asdict(line) for line in found], indent=1))
        return
    print(f"{'table':12}{'trainings':>10}{'steps':>12}{'PFLOP':>12}{'GPU-hours':>11}{'peak GiB':>10}")
    for line in [*found, total(found)]:
        hours = line.flop / (tflops * 1e12) / 3600
        counts = f"{line.trainings:>10,}{line.steps:>12,}{line.flop / 1e15:>12,.0f}"
        print(f"{line.table:12}{counts}{hours:>11,.0f}{line.peak_bytes / 2**30:>10.1f}")
    print(f"Assumed: {tflops:g} TFLOP/s sustained on each GPU (--tflops), the whole batch in one process.")
