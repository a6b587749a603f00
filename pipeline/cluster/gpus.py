"""Which GPUs a worker has.

On SLURM the cluster gives each job its own. On one machine a launch deals the GPUs out among the workers that it
submits (`deal`), and each worker puts its share into CUDA_VISIBLE_DEVICES before torch looks (`see_gpus`). A worker
that is to have a GPU and finds none that torch can use fails, and does not compute on the CPU for days.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable
from itertools import takewhile
from typing import Any

from pipeline.cluster.site import divide
from pipeline.records import Site

COMMAND_S = 60.0
NAME = re.compile(r"\d+|(GPU|MIG)-.+")
"""How CUDA_VISIBLE_DEVICES names a GPU, or a part of one."""


def machine_gpus() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES names here, or the numbers of all that `nvidia-smi` lists where it is not set.

    Without torch, which takes seconds to import.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = (name.strip() for name in named.split(","))
        return list(takewhile(NAME.fullmatch, names))  # CUDA too goes no further than what is no GPU
    command: list[str] = ["nvidia-smi", "-L"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", listing, flags=re.MULTILINE)


def deal(
    site: Site,
    parameters: list[dict[str, Any]],
    *,
    sizes: list[int],
    in_use: Callable[[], Counter[str]] = Counter,
) -> list[list[str]]:
    """Return, for each class of resources, the CUDA_VISIBLE_DEVICES of each worker that this machine may have of it.

    A class asks for `parameters` and has so many trainings (`sizes`); it gets a share of the GPUs by that number. Its
    list is empty where it uses no GPU of this machine, as on SLURM: how many workers it has is decided elsewhere then.
    Two classes have one GPU only where all need more than there are. GPUs that fewer workers use already, as
    `in_use()` counts them, are dealt first. Raises ValueError where one worker needs more than there are.
    """
    dealt: list[list[str]] = [[] for _ in parameters]
    if site["executor"] == "slurm" or all(asked.get("gpus_per_node") == 0 for asked in parameters):
        return dealt
    here = machine_gpus()
    if here:
        used = in_use()
        here.sort(key=lambda gpu: used[gpu])
    each = [_of_a_worker(asked, len(here)) for asked in parameters]
    classes = [index for index, num in enumerate(each) if num]
    rooms = divide(len(here), [sizes[index] for index in classes], least=[each[index] for index in classes])
    begin = 0
    for index, room in zip(classes, rooms, strict=True):
        names = [here[(begin + place) % len(here)] for place in range(room)]
        starts = range(0, room - each[index] + 1, each[index])
        dealt[index] = [",".join(names[start : start + each[index]]) for start in starts]
        begin += room
    return dealt


def _of_a_worker(parameters: dict[str, Any], num_here: int) -> int:
    """Return how many of this machine's GPUs a worker has: one for each of its tasks where the site does not say."""
    default = parameters.get("tasks_per_node", 1) if num_here else 0
    num = parameters.get("gpus_per_node", default)
    if type(num) is not int or not 0 <= num <= num_here:
        raise ValueError(
            f"slurm/{os.environ.get('CLUSTER', 'local')}.yaml: gpus_per_node (where it is not named, as many as"
            f" tasks_per_node): {num!r}; allowed: 0, for the CPU, to {num_here}, the GPUs of this machine by"
            " CUDA_VISIBLE_DEVICES or, where that is not set, `nvidia-smi -L`"
        )
    return num


def see_gpus(gpus: str | None, *, needed: bool) -> None:
    """Let this process see these GPUs alone; None: those it sees already.

    Raises RuntimeError where it needs one, and torch cannot use any: on the CPU it would compute until its limit.
    """
    if gpus is not None:  # before torch looks
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    if not needed:
        return
    import torch

    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise RuntimeError(
            f"torch {torch.__version__}, made for CUDA {torch.version.cuda}, can use none of the GPUs that this job was"
            f" given on {socket.gethostname()} (CUDA_VISIBLE_DEVICES: {visible!r}); allowed: a driver of that CUDA or a"
            " newer one, or `gpus_per_node: 0` in slurm/<site>.yaml, which computes on the CPU"
        )


def seen_gpus() -> str:
    """Return in words, for a log, what this process was given: ` with GPU 0,1`, or nothing."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f" with GPU {visible}" if visible else ""
