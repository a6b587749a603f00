"""What a step costs: counted operations of its forwards and backwards, and the memory of the process."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline.models.build import ModelConfig, build_network

RESET_PEAK = "5"
"""What Linux wants written to clear_refs to begin a new peak (proc_pid_clear_refs(5))."""


def count_step(step: Callable[[], dict[str, Tensor]], values: dict[str, Any]) -> tuple[dict[str, Tensor], float]:
    """Do a step; also return its cost in units of one forward and backward of one network on the labelled batch.

    Counted are the multiplications of convolutions and matrix products, which are nearly all. A student on labelled
    and as many unlabelled images costs 2, a teacher that only predicts the unlabelled ones about a third.
    """
    with FlopCounterMode(display=False) as counter:
        losses = step()
    return losses, round(counter.get_total_flops() / unit_flop(values), 3)


def unit_flop(values: dict[str, Any]) -> int:
    """Count the operations of a plain supervised step of this cell: labelled batch, one network, no other head."""
    training = values["training"]
    config = replace(ModelConfig(**values["model"]), weights=None)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_network(config, num_classes=values["data"]["num_classes"])
        output = network(torch.empty(training["labelled_batch"], 3, training["crop"], training["crop"]))
        torch.stack([part.sum() for part in (output.logits, output.auxiliary) if part is not None]).sum().backward()
    return counter.get_total_flops()


def begin_peak(device: str) -> None:
    """Begin to measure the peak of memory anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif (refs := Path("/proc/self/clear_refs")).exists():
        refs.write_text(RESET_PEAK)


def peak_memory_mib(device: str) -> float | None:
    """Return the most memory in MiB since `begin_peak`: the device's, else the process's (None: unknown)."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return round(int(found[1]) / 2**10, 1) if found else None
