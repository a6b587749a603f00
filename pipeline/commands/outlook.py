"""What lies ahead, for people: what `dvc repro` would run and how long it takes, and what a whole scale would cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.cell import KINDS, Cell, cells_of, chain, digest
from pipeline.check import check_blocks
from pipeline.cluster.site import load_site, num_gpus, resources
from pipeline.commands.forecast import RANKS, Forecast, forecast, total
from pipeline.commands.measuring import image_size
from pipeline.commands.past import Past
from pipeline.listings import STATES, current_scale, stage_of, tables_of
from pipeline.params import EXPERIMENT, SECTIONS, all_tables, choose, load_params, resolve_table
from pipeline.progress import WORDS
from pipeline.records import Site
from pipeline.reporting.provenance import duration
from pipeline.reporting.rows import data_of
from pipeline.store import Store

ASSUMED = (
    "Counted on tensors without values, at the true sizes; nothing of it ran on a GPU. Assumed:",
    "",
    "- {tflops:g} TFLOP/s sustained on each GPU (`--tflops`), waiting for data and for other ranks included.",
    "- A multiplication and an addition are two operations; those of convolutions and matrix products alone count.",
    "- A training is counted in the first table that has it, its warm start with each training: an upper bound.",
    "- Measuring: windows x images x measured networks, at each evaluation in training and twice after it, and 16",
    "  images an epoch for the quality of pseudo-labels. Images are {sizes} pixels.",
    "- Memory: the largest step's tensors alive at once. Of several GPUs to one cell each holds its share of what the",
    "  networks keep for the backward pass, and everything else whole, since losses see the whole batch. Workspaces",
    "  of libraries and the allocator's waste come on top: ask for a fifth more. GiB are those of the code that a CPU",
    "  runs: on CUDA some operations need more, as resizing by matrix products, or percentiles by a full sort.",
    "  Nothing of it was measured on a GPU.",
    "- Operations outside the networks run on every rank alike; they are not counted again.",
)

MEDIAN = "median of past cells like them, here or else where what git holds was measured"
NONE_HAS_RUN = "none like them has run"
"""Where the time of some of a stage's cells is not known from past ones."""


def show_plan(root: Path, store: Store, *, targets: list[str], tflops: float, as_json: bool) -> None:
    """Print the stale stages of a `dvc repro` of these targets, their cells by state, and the time that is ahead."""
    past = Past(store, root)
    lines = stages_ahead(root, store, targets=targets, past=past)
    if as_json:
        print(json.dumps(lines, indent=1))
        return
    for line in lines:
        states = ", ".join(
            f"{line[state]} {WORDS.get(state, state)}" for state in (*STATES, "shared") if line.get(state)
        )
        print(f"{line['stage']:24} {states or '-':40} {'; '.join(line['why'])}")
    seconds, hours = (sum(line.get(name, 0) for line in lines) for name in ("worker_s", "gpu_hours"))
    gpus = f", {hours:,.2g} GPU-hours" if hours else ""
    unlike = {line["stage"].partition("@")[2] for line in lines if line.get("unknown")}
    ahead = f"about {duration(seconds)} of one worker{gpus} ({MEDIAN})"
    known = seconds > 0 or not unlike
    print(f"{len(lines)} stages; cells that nobody has submitted: {ahead if known else NONE_HAS_RUN}")
    if unlike:
        _count_missing(root, store, names=unlike, past=past, tflops=tflops)


def stages_ahead(root: Path, store: Store, *, targets: list[str], past: Past) -> list[dict[str, Any]]:
    """Return, for every stale stage of a `dvc repro` of these targets, why it is stale and where its cells stand.

    What its missing cells take that no stage before it has too: `worker_s` of one worker and `gpu_hours` at this site,
    by past cells like them; `unknown` of them have no like.
    """
    tables, scale, site = tables_of(root), current_scale(root), load_site(root)
    stages = [_stage_of(root, target) for target in targets]
    command = [sys.executable, "-m", "pipeline.plan", str(root), "--targets", *stages]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ValueError(f"DVC cannot plan {' '.join(stages) or 'its stages'}: {_fault_of_dvc(result.stderr)}")
    counted: set[str] = set()
    lines: list[dict[str, Any]] = []
    for stage, reasons in json.loads(result.stdout).items():
        kind, _, table = stage.split(":")[-1].partition("@")
        line: dict[str, Any] = {"stage": stage, "why": reasons[:3]}
        if kind in KINDS and (scale, table) in tables:
            chains = [cells_of(row) for row in tables[scale, table]]
            cells = {cell.key: cell for cells in chains for cell in cells if cell.kind == kind}
            states = {key: store.state(key) for key in cells}
            numbers = Counter(states.values())
            line |= {state: numbers[state] for state in STATES if numbers[state]}
            line["shared"] = len(cells.keys() & counted)
            new = [cell for key, cell in cells.items() if states[key] == "missing" and key not in counted]
            line |= _ahead(past, site, cells=new)
            counted |= cells.keys()
        lines.append(line)
    return lines


def _stage_of(root: Path, target: str) -> str:
    """Return DVC's name of the stage that makes a table; any other target is taken for the name of a stage.

    Raises ValueError for a table of another scale, and for one that no dvc.yaml has.
    """
    params = load_params(root / "params.yaml")
    if target not in (*params["tables"], EXPERIMENT):
        return target
    if target not in all_tables(params):
        raise ValueError(f"{target} is no table of scale {params['scale']}, which params.yaml chooses")
    if stage := stage_of(root, target, kind="tables"):
        return stage
    raise ValueError(f"{target} is in params.yaml, but in no dvc.yaml: add it there under `items`")


def _fault_of_dvc(stderr: str) -> str:
    """Return why DVC's plan failed, without the name of the exception's class."""
    fault = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    name, _, told = fault.partition(": ")
    if name.endswith("SCMError"):
        return "this folder is no git repository; run `git init`"
    known = "; a target is a table or a stage of `dvc.yaml`" if name.endswith("StageNotFound") else ""
    return (told if re.fullmatch(r"[\w.]+", name) and told else fault) + known


def _ahead(past: Past, site: Site, *, cells: list[Cell]) -> dict[str, Any]:
    """Return what these cells will take, and by what that is known."""
    known = [(cell, seconds) for cell in cells if (seconds := past.typical_s(cell)) is not None]
    gpu_s = sum(seconds * num_gpus(resources(site, cell)) for cell, seconds in known)
    facts = {"worker_s": round(sum(seconds for _, seconds in known)), "unknown": len(cells) - len(known)}
    source = NONE_HAS_RUN if facts["unknown"] else MEDIAN
    return facts | {"gpu_hours": gpu_s / 3600, "source": source}


def _count_missing(root: Path, store: Store, *, names: set[str], past: Past, tflops: float) -> None:
    """Print the cost of those of the tables' missing trainings that have no like, counted on tensors without values."""
    scale, tables = current_scale(root), tables_of(root)
    missing = {}
    for table in sorted(names):
        cells = [(chain(row)[-2], row) for row in tables[scale, table]]
        unlike = [(cell, row) for cell, row in cells if past.typical_s(cell) is None]
        missing[table] = [(cell.key, row) for cell, row in unlike if store.state(cell.key) == "missing"]
    if any(missing.values()):
        found = total(forecast(missing, root / "data" / scale))
        hours = (found.flop + found.evaluation_flop) / (tflops * 1e12) / 3600
        print(
            f"{found.trainings} trainings whose like never ran here:"
            f" {(found.flop + found.evaluation_flop) / 1e15:,.3g} PFLOP counted,"
            f" {hours:,.2g} GPU-hours at an assumed {tflops:g} TFLOP/s (--tflops)"
        )


def show_scale(root: Path, scale: str, *, tables: list[str], tflops: float, out: Path | None, as_json: bool) -> None:
    """Print what the tables of a scale would cost, all without names; with `out`, write it there as Markdown."""
    params = load_params(root / "params.yaml")
    check_blocks(params)
    params["scale"] = choose(scale, params["scales"], where="--scale")
    wanted = tables or [table for table in all_tables(params) if table != "experiment"]
    rows = {table: resolve_table(params, table) for table in wanted}
    found = forecast({table: [(_training(row), row) for row in rows[table]] for table in wanted}, root / "data" / scale)
    if as_json:
        print(json.dumps([asdict(line) for line in found], indent=1))
        return
    sizes = _sizes((row for table in wanted for row in rows[table]), root / "data" / scale)
    text = plan_markdown(scale, found, tflops=tflops, sizes=sizes)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    print(text if out is None else f"{out}: {len(found)} tables")


def plan_markdown(scale: str, found: list[Forecast], *, tflops: float, sizes: str) -> str:
    """Return the cost of a scale's tables as Markdown, with what was assumed, the `sizes` of images among it."""
    ranks = list(RANKS)
    names = ["table", "trainings", "steps", "training PFLOP", "measuring PFLOP", "GPU-hours"]
    head = [*names, *(f"GiB of each of {num} GPUs" if num > 1 else "GiB of one GPU" for num in ranks)]
    lines = [f"# What scale `{scale}` will cost, counted", "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for line in [*found, total(found)]:
        hours = (line.flop + line.evaluation_flop) / (tflops * 1e12) / 3600
        work = [_short(amount) for amount in (line.flop / 1e15, line.evaluation_flop / 1e15, hours)]
        memory = [_short(line.rank_bytes[num] / 2**30, decimals=1) for num in ranks]
        lines.append(_row([line.table, f"{line.trainings:,}", f"{line.steps:,}", *work, *memory]))
    return "\n".join([*lines, "", *ASSUMED]).format(tflops=tflops, sizes=sizes) + "\n"


def _training(row: dict[str, Any]) -> str:
    """Return what tells trainings apart before their data are there, when they have no keys yet."""
    return digest([row[name] for name in ("dataset", "partition", "seed", "method", *SECTIONS)])


def _sizes(rows: Iterable[dict[str, Any]], data_root: Path) -> str:
    sizes = {data_of(row): image_size(row, data_root) for row in rows}
    return ", ".join(f"{name} {height}x{width}" for name, (height, width) in sizes.items())


def _short(amount: float, *, decimals: int = 0) -> str:
    return f"{amount:,.{decimals}f}" if amount >= 1 else f"{amount:.2g}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
