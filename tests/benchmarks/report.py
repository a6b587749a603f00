"""What the benchmarks share: interleaved rounds, a table with a baseline beside each figure, and reports/benchmarks.md.

Every module rewrites its own section of the page, which lies between two marks, and leaves the others as they are.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

Name = TypeVar("Name", bound=Hashable)
PAGE = Path(__file__).parents[2] / "reports" / "benchmarks.md"
HEAD = """# Benchmarks

`make bench` measures everything here anew but `before`, which needs an older commit; each section also has its own
command. Processor times of a step and its parts (`floor`, `step`, `losses`, `options`, `evaluation`, `loading`,
`laptop`, and in `workers` the steps by precision) are medians over rounds in which ours and the baseline take turns in
one process, of one thread, so what else the machine does meets both alike; `before` takes turns with a process for each
training. What is counted (`step`, `memory`, `growth`) comes out the same each time. All else is single shots: the rest
of `workers`, and the wall times of `cells`, `store`, `repro`, `pipeline` and of `growth`'s cells, which want a quiet
machine. *of baseline* is ours over the baseline; an aim is for that share.
"""


@dataclass(frozen=True)
class Figure:
    """One measured figure. `floor`: what was counted, as bytes at a copy's speed; `aim`: of ours over the baseline."""

    name: str
    ours: float
    baseline: float | None = None
    floor: float | None = None
    aim: str = ""
    unit: str = ""

    @property
    def share(self) -> float | None:
        """Ours over the baseline."""
        return None if not self.baseline else self.ours / self.baseline

    @property
    def verdict(self) -> str:
        """The aim, and whether it is met."""
        if not self.aim or self.share is None:
            return self.aim
        sign, limit = self.aim.split()
        met = self.share <= float(limit) if sign == "<=" else self.share >= float(limit)
        return f"{self.aim}: {'yes' if met else '**no**'}"

    def cells(self) -> list[str]:
        """The figure as a row of a table."""
        unit = f" {self.unit}" if self.unit else ""
        values = [text(value, unit) for value in (self.ours, self.baseline, self.floor)]
        return [self.name, *values, "" if self.share is None else f"{self.share:.3g}", self.verdict]


def text(value: float | None, unit: str = "") -> str:
    """Return a number with three digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if abs(value) >= 100 else f"{value:.3g}{unit}"


def figures(rows: Sequence[Figure]) -> str:
    """Return figures as a Markdown table."""
    return table(["", "ours", "baseline", "floor", "of baseline", "aim"], [row.cells() for row in rows])


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def write(section: str, title: str, body: str, *, page: Path = PAGE) -> None:
    """Print a section and put it into the page, in the place of its last version."""
    command = f"`python -m tests.benchmarks.{section}`"
    content = f"## {title}\n\n{command}, {time.strftime('%F')}; {machine()}\n\n{body.strip()}\n"
    print(content)
    marked = f"<!-- {section} -->\n{content}<!-- end of {section} -->\n"
    sections = page.read_text(encoding="utf-8").partition("<!-- ")[1:] if page.exists() else ()
    old = "\n".join([HEAD, "".join(sections)])
    found = re.compile(f"<!-- {section} -->\n.*?<!-- end of {section} -->\n", re.DOTALL)
    new = found.sub(lambda _: marked, old) if found.search(old) else f"{old.rstrip()}\n\n{marked}"
    temporary = page.with_suffix(".tmp")
    temporary.write_text(new, encoding="utf-8")
    temporary.replace(page)


def machine() -> str:
    """Return what the figures were measured on."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    flags = {"avx512_bf16", "amx_bf16"} & set(info.read_text().split() if info.exists() else ())
    name = " ".join([found[1].strip() if found else platform.machine(), *sorted(flags)])
    memory = psutil.virtual_memory().total / 2**30
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return f"{name}, {psutil.cpu_count()} cores, {memory:.0f} GiB, {python}, torch {torch.__version__}"


def rounds(parts: Mapping[Name, Callable[[], Any]], *, num: int, warm_up: int = 1) -> dict[Name, float]:
    """Return the median processor seconds of each part over rounds in which all take turns."""
    seconds: dict[Name, list[float]] = {name: [] for name in parts}
    for turn in range(warm_up + num):
        for name, part in parts.items():
            began = time.process_time()
            part()
            if turn >= warm_up:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return a and b of a + b x with the least sum of squared relative errors, and the largest such error."""
    (fixed, each), *_ = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones_like(y), rcond=None)
    return float(fixed), float(each), float(np.abs((fixed + each * x) / y - 1).max())
