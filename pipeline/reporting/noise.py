"""How much a figure varies from seed to seed, and so which differences say nothing."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import pandas as pd

from pipeline.reporting.paper import data_phrase
from pipeline.reporting.rows import Row, Shown, canonical, data_of, figures_of

DEVIATIONS = 2.0
"""A difference below so many of its standard deviations is called noise: chance alone makes 95 of 100 such."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The seeds' standard deviation in mIoU points, pooled over the cells of the tables `source` with several seeds."""

    sd: float
    num_cells: int
    num_runs: int
    source: str
    measured_on: str

    def of_difference(self, num_a: int, num_b: int) -> float:
        """Return the points that a difference of two means of `num_a` and `num_b` seeds reaches by chance."""
        return DEVIATIONS * self.sd * sqrt(1 / num_a + 1 / num_b)


def pooled_noise(rows: list[Row], shown: Shown) -> Noise | None:
    """Return the noise of these rows, or None where no cell has two finished seeds.

    The pooled variance is the sum of squared deviations from each cell's mean, over the sum of (n - 1). Diverged
    runs are left out.
    """
    records = []
    for row in rows:
        figures = figures_of(row, shown)
        if figures is not None and row["state"] == "done":
            cell = str((row["table"], canonical(row["row"], sorted(row["row"])), row["column"]))
            record = {"cell": cell, "training": row["train_key"], "miou": figures["miou"], "table": row["table"]}
            records.append(record | {"data": data_phrase(data_of(row), row["dataset"])})
    if not records:
        return None
    frame = pd.DataFrame(records)
    frame = frame[frame.groupby("cell")["miou"].transform("count") > 1]
    frame = frame.drop_duplicates("training")  # in two tables it is one run
    if frame.empty:
        return None
    deviations = frame["miou"] - frame.groupby("cell")["miou"].transform("mean")
    num_cells = frame["cell"].nunique()
    return Noise(
        sd=float(sqrt((deviations**2).sum() / (len(frame) - num_cells))),
        num_cells=num_cells,
        num_runs=len(frame),
        source=", ".join(frame["table"].unique()),
        measured_on=" and ".join(frame["data"].unique()),
    )


def noise_for(rows: list[Row], others: list[Row], *, shown: Shown) -> Noise | None:
    """Return the noise of a table: from its own seeds, else from `others` of its data sets, else from all `others`."""
    datasets = {row["dataset"] for row in rows}
    alike = [row for row in others if row["dataset"] in datasets]
    return pooled_noise(rows, shown) or pooled_noise(alike, shown) or pooled_noise(others, shown)
