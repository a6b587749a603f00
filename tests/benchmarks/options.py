"""What each way to save changes in speed, memory and result: `python -m tests.benchmarks.options`.

One U2PL step of ResNet-50 on 2 + 2 images of 129 x 129, one thread, halfway through a training, with every loss on.
Each option is measured in turns with the default (float32, channels-last, everything at once); memory is that of all
tensors alive at once. Losses and gradients of the first step from the same seed are compared with the default's.
`compile` needs a compiler of C++; the first steps, which compile, are not in the figures. Then what saves memory at the
paper's size, counted.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.commands.forecast import LiveBytes, step_cost, synthetic_run
from pipeline.training.engine import Run, train_step
from pipeline.training.memory import MemoryBank
from tests.benchmarks.report import rounds, table, write
from tests.benchmarks.step import paper_row

ROUNDS = 3
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "contiguous": {"channels_last": False},
    "bfloat16": {"precision": "bfloat16"},
    "recompute": {"recompute": True},
    "accumulate 2": {"accumulate": 2},
    "compile": {"compile": True},
}
TOLERANCES = {
    "default": (0.0, 0.0),
    "contiguous": (1e-4, 1e-2),
    "bfloat16": (1e-2, 0.5),
    "recompute": (0.0, 0.0),
    "compile": (1e-4, 1e-2),
}
"""Of loss and gradient; what accumulates computes something else and has none."""

ANCHOR_THRESHOLD = 0.03
"""Networks that have learnt nothing are sure of nothing: at the default there would be no anchor."""

PAPER: dict[str, dict[str, Any]] = {
    "default": {},
    "bfloat16": {"precision": "bfloat16"},
    "recompute": {"recompute": True},
    "accumulate 2": {"accumulate": 2},
    "accumulate 4": {"accumulate": 4},
    "recompute, accumulate 4": {"recompute": True, "accumulate": 4},
}
WORDS = f"""\
U2PL, ResNet-50, 2 + 2 images of 129 x 129, every loss on (δ_p is {ANCHOR_THRESHOLD}, so that networks that have learnt
nothing have anchors), the bank full. The default is float32, channels-last, everything at once, a fused optimiser, and
foreach averages: of what gives the same numbers it is the fastest here. The others are parameters of `training`:
`recompute` and `accumulate` for where memory is short, `bfloat16` for processors and GPUs with matrix units for it,
`compile` for GPUs. `accumulate 2` is no other way to the same numbers: its batch norms see 1 + 1 images at a time, so
it differs as a smaller batch does. The contrast is not compiled: it makes its gradient in its forward pass, some sets
at a time. What counts the bytes keeps torch from compiling.

"""


def main() -> None:
    """Measure and write the section."""
    torch.set_num_threads(1)
    runs = {name: made(change) for name, change in CHANGES.items() if name != "compile" or shutil.which("c++")}
    results = {name: first_step(run) for name, run in runs.items()}
    # What counts the bytes keeps torch from compiling.
    peaks = {name: peak_mib(run) for name, run in runs.items() if name != "compile"}
    taken_s = rounds({name: lambda run=run: train_step(run) for name, run in runs.items()}, num=ROUNDS)
    rows = []
    for name, (loss, gradient) in results.items():
        differs = (abs(loss / results["default"][0] - 1), distance(gradient, results["default"][1]))
        memory = f"{peaks[name] / peaks['default']:.2f}" if name in peaks else "not countable"
        shown = [f"{taken_s[name]:.2f} s", f"{taken_s[name] / taken_s['default']:.2f}", memory]
        rows.append([name, *shown, *(f"{value:.1e}" for value in differs), tolerated(name, differs)])
    head = ["option", "step", "of default: time", "memory", "loss differs by", "gradient by", "tolerated"]
    body = WORDS + table(head, rows) + "\nParts, the loop or the default as baseline:\n\n"
    body += parts_table({**optimisers(runs["default"]), **passes(runs["default"])})
    body += "\nThe most memory of tensors in a step at the paper's size (4 + 4 of 513 x 513, ResNet-101), counted:\n\n"
    write("options", "Options of a step", body + at_paper_size())


def tolerated(name: str, differs: tuple[float, float]) -> str:
    """Return the tolerances of loss and gradient, and whether they are kept."""
    if name not in TOLERANCES:
        return "another batch norm"
    loss, gradient = TOLERANCES[name]
    kept = differs[0] <= loss and differs[1] <= gradient
    return f"{loss:g}, {gradient:g}: {'yes' if kept else '**no**'}"


def at_paper_size() -> str:
    """Return the table of what saves memory where it is short."""
    row = paper_row("u2pl", 4)
    peaks = {name: step_cost(row | {"training": row["training"] | change}).peak_bytes for name, change in PAPER.items()}
    rows = [[name, f"{peak / 2**30:.1f}", f"{peak / peaks['default']:.2f}"] for name, peak in peaks.items()]
    return table(["option", "GiB", "of default"], rows)


def made(training: dict[str, Any]) -> Run:
    """Return the run of an option, halfway, its bank full; all have the same weights, images and features."""
    torch.manual_seed(0)
    row = paper_row("u2pl", 2)
    encoder = row["model"]["encoder"] | {"blocks": [3, 4, 6, 3]}
    small = {"queue_size": 3000, "queue_size_class_0": 5000, "anchor_threshold": ANCHOR_THRESHOLD}
    run = synthetic_run(
        row
        | {
            "model": row["model"] | {"encoder": encoder},
            "training": row["training"] | {"crop": 129} | training,
            "parameters": row["parameters"] | small,
        }
    )
    run.step = run.total_steps // 2
    memory: MemoryBank = run.method.contrast.memory  # type: ignore[assignment, union-attr]
    memory.features.copy_(functional.normalize(torch.randn(memory.features.shape), dim=1))
    memory.filled.copy_(memory.capacity)
    return run


def first_step(run: Run) -> tuple[float, Tensor]:
    """Do a step in which every loss is on; return its loss and the gradient of all parameters."""
    losses = train_step(run)
    assert all(loss > 0 for loss in losses.values()), losses
    gradient = [one.grad.flatten().clone() for one in run.method.parameters() if one.grad is not None]
    return float(torch.stack(list(losses.values())).sum()), torch.cat(gradient)


def distance(one: Tensor, other: Tensor) -> float:
    """Return the norm of the difference over the norm."""
    return float((one - other).norm() / other.norm())


def peak_mib(run: Run) -> float:
    """Return the most memory of tensors during a step."""
    with LiveBytes([*run.method.parameters(), *run.method.buffers(), *vars(run.batches(0)).values()]) as memory:
        train_step(run)
    return memory.peak / 2**20


Part = tuple[Callable[[], Any], Callable[[], Any]]
"""A part's own way and its baseline."""


def parts_table(parts: dict[str, Part]) -> str:
    """Return time and extra memory of each part beside its baseline's."""
    rows = []
    for name, (ours, baseline) in parts.items():
        taken_s = rounds({"ours": ours, "baseline": baseline}, num=7)
        mib = [extra_mib(one) for one in (ours, baseline)]
        times = [f"{1e3 * taken_s['ours']:.3g} ms", f"{1e3 * taken_s['baseline']:.3g} ms"]
        rows.append([name, *times, f"{taken_s['ours'] / taken_s['baseline']:.3g}", *(f"{one:.0f} MiB" for one in mib)])
    return table(["", "ours", "baseline", "of baseline", "extra memory", "the baseline's"], rows)


def extra_mib(act: Callable[[], Any]) -> float:
    """Return the most MiB of what a call makes."""
    with LiveBytes([]) as memory:
        made_ = act()
    del made_
    return memory.peak / 2**20


def optimisers(run: Run) -> dict[str, Part]:
    """Return the optimisers beside their loop, and the average of the teacher."""
    parameters = [one for one in run.method.parameters() if one.requires_grad]
    parts: dict[str, Part] = {}
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        settings: dict[str, Any] = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        loop = kind(parameters, lr=0.0, foreach=False, **settings)
        loop.step()  # from here on it has its state
        for way in ("foreach", "fused"):
            own = kind(parameters, lr=0.0, **{way: True}, **settings)
            own.step()
            parts[f"{kind.__name__}, {way}, beside a loop"] = (own.step, loop.step)
    own_, new = [[one.detach().clone() for one in parameters] for _ in range(2)]
    parts["teacher's average, foreach, beside a loop"] = (
        lambda: torch._foreach_lerp_(own_, new, 0.01),
        lambda: [one.mul_(0.99).add_(other, alpha=0.01) for one, other in zip(own_, new, strict=True)],
    )
    return parts


def passes(run: Run) -> dict[str, Part]:
    """Return the teacher's passes: inference mode, and without the heads that are not needed."""
    network, images = copy.deepcopy(run.method.teacher.net).eval(), run.batches(0).unlabelled  # type: ignore[operator]
    no_grad = torch.no_grad()(lambda: network.predict(images))
    inference = torch.inference_mode()(lambda: network.predict(images))
    all_heads = torch.no_grad()(lambda: network(images))
    return {
        "teacher under inference_mode, beside no_grad": (inference, no_grad),
        "teacher's logits alone, beside all heads": (no_grad, all_heads),
    }


if __name__ == "__main__":
    main()
