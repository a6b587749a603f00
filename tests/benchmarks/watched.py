"""A `dvc repro` under observation: memory and CPU time of it, of its stage and of the ingester, four times a second."""

from __future__ import annotations

import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PERIOD_S = 0.25
SETTLED_S = 3.0
"""How long after the last submission the stage is taken to do nothing but wait."""


@dataclass
class Sample:
    """What ran at a moment: seconds since the start, and of each process its role, bytes and CPU-seconds by its id."""

    time_s: float
    roles: dict[int, str]
    rss: dict[int, int]
    cpu_s: dict[int, float]

    def mb(self, *roles: str) -> float:
        """Return the resident memory of all processes of these roles, in MB."""
        return sum(size for pid, size in self.rss.items() if self.roles[pid] in roles) / 1e6


@dataclass
class Watched:
    """A started `dvc` and what was seen of it."""

    process: subprocess.Popen[bytes]
    project: Path
    samples: list[Sample] = field(default_factory=list)
    follower: psutil.Process | None = None

    def until_end(self) -> float:
        """Watch it until it ends; return how many seconds that took."""
        began, root = time.monotonic(), psutil.Process(self.process.pid)
        while self.process.poll() is None:
            self.samples.append(look(root, self._ingester(), time_s=time.monotonic() - began))
            time.sleep(PERIOD_S)
        return time.monotonic() - began

    def _ingester(self) -> psutil.Process | None:
        """Return the project's ingester, whoever started it: it may be older than this `dvc`."""
        if self.follower is None or not self.follower.is_running():
            self.follower = next((process for process in psutil.process_iter() if self._follows(process)), None)
        return self.follower

    def _follows(self, process: psutil.Process) -> bool:
        try:
            return process.cmdline()[-2:] == ["track", "--follow"] and Path(process.cwd()) == self.project
        except psutil.Error:
            return False

    def waiting(self, *, since: float) -> list[str]:
        """Return medians while the first stage only waits: MB of it, with dvc, of the ingester; the most of stage and
        dvc at any time; the share of a core in percent."""
        calm = [sample for sample in self.samples if sample.time_s > since + SETTLED_S]
        stage = {pid for pid, role in calm[0].roles.items() if role in ("dvc", "stage")}
        calm = [sample for sample in calm if stage == {p for p, r in sample.roles.items() if r in ("dvc", "stage")}]
        busy_s = sum(calm[-1].cpu_s[pid] - calm[0].cpu_s[pid] for pid in stage)
        roles = (("stage",), ("stage", "dvc"), ("ingester",))
        shown = [f"{statistics.median(sample.mb(*names) for sample in calm):.0f}" for names in roles]
        most = max(sample.mb("stage", "dvc") for sample in self.samples)
        return [*shown, f"{most:.0f}", f"{100 * busy_s / (calm[-1].time_s - calm[0].time_s):.1f}"]


def look(root: psutil.Process, ingester: psutil.Process | None, *, time_s: float) -> Sample:
    """Take a sample of a process, of all below it, of the ingester, and of what that starts."""
    sample = Sample(time_s, {}, {}, {})
    try:
        family = {process.pid: process for process in (root, *root.children(recursive=True))}
    except psutil.NoSuchProcess:
        return sample
    if ingester is not None:
        family[ingester.pid] = ingester
    for process in family.values():
        try:
            with process.oneshot():
                times = process.cpu_times()
                # Its first act is a process of its own that makes MLflow's database.
                tracks = process == ingester or sample.roles.get(process.ppid()) == "ingester"
                sample.rss[process.pid] = process.memory_info().rss
                sample.cpu_s[process.pid] = times.user + times.system
            sample.roles[process.pid] = "dvc" if process == root else "ingester" if tracks else "stage"
        except psutil.Error:
            for kept in (sample.rss, sample.cpu_s, sample.roles):
                kept.pop(process.pid, None)
    return sample
