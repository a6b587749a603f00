"""Tables from what is there so far: measured rows, and holes that say what their cells wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pipeline.cell import ROW_ERRORS, Cell, chain, folder_is_here, read_rows
from pipeline.progress import WORDS
from pipeline.reporting.grid import build_grid
from pipeline.reporting.paper import read_published
from pipeline.reporting.rows import MISSING, Row, has_equal_steps, read_noise_rows, read_shown, with_holes
from pipeline.reporting.rows import read_rows as measured_rows
from pipeline.reporting.tables import to_markdown
from pipeline.results import measured_row
from pipeline.store import Store


def tables_so_far(root: Path, store: Store, *, scale: str, tables: Sequence[str]) -> list[str]:
    """Return tables of a scale in Markdown; nothing is computed or written. `tables`: names, or none for all.

    Raises ValueError for a table whose cells were never written.
    """
    folder = root / "reports" / scale
    known = sorted(path.stem for path in (folder / "cells").glob("*.json"))
    wanted = list(tables) or known
    if not known:
        raise ValueError(
            f"{folder / 'cells'}: no tables of scale {scale} yet; `dvc repro cells` writes those of a scale"
        )
    if unknown := [table for table in wanted if table not in known]:
        raise ValueError(f"{unknown[0]}: no such table at scale {scale}; allowed: {', '.join(known)}")
    shown, texts = read_shown(folder), list[str]()
    noise_rows = read_noise_rows(folder)
    for table in wanted:
        rows = rows_so_far(store, folder / "cells" / f"{table}.json")
        if any(row["state"] != MISSING for row in rows):
            published = read_published(table, root / "reports" / "published")
            grid = build_grid(
                table,
                rows,
                published=published,
                noise_rows=noise_rows,
                shown=shown,
                has_equal_steps=has_equal_steps(folder),
            )
            texts.append(to_markdown(grid))
        else:
            reasons = Counter(row["reason"] for row in rows)
            why = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
            texts.append(f"{table}: no row is measured yet: {why}\n")
    return texts


def rows_so_far(store: Store, cells: Path) -> list[Row]:
    """Return the measured row of each cell, from the store or else as git holds it, and a hole for every other."""
    metrics = cells.parents[1] / "metrics" / cells.name
    recorded = measured_rows(metrics) if metrics.exists() else []
    return [_row_so_far(store, row, recorded=recorded) for row in read_rows(cells)]


def _row_so_far(store: Store, row: Row, *, recorded: Sequence[Row]) -> Row:
    if not folder_is_here(row):  # then it has no key: what was recorded under its values is its result
        return with_holes([row], recorded, reason=partial(why_missing, store))[0]
    try:
        cells = chain(row)
    except ROW_ERRORS as error:
        reason = f"of another version ({type(error).__name__}: {error}); `dvc repro cells` writes it again"
        return row | {"state": MISSING, "reason": reason}
    if all(store.is_done(cell.key) for cell in cells[-2:]):
        return measured_row(store, row)
    for found in recorded:  # of a fresh clone the store has no trainings
        if found.get("key") == cells[-1].key:
            return found | row
    return row | {"state": MISSING, "reason": why_not_measured(store, cells)}


def key_today(row: Row) -> str | None:
    """Return the key of a row's evaluation under today's code; None where its folder of images is not here."""
    return chain(row)[-1].key if folder_is_here(row) else None


def why_missing(store: Store, row: Row) -> str:
    """Say why a row has no figure yet, as far as the store knows."""
    return why_not_measured(store, chain(row)) if folder_is_here(row) else f"{row['data']['path']} is not here"


def why_not_measured(store: Store, cells: Sequence[Cell]) -> str:
    """Say which cell of a row failed and why, or where the first one stands that it waits for."""
    *before, evaluate = cells
    needed = ([] if store.is_done(before[-1].key) else before) + [evaluate]
    waiting = [cell for cell in needed if not store.is_done(cell.key)]
    for cell in waiting:
        if failure := store.failure(cell.key):
            return f"{cell.kind} failed: {failure['reason']}"
    if not waiting:
        return "done, but the table has not been rebuilt since"
    states = [(cell.kind, store.state(cell.key)) for cell in waiting]
    kind, state = next((each for each in states if each[1] != "missing"), states[0])
    return f"{kind} {WORDS.get(state, state)}{' until `retry`' if state == 'cancelled' else ''}"
