"""What a step costs beside its bare networks, counted at the paper's sizes: `python -m tests.benchmarks.step`.

U2PL on 4 + 4 and on 16 + 16 images of 513 x 513, 21 classes, queues of 50,000 and 30,000: what its own part (losses,
mixing, entropy, percentile, masks, queues, contrast, average, optimiser) adds to the forward and backward passes of
ResNet-101. The same on this machine's processor, 4 + 4: all of it but the networks, whose outputs are drawn, is done
and timed. Then every method on 4 + 4. A pass is one forward and backward of one network on the labelled images, so a
forward alone is a third.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.commands.forecast import synthetic_run
from pipeline.models.segnet import Output
from pipeline.params import load_params, resolve_table
from pipeline.training.cost import unit_flop
from pipeline.training.memory import ACCELERATOR_BYTES, CPU_BYTES
from pipeline.training.setting import make_setting
from tests.benchmarks.counting import Counting, Tally, count, is_network
from tests.benchmarks.floor import Floor, measure
from tests.benchmarks.report import Figure, figures, rounds, table, write

PARAMS = Path(__file__).parents[2] / "params.yaml"
ROUNDS = 5
SHARE = 0.05
"""What a method may add to its networks' bytes and operations."""

LAUNCHES = f"""\
On a processor the contrast takes as many negatives and the entropy as many rows at a time as stay in a cache; a GPU
takes {ACCELERATOR_BYTES // CPU_BYTES} times as many negatives and whole images.

"""
METHODS = """
Every method, 4 + 4 images, as shares of its networks' passes. CCT's decoders, GCT's detector and PseudoSeg's attention
are networks and count with them:

"""
WHY = {
    "cct": "it perturbs the features anew for each of its decoders, maps of 256 channels at stride 4",
    "augseg": "of every image it computes all operations and keeps the one drawn, so that the host reads nothing",
}
"""Of the methods that add more: what it is."""


def main() -> None:
    """Count and write the section."""
    body = ""
    for num in (4, 16):
        body += f"U2PL, {num} + {num} images, float32, everything but the networks beside the networks:\n\n"
        body += figures(beside_the_networks(num)) + "\n"
    body += LAUNCHES
    body += "Time of all of it (4 + 4) on one thread, beside the least that the networks' passes can take:\n\n"
    body += figures([in_time(u2pl_counted(4), measure())])
    body += "\nWhere these bytes go (4 + 4), by the file that asks for them:\n\n" + by_file(u2pl_counted(4))
    body += METHODS + by_method()
    write("step", "A step beside its bare networks, counted", body)


def paper_row(method: str, num: int) -> dict[str, Any]:
    """Return a method's row with `num` labelled and as many unlabelled images."""
    params = load_params(PARAMS) | {"scale": "paper", "method": method}
    (row,) = resolve_table(params, "experiment")
    return row | {"training": row["training"] | {"labelled_batch": num, "unlabelled_batch": num}}


@cache
def u2pl_counted(num: int) -> Counting:
    """Return U2PL's step on `num` labelled and as many unlabelled images."""
    return count(paper_row("u2pl", num))


def split(counting: Counting) -> tuple[Tally, Tally]:
    """Return what the networks cost, and everything else."""
    return counting.total(is_network), counting.total(lambda file: not is_network(file))


def beside_the_networks(num: int) -> list[Figure]:
    """Return the figures of everything else in U2PL's step, with the networks' as their baseline."""
    row, (networks, rest) = paper_row("u2pl", num), split(u2pl_counted(num))
    with (
        patch("pipeline.training.memory.CPU_BYTES", ACCELERATOR_BYTES),
        patch("pipeline.training.entropy.BAND_ROWS", row["training"]["crop"]),
    ):
        _, on_gpu = split(count(row))
    aim = f"<= {SHARE}"
    return [
        Figure("bytes moved", rest.moved_bytes / 1e9, networks.moved_bytes / 1e9, aim=aim, unit="GB"),
        Figure("operations", rest.operations / 1e9, networks.operations / 1e9, aim=aim, unit="G"),
        Figure("launches on a processor", rest.launches, networks.launches),
        Figure("launches in a GPU's pieces", on_gpu.launches, networks.launches),
    ]


def by_file(counting: Counting) -> str:
    """Return the table of bytes by file, largest first."""
    networks = split(counting)[0]
    ours = [(file, tally) for file, tally in counting.by_file.items() if not is_network(file)]
    ours.sort(key=lambda pair: -pair[1].moved_bytes)
    rows = [
        [
            file,
            f"{tally.moved_bytes / 1e9:.2f} GB",
            f"{100 * tally.moved_bytes / networks.moved_bytes:.2f}",
            tally.launches,
        ]
        for file, tally in ours
    ]
    return table(["file", "bytes", "% of the networks'", "launches"], rows)


def in_time(counting: Counting, floor: Floor) -> Figure:
    """Return the processor time of everything but the networks, beside the networks' operations at this machine's rate.

    Its floor is what it was counted to move over the bandwidth.
    """
    networks, rest = split(counting)
    taken_s = rounds({"rest": everything_else(paper_row("u2pl", 4))}, num=ROUNDS)["rest"]
    least_s = networks.operations / floor.flop_s["float32"]
    name = "losses, mixing, contrast, average, optimiser"
    return Figure(name, taken_s, least_s, rest.moved_bytes / floor.bytes_s, aim=f"<= {SHARE}", unit="s")


def everything_else(row: dict[str, Any]) -> Callable[[], None]:
    """Return U2PL's step with networks that only hand out maps that were drawn before, of their shapes."""
    torch.manual_seed(0)
    run = synthetic_run(row)
    method, batch, progress = run.method, run.batches(0), run.progress
    method.contrast.memory.filled.copy_(method.contrast.memory.capacity)  # type: ignore[union-attr, operator]
    images = torch.cat([batch.labelled, batch.unlabelled])
    with torch.device("meta"):
        shapes = make_setting(run.values).build(representation=True)(torch.empty(images.shape))
    drawn = Output(*(None if one is None else maps(one.shape) for one in shapes))
    half = drawn.logits[len(batch.labelled) :]
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    method.student.forward = lambda *_, **__: Output(  # type: ignore[method-assign, assignment]
        *(None if one is None else one.detach().requires_grad_() for one in drawn)
    )
    method.teacher.observe, method.teacher.predict = (lambda _: drawn), (lambda _: half)  # type: ignore[method-assign]

    def step() -> None:
        losses = method.losses(batch, progress)
        torch.stack(list(losses.values())).sum().backward()
        run.optimiser.step()
        method.after_step(1)

    return step


def maps(shape: torch.Size) -> Tensor:
    """Draw channels-last maps, as networks return them; as logits they are sure enough for anchors."""
    return (3 * torch.randn(shape)).contiguous(memory_format=torch.channels_last)


def by_method() -> str:
    """Return the table of all methods, and what those add that add more than the share."""
    rows, above = [], []
    for method in sorted(path.stem for path in (PARAMS.parent / "pipeline" / "methods").glob("[a-z]*.py")):
        row = paper_row(method, 4)
        networks, rest = split(count(row))
        passes = networks.operations / unit_flop(row)
        shares = [getattr(rest, name) / getattr(networks, name) for name in ("moved_bytes", "operations")]
        sizes = [f"{passes:.2f}", f"{networks.operations / 1e12:.1f}", f"{networks.moved_bytes / 1e9:.0f}"]
        verdict = "yes" if max(shares) <= SHARE else "**no**"
        shown = [*sizes, *(f"{100 * share:.2f}" for share in shares), verdict]
        rows.append([method, *shown, networks.launches, rest.launches])
        if max(shares) > SHARE:
            above.append(f"* `{method}` stays above: {WHY.get(method, 'not looked into')}.\n")
    limit = f"<= {100 * SHARE:g} %"
    head = ["method", "passes", "TFLOP", "GB", "else: % of GB", "% of operations", limit, "launches", "else"]
    return table(head, rows) + "\n" + "".join(above)


if __name__ == "__main__":
    main()
