"""What each way to save changes in speed, memory and result: `python -m tests.benchmarks.options`.

One U2PL step of ResNet-50 on 2 + 2 images of 129 x 129, one thread. Each option is measured in turns with the default
(float32, channels-last, everything at once); memory is that of all tensors alive at once. Losses and gradients of the
first step from the same seed are compared with the default's. Compiled are networks as `compile` does, and beside them
the contrast, where there is a compiler of C++; the first steps, which compile, are not in the figures.
"""

from __future__ import annotations

import copy
import shutil
from typing import Any

import torch
from torch import Tensor

from pipeline.forecast import LiveBytes, synthetic_run
from pipeline.training.engine import Run, train_step
from tests.benchmarks.report import Figure, figures, rounds, table, write
from tests.benchmarks.step import paper_row

ROUNDS = 3


def main() -> None:
    """Measure and write the section."""
    torch.set_num_threads(1)
    changes: dict[str, dict[str, Any]] = {
        "default": {},
        "contiguous": {"channels_last": False},
        "bfloat16": {"precision": "bfloat16"},
        "recompute": {"recompute": True},
        "accumulate 2": {"accumulate": 2},
    }
    if shutil.which("c++"):
        changes["compile"] = {"compile": True}
    runs = {name: made(training) for name, training in changes.items()}
    if shutil.which("c++"):
        runs["contrast compiled"] = made({})
        runs["contrast compiled"].method.contrast.compile()  # type: ignore[operator]
    results = {name: first_step(run) for name, run in runs.items()}
    # What counts the bytes keeps torch from compiling.
    peaks = {name: peak_mib(run) for name, run in runs.items() if "compile" not in name}
    taken_s = rounds({name: lambda run=run: train_step(run) for name, run in runs.items()}, num=ROUNDS)
    rows = []
    for name, (loss, gradient) in results.items():
        differs = [f"{abs(loss / results['default'][0] - 1):.1e}", f"{distance(gradient, results['default'][1]):.1e}"]
        memory = f"{peaks[name] / peaks['default']:.2f}" if name in peaks else ""
        rows.append([name, f"{taken_s[name]:.2f} s", f"{taken_s[name] / taken_s['default']:.2f}", memory, *differs])
    body = table(["option", "step", "of default: time", "memory", "loss differs by", "gradient by"], rows)
    body += "\nParts, the loop or the default as baseline:\n\n" + figures(
        [*optimisers(runs["default"]), *passes(runs["default"])]
    )
    write("options", "Options of a step", body)


def made(training: dict[str, Any]) -> Run:
    """Return the run of an option; all have the same weights and images."""
    torch.manual_seed(0)
    row = paper_row("u2pl", 2)
    encoder = row["model"]["encoder"] | {"blocks": [3, 4, 6, 3]}
    return synthetic_run(
        row
        | {
            "model": row["model"] | {"encoder": encoder},
            "training": row["training"] | {"crop": 129} | training,
            "parameters": row["parameters"] | {"queue_size": 3000, "queue_size_class_0": 5000},
        }
    )


def first_step(run: Run) -> tuple[float, Tensor]:
    """Do a step; return its loss and the gradient of all parameters."""
    losses = train_step(run)
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


def optimisers(run: Run) -> list[Figure]:
    """Compare the loop, foreach and fused, and the average of the teacher in a loop and as one."""
    parameters = [one for one in run.method.parameters() if one.requires_grad]
    lines = []
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        settings: dict[str, Any] = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
        made_ = {name: kind(parameters, lr=0.0, **settings, **way) for name, way in ways.items()}
        taken_s = rounds({name: one.step for name, one in made_.items()}, num=7)
        for name in ("foreach", "fused"):
            label = f"{kind.__name__}, {name}, beside a loop"
            lines.append(Figure(label, 1e3 * taken_s[name], 1e3 * taken_s["loop"], unit="ms"))
    own, new = [[one.detach().clone() for one in parameters] for _ in range(2)]
    average = {
        "loop": lambda: [one.mul_(0.99).add_(other, alpha=0.01) for one, other in zip(own, new, strict=True)],
        "foreach": lambda: torch._foreach_lerp_(own, new, 0.01),
    }
    taken_s = rounds(average, num=7)
    return [*lines, Figure("teacher's average, foreach", 1e3 * taken_s["foreach"], 1e3 * taken_s["loop"], unit="ms")]


def passes(run: Run) -> list[Figure]:
    """Compare the teacher's passes: inference mode, and without the heads that are not needed."""
    network, images = copy.deepcopy(run.method.teacher.net).eval(), run.batches(0).unlabelled  # type: ignore[operator]
    parts = {
        "no_grad": torch.no_grad()(lambda: network.predict(images)),
        "inference_mode": torch.inference_mode()(lambda: network.predict(images)),
        "all heads": torch.no_grad()(lambda: network(images)),
    }
    taken_s = rounds(parts, num=5)
    return [
        Figure("teacher under inference_mode, beside no_grad", taken_s["inference_mode"], taken_s["no_grad"], unit="s"),
        Figure("teacher's logits alone, beside all heads", taken_s["no_grad"], taken_s["all heads"], unit="s"),
    ]


if __name__ == "__main__":
    main()
