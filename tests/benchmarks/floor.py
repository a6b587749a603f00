"""What this machine can do at best: `python -m tests.benchmarks.floor`.

The rate of a matrix product of 2048 x 2048, in float32 and bfloat16, and the bandwidth of a copy that no cache holds;
of one thread. Counted operations over the one and counted bytes over the other are the least a step can take.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tests.benchmarks.report import rounds, table, write

SIDE, COPIED_BYTES = 2048, 2**29


@dataclass(frozen=True)
class Floor:
    """Operations a second by precision, and bytes read and written a second."""

    flop_s: dict[str, float]
    bytes_s: float

    def seconds(self, flop: float, moved_bytes: float, precision: str = "float32") -> float:
        """Return the least time: the longer of computing and moving."""
        return max(flop / self.flop_s[precision], moved_bytes / self.bytes_s)


def measure(num: int = 5) -> Floor:
    """Measure all three in turns."""
    torch.set_num_threads(1)
    matrix = {name: torch.randn(SIDE, SIDE).to(getattr(torch, name)) for name in ("float32", "bfloat16")}
    source = torch.ones(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    parts = {name: lambda one=one: one @ one for name, one in matrix.items()}
    taken_s = rounds(parts | {"copy": lambda: target.copy_(source)}, num=num)
    rates = {name: 2 * SIDE**3 / taken_s[name] for name in matrix}
    return Floor(rates, 2 * COPIED_BYTES / taken_s["copy"])


def main() -> None:
    """Measure and write the section."""
    floor = measure(num=9)
    rows = [[f"matrix product, {name}", f"{rate / 1e9:.0f} GFLOP/s"] for name, rate in floor.flop_s.items()]
    rows.append(["copy, read and written", f"{floor.bytes_s / 1e9:.1f} GB/s"])
    write("floor", "What the machine can do", table(["one thread", "at best"], rows))


if __name__ == "__main__":
    main()
