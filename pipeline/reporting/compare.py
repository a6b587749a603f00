"""Two sets of rows side by side: the same cells at two commits, or at two scales."""

from __future__ import annotations

from math import sqrt
from typing import Any

import pandas as pd

from pipeline.reporting.grid import DECIMALS
from pipeline.reporting.noise import deviation_of
from pipeline.reporting.rows import Row, Shown, canonical, data_of, differing_settings, figures_of
from pipeline.reporting.sides import Side
from pipeline.reporting.tables import pipe_table
from pipeline.reporting.wording import difference, number

DEVIATIONS = 2.0
"""A difference below so many of its standard deviations is called noise: chance alone makes 95 of 100 such."""


def compare(a: Side, b: Side) -> pd.DataFrame:
    """Return one record for each place of a table that either side has, seeds averaged, each as its side shows it.

    Columns: `table`, `row`, `column`; `a`, `b` (mIoU in percent), `n_a`, `n_b`; `difference` (b - a), empty where the
    sides were measured on different data; `is_noise` (below what seeds differ by, None where that is unknown); and
    `changed`, the settings that differ, which figure is shown among them. Each side's noise is that of its own seeds,
    or of the other's where it has none. Equal seeds are not taken for pairs as within a table: what a seed draws may
    have changed between two commits or scales, lists and initial network too, and then nothing cancels.
    """
    noises = _standard_deviations(a, b)
    places_a, places_b = _places(a.rows), _places(b.rows)
    records = []
    for place in dict.fromkeys([*places_a, *places_b]):
        side_a, side_b = places_a.get(place, []), places_b.get(place, [])
        row = (side_a or side_b)[0]
        record = {"table": row["table"], "row": ", ".join(map(str, row["row"].values())), "column": row["column"]}
        records.append(record | _compared((side_a, side_b), (a.shown, b.shown), noises=noises))
    columns = ["table", "row", "column", "a", "b", "n_a", "n_b", "difference", "is_noise", "changed"]
    return pd.DataFrame(records, columns=columns)


def comparison_markdown(frame: pd.DataFrame, *, name_a: str, name_b: str) -> str:
    """Return what `compare` found as a Markdown table headed by the names of both sides."""
    heads = ["table", "row", "column", name_a, name_b, "difference", "changed"]
    body = []
    for record in frame.to_dict("records"):
        points = "" if pd.isna(record["difference"]) else difference(record["difference"])
        mark = " ≈" if record["is_noise"] is True else ""
        figures = [number(None if pd.isna(record[side]) else record[side]) for side in ("a", "b")]
        body.append([record["table"], record["row"], record["column"], *figures, points + mark, record["changed"]])
    return pipe_table(heads, [":--", ":--", ":--", "--:", "--:", "--:", ":--"], body=body)


def _places(rows: list[Row]) -> dict[str, list[Row]]:
    places: dict[str, list[Row]] = {}
    for row in rows:
        labels = canonical(row["row"], sorted(row["row"]))
        column = row["column"].partition(" (")[0]  # of a subset of the data there is no count: `1/8`, not `1/8 (1323)`
        places.setdefault(str((row["table"], labels, column)), []).append(row)
    return places


def _standard_deviations(a: Side, b: Side) -> tuple[float, float] | None:
    """Return what the seeds of either side vary by, in points; None where no side has several."""
    found = [deviation_of(side.rows, side.shown) or deviation_of(side.noise_rows, side.shown) for side in (a, b)]
    known = [deviation for deviation in found if deviation is not None]
    if not known:
        return None
    first, second = (known[0] if deviation is None else deviation for deviation in found)
    return first, second


def _compared(
    sides: tuple[list[Row], list[Row]], shown: tuple[Shown, Shown], *, noises: tuple[float, float] | None
) -> dict[str, Any]:
    side_a, side_b = sides
    a, num_a = _mean(side_a, shown[0])
    b, num_b = _mean(side_b, shown[1])
    is_same_data = {_data(row) for row in side_a} == {_data(row) for row in side_b}
    points = round(b - a, DECIMALS) if is_same_data and a is not None and b is not None else None
    is_noise = None
    if points is not None and noises is not None:
        is_noise = abs(points) < DEVIATIONS * sqrt(noises[0] ** 2 / num_a + noises[1] ** 2 / num_b)
    changed = differing_settings(side_a[0], side_b[0]) if side_a and side_b else []
    changed += [f"shown: {shown[0]} → {shown[1]}"] if side_a and side_b and shown[0] != shown[1] else []
    return {
        "a": a,
        "b": b,
        "n_a": num_a,
        "n_b": num_b,
        "difference": points,
        "is_noise": is_noise,
        "changed": ", ".join(changed),
    }


def _data(row: Row) -> tuple[Any, ...]:
    """Return what tells data apart: its name, and of generated data how it was drawn and how much of it."""
    return data_of(row), *(row["data"].get(name) for name in ("seed", "num_fine", "num_coarse", "num_val"))


def _mean(rows: list[Row], shown: Shown) -> tuple[float | None, int]:
    figures = [figures["miou"] for figures in (figures_of(row, shown) for row in rows) if figures is not None]
    return (round(sum(figures) / len(figures), DECIMALS), len(figures)) if figures else (None, 0)
