"""How much of a difference between two rows chance can make, and so which differences say nothing.

The rows of a table share their seeds: one seed means the same lists, the same initial network and the same order of
images for all of them. A lucky seed lifts all rows, so what it lifts them by is no noise of a difference. What is
left after the mean of each row and that of each seed are taken away is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from scipy.special import stdtrit

from pipeline.reporting.paper import data_phrase
from pipeline.reporting.rows import Row, Shown, canonical, data_of, figures_of

CONFIDENCE = 0.95
"""Of differences that chance alone makes, this share is called noise."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The standard deviation of one run in mIoU points, its row's and its seed's share taken away; how well known."""

    sd: float
    freedom: int


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What chance does to the rows of a table, measured in the table `source` that has several seeds.

    `usual` is of rows that train as many steps as any in their column, `shorter` of those that train fewer: they vary
    more. None: no such row has several seeds. `columns` and `datasets` say where this was measured.
    """

    usual: Spread
    shorter: Spread | None
    source: str
    measured_on: str
    columns: tuple[str, ...]
    datasets: tuple[str, ...]

    def of_difference(self, num_seeds: int, *, num_shorter: int = 0) -> float | None:
        """Return the points that two rows' means over the same `num_seeds` seeds differ by through chance.

        `num_shorter` (0, 1 or 2) of the two train fewer steps than others in their column. None where that was not
        measured. The quantile is Student's, of the spread known less well.
        """
        spreads = [self.shorter] * num_shorter + [self.usual] * (2 - num_shorter)
        known = [spread for spread in spreads if spread is not None]
        if len(known) < 2 or num_seeds == 0:
            return None
        quantile = float(stdtrit(min(spread.freedom for spread in known), (1 + CONFIDENCE) / 2))
        return quantile * sqrt(sum(spread.sd**2 for spread in known) / num_seeds)


def noise_of(rows: Sequence[Row], shown: Shown) -> Noise | None:
    """Return the noise of these rows, or None where no two rows of a column have the same two seeds or more.

    A block is the R rows of a column that have the same S seeds. Of rows with as many steps as any in the column the
    spread is that of the residuals of rows × seeds, with (R - 1)(S - 1) degrees of freedom; of a row with fewer it is
    that of its deviations from its own mean, those of the block's other rows taken away, with S - 1. Both are pooled
    over the blocks. Diverged runs are left out, and a run that stands in two tables counts once.
    """
    lines = _with_several_seeds(rows, shown)
    most = _most_steps(rows)
    usual: dict[tuple[Any, ...], list[list[float]]] = {}
    shorter: list[tuple[tuple[Any, ...], list[float]]] = []
    for line in lines:
        column = line[0]["table"], line[0]["column"]
        block, mious = (*column, *(row["seed"] for row in line)), [_miou(row, shown) for row in line]
        if num_steps(line) < most[column]:
            shorter.append((block, mious))
        else:
            usual.setdefault(block, []).append(mious)
    spread = _spread([_residuals(np.array(figures)) for figures in usual.values() if len(figures) > 1])
    if spread is None:
        return None
    means = {block: np.mean(figures, axis=0) for block, figures in usual.items()}
    return Noise(
        usual=spread,
        shorter=_spread([_residuals(np.array(each) - means[block]) for block, each in shorter if block in means]),
        source=", ".join(dict.fromkeys(line[0]["table"] for line in lines)),
        measured_on=" and ".join(dict.fromkeys(data_phrase(data_of(line[0]), line[0]["dataset"]) for line in lines)),
        columns=tuple(dict.fromkeys(line[0]["column"] for line in lines)),
        datasets=tuple(dict.fromkeys(line[0]["dataset"] for line in lines)),
    )


def noise_for(rows: Sequence[Row], others: Sequence[Row], *, shown: Shown) -> Noise | None:
    """Return the noise of a table: from its own seeds or `others` of its data sets, whichever tell more, else from all.

    A table whose rows are few, and one the moving average of another, says little of what chance does to two trainings.
    """
    datasets = {row["dataset"] for row in rows}
    alike = [row for row in others if row["dataset"] in datasets]
    known = [noise for noise in (noise_of(rows, shown), noise_of(alike, shown)) if noise is not None]
    return max(known, key=lambda noise: noise.usual.freedom, default=noise_of(others, shown))


def deviation_of(rows: Sequence[Row], shown: Shown) -> float | None:
    """Return the standard deviation of single runs in points, what the seeds share included; None without seeds.

    It is pooled over rows: the sum of squared deviations from each row's mean, over the sum of (seeds - 1).
    """
    found = [np.array([_miou(row, shown) for row in line]) for line in _with_several_seeds(rows, shown)]
    spread = _spread([(mious - mious.mean(), len(mious) - 1) for mious in found])
    return None if spread is None else spread.sd


def num_steps(rows: Iterable[Row]) -> int:
    """Return the most steps that any of these rows trained, 0 where none recorded it."""
    return max((row.get("steps") or 0 for row in rows), default=0)


def _with_several_seeds(rows: Sequence[Row], shown: Shown) -> list[list[Row]]:
    """Return the finished runs of each row and column that has two or more, by seed, each run once."""
    places: dict[str, list[Row]] = {}
    for row in rows:
        if row["state"] == "done" and figures_of(row, shown) is not None:
            place = str((row["table"], canonical(row["row"], sorted(row["row"])), row["column"]))
            places.setdefault(place, []).append(row)
    lines = [sorted(line, key=lambda row: row["seed"]) for line in places.values() if len(line) > 1]
    return list({tuple(row["train_key"] for row in line): line for line in reversed(lines)}.values())[::-1]


def _most_steps(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    columns: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        columns.setdefault((row["table"], row["column"]), []).append(row)
    return {column: num_steps(found) for column, found in columns.items()}


def _miou(row: Row, shown: Shown) -> float:
    figures = figures_of(row, shown)
    assert figures is not None
    return figures["miou"]


def _residuals(mious: np.ndarray) -> tuple[np.ndarray, int]:
    """Return what the means of rows and seeds leave of (rows, seeds), or of (seeds,) what its mean leaves."""
    left = mious - mious.mean(axis=-1, keepdims=True)
    if mious.ndim == 1:
        return left, len(mious) - 1
    return left - left.mean(axis=0), (mious.shape[0] - 1) * (mious.shape[1] - 1)


def _spread(parts: Sequence[tuple[np.ndarray, int]]) -> Spread | None:
    freedom = sum(each for _, each in parts)
    return (
        Spread(sd=sqrt(sum(float((left**2).sum()) for left, _ in parts) / freedom), freedom=freedom) if parts else None
    )
