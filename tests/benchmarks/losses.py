"""U2PL's own part of a step at VOC's sizes, beside a class-by-class version: `python -m tests.benchmarks.losses`.

4 + 4 images of 513 x 513, 21 classes, 256-d representations at 129 x 129, full queues: entropy, percentiles, masks,
queues and contrast, forward and backward, on one thread, maps channels-last as networks give them. The plain
implementation is written from the paper's formulas the way such code is usually written: NumPy percentiles, a loop over
classes, queues that are concatenated and cut. Both take turns in one run. What does not depend on chance is compared.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.commands.forecast import LiveBytes
from pipeline.methods.u2pl import Parameters
from pipeline.params import load_params, resolve_table
from pipeline.training.contrast import PixelContrast, class_means, contrast, info_nce
from pipeline.training.contrast_sets import Pixels, find_sets, rows
from pipeline.training.entropy import entropy, reliability
from pipeline.training.losses import sample_nearest
from pipeline.training.sampling import spread_members
from tests.benchmarks.counting import Counting
from tests.benchmarks.floor import measure
from tests.benchmarks.report import Figure, figures, rounds, write

ROUNDS = 7
CLASSES, CHANNELS, CROP, GRID, IMAGES = 21, 256, 513, 129, 4
SHARE = 0.2
PARAMS = Path(__file__).parents[2] / "params.yaml"
WORDS = f"""\
4 + 4 images of {CROP} x {CROP}, {CLASSES} classes, {CHANNELS}-d representations at {GRID} x {GRID}, full queues, one
thread, forward and backward. Of each class a step enqueues at most so many negatives, by default, or all, as in the
paper: each is measured, and the plain version beside it does the same. *extra memory* is the most bytes of tensors
alive at once less those alive before: maps, queues or bank; NumPy's copies are not counted. *floor* is the bytes that
ours reads and writes, counted, over the {{:.1f}} GB/s of a copy in the same run, and of memory the gradient of the
representations, which both return.

"""


class Step(NamedTuple):
    """What U2PL's part of a step is given; the labelled images come first."""

    logits: Tensor  # (4, 21, 513, 513), the teacher's on the mixed images
    labels: Tensor  # (8, 513, 513) int64
    probability: Tensor  # (8, 21, 129, 129), the teacher's
    student: Tensor  # (8, 256, 129, 129), wants a gradient
    teacher: Tensor  # (8, 256, 129, 129)


def main() -> None:
    """Compare, measure and write the section."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    hyper, step = parameters(), make_step()
    same = same_numbers(hyper, step) + same_queues(hyper, step) + same_bank(hyper, step)
    bounds = {
        f"at most {hyper.max_enqueue_per_class} a class enqueued": hyper,
        "everything enqueued": replace(hyper, max_enqueue_per_class=None),
    }
    pairs = {name: (Ours(bound), Naive(bound)) for name, bound in bounds.items()}
    takes = {(name, part): lambda part=part: part(step) for name, pair in pairs.items() for part in pair}
    taken_s, floor = rounds(takes, num=ROUNDS), measure()
    lines = []
    for name, (ours, plain) in pairs.items():
        with Counting() as counting:
            ours(step)
        least_s = counting.total(lambda _: True).moved_bytes / floor.bytes_s
        took_s, least_mib = (taken_s[name, ours], taken_s[name, plain]), step.student.nbytes / 2**20
        lines.append(Figure(f"processor time, {name}", *took_s, least_s, aim="<= 0.1", unit="s"))
        mib = (extra_mib(part, step) for part in (ours, plain))
        lines.append(Figure(f"extra memory, {name}", *mib, least_mib, aim="<= 0.25", unit="MiB"))
        lines.append(Figure(f"loss, {name}", statistics.fmean(ours.seen), statistics.fmean(plain.seen)))
    body = (
        WORDS.format(floor.bytes_s / 1e9) + figures(lines) + "\nWhat does not depend on chance is the same:\n\n" + same
    )
    write("losses", "U2PL's own part of a step, beside a class-by-class version", body)


def parameters() -> Parameters:
    """Return U2PL's parameters at the paper's scale."""
    params = load_params(PARAMS) | {"scale": "paper", "method": "u2pl"}
    (row,) = resolve_table(params, "experiment")
    return Parameters(**row["parameters"])


def make_step() -> Step:
    """Draw logits that are sure in the middle of regions, as a trained teacher's are, and labels that mostly agree."""
    regions = torch.randint(CLASSES, (2 * IMAGES, 9, 9))
    labels = sample_nearest(regions, (CROP, CROP))
    coarse = 6.0 * functional.one_hot(regions, CLASSES).permute(0, 3, 1, 2) + torch.randn(2 * IMAGES, CLASSES, 9, 9)
    logits = functional.interpolate(coarse, (GRID, GRID), mode="bilinear", align_corners=True)
    full = functional.interpolate(logits[IMAGES:], (CROP, CROP), mode="bilinear", align_corners=True)
    shape = (2 * IMAGES, CHANNELS, GRID, GRID)
    maps = (full, logits.softmax(dim=1), torch.randn(shape), torch.randn(shape))
    full, probability, student, teacher = (one.contiguous(memory_format=torch.channels_last) for one in maps)
    return Step(full, labels, probability, student.requires_grad_(), teacher)


def describe(step: Step) -> Pixels:
    """Return what our contrast is told, as `pipeline.methods.u2pl` does."""
    pseudo = step.labels[IMAGES:]
    entropies = torch.cat([entropy(image) for image in step.logits.split(1)])
    found = reliability(entropies, pseudo != 255, share=SHARE)
    at_grid = sample_nearest(step.labels, (GRID, GRID))
    known = at_grid[:IMAGES] != 255
    reliable, unreliable = (sample_nearest(mask, (GRID, GRID)) for mask in (found.reliable, found.unreliable))
    return Pixels(
        at_grid, step.probability, torch.cat([known, reliable]), torch.cat([known, unreliable]), num_labelled=IMAGES
    )


def extra_mib(part: Ours | Naive, step: Step) -> float:
    """Return the most MiB of tensors alive at once less those alive before. NumPy's copies are not counted."""
    with LiveBytes([*step, *part.kept]) as memory:
        before = memory.live
        part(step)
    return (memory.peak - before) / 2**20


class Ours:
    """The project's implementation, with full queues."""

    def __init__(self, hyper: Parameters) -> None:
        self.contrast = PixelContrast(hyper, num_classes=CLASSES, channels=CHANNELS)
        self.seen: list[float] = []
        memory = self.contrast.memory
        assert memory is not None
        memory.features.copy_(functional.normalize(torch.randn(memory.features.shape), dim=1))
        memory.filled.copy_(memory.capacity)

    @property
    def kept(self) -> list[Tensor]:
        """What lives from step to step."""
        return list(self.contrast.buffers())

    def __call__(self, step: Step) -> None:
        """Do the forward and backward pass."""
        loss = self.contrast(step.student, step.teacher, describe(step))
        loss.backward()
        self.seen.append(loss.item())
        step.student.grad = None


class Naive:
    """Class by class, with NumPy's percentiles and queues that are concatenated and cut."""

    def __init__(self, hyper: Parameters) -> None:
        self.hyper = hyper
        self.seen: list[float] = []
        self.sizes = [hyper.queue_size_class_0] + [hyper.queue_size] * (CLASSES - 1)
        self.queues = [torch.randn(size, CHANNELS) for size in self.sizes]

    @property
    def kept(self) -> list[Tensor]:
        """What lives from step to step."""
        return self.queues

    def __call__(self, step: Step) -> None:
        """Do the forward and backward pass."""
        anchors, negatives, student, teacher = self.sets(step)
        for index, mask in enumerate(negatives):
            keys = teacher[self.bounded(mask)].detach().clone()
            self.queues[index] = torch.cat([self.queues[index], keys])[-self.sizes[index] :].clone()
        loss = student.new_zeros(())
        for index, mask in enumerate(anchors):
            pool = student[mask]
            if len(pool):
                prototype = teacher[mask].mean(dim=0, keepdim=True)
                loss = loss + self.contrast(pool, prototype, self.queues[index])
        (loss / CLASSES).backward()
        self.seen.append(loss.item() / CLASSES)
        step.student.grad = None

    def bounded(self, mask: Tensor) -> Tensor:
        """Return which pixels of a class's negatives are enqueued: any, where there are more than the bound."""
        members, bound = mask.nonzero()[:, 0], self.hyper.max_enqueue_per_class
        return members if bound is None else members[torch.randperm(len(members))[:bound]]

    def sets(self, step: Step) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
        """Return each class's anchors and negatives (n,) bool, and both representations as rows (n, D)."""
        hyper, labels = self.hyper, step.labels[IMAGES:]
        reliable, unreliable = naive_masks(step.logits, labels)
        to_grid = lambda mask: functional.interpolate(mask[:, None].float(), (GRID, GRID), mode="nearest")[:, 0]  # noqa: E731
        grid = to_grid(step.labels).long().flatten()
        known = grid.view(2 * IMAGES, -1)[:IMAGES].flatten() != 255
        anchorable = torch.cat([known, to_grid(reliable).flatten() > 0])
        negatable = torch.cat([known, to_grid(unreliable).flatten() > 0])
        probability = step.probability.permute(0, 2, 3, 1).reshape(-1, CLASSES)
        order = torch.sort(probability, dim=1, descending=True, stable=True).indices
        is_labelled = torch.arange(len(grid)) < len(known)
        anchors, negatives = [], []
        for index in range(CLASSES):
            anchors.append((grid == index) & anchorable & (probability[:, index] > hyper.anchor_threshold))
            likely = (order[:, : hyper.rank_low] == index).any(dim=1)
            ranked = (order[:, hyper.rank_low : hyper.rank_high] == index).any(dim=1)
            chosen = torch.where(is_labelled, (grid != index) & likely, ranked)
            negatives.append(chosen & negatable)
        as_rows = [maps.permute(0, 2, 3, 1).reshape(-1, CHANNELS) for maps in (step.student, step.teacher)]
        return anchors, negatives, as_rows[0], as_rows[1]

    def contrast(self, pool: Tensor, prototype: Tensor, queue: Tensor) -> Tensor:
        """Return one class's loss: the positive is class 0 of a cross-entropy over 1 + N similarities (Eq. 4)."""
        num, others = self.hyper.num_anchors, self.hyper.num_negatives
        anchors = pool[torch.randint(len(pool), (num,))]
        negatives = queue[torch.randint(len(queue), (num * others,))].view(num, others, CHANNELS)
        compared = torch.cat([prototype.expand(num, 1, -1), negatives], dim=1)  # (M, 1 + N, D)
        similarity = functional.cosine_similarity(anchors[:, None], compared, dim=2) / self.hyper.temperature
        return functional.cross_entropy(similarity, torch.zeros(num, dtype=torch.long))


def naive_masks(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return reliable and unreliable pixels (B, H, W); each mask asks NumPy for its own percentile."""
    probability = functional.softmax(logits, dim=1)
    entropies = -(probability * torch.log(probability + 1e-10)).sum(dim=1)
    masks = []
    for keep_low in (True, False):
        threshold = np.percentile(entropies[labels != 255].numpy().flatten(), 100 * (1 - SHARE))
        masks.append((entropies < threshold) if keep_low else (entropies > threshold))
    return masks[0] & (labels != 255), masks[1] & (labels != 255)


def same_numbers(hyper: Parameters, step: Step) -> str:
    """Compare masks, prototypes, and loss and gradient of given anchors and negatives."""
    anchors, negatives, _, teacher = Naive(hyper).sets(step)
    found = find_sets(describe(step), hyper)
    said = []
    for name, left, right in (("anchors", found.anchors, anchors), ("negatives", found.negatives, negatives)):
        differing = (left != torch.stack(right)).sum().item()
        said.append(f"{name}: {differing} of {left.numel():,} pairs of pixel and class differ")
    prototypes = class_means(found.anchors, rows(step.teacher))
    filled = [index for index, mask in enumerate(anchors) if mask.any()]
    expected = torch.stack([teacher[anchors[index]].mean(dim=0) for index in filled])
    said.append(f"prototypes: largest difference {(prototypes[filled] - expected).abs().max().item():.1e}")
    drawn, others = (
        torch.randn(1, 50, CHANNELS).requires_grad_(),
        functional.normalize(torch.randn(1, 50, 256, CHANNELS), dim=3),
    )
    chosen = torch.arange(others[0, :, :, 0].numel()).view(1, 50, 256)
    unit = functional.normalize(drawn, dim=2) / hyper.temperature
    mine = contrast(
        unit,
        functional.normalize(expected[:1], dim=1),
        features=others.view(-1, CHANNELS),
        drawn=chosen,
        formula=info_nce,
    )
    compared = torch.cat([expected[:1].expand(50, 1, -1), others[0]], dim=1)
    similarity = functional.cosine_similarity(drawn[0][:, None], compared, dim=2) / hyper.temperature
    plain = functional.cross_entropy(similarity, torch.zeros(50, dtype=torch.long))
    said.append(f"loss of the same anchors and negatives: {mine.item():.6f} and {plain.item():.6f}")
    gradient, expected_ = (torch.autograd.grad(loss.sum(), drawn)[0] for loss in (mine, plain))
    differs = (gradient - expected_).norm() / expected_.norm()
    said.append(f"its gradient by the anchors: the difference's norm is {differs:.1e} of the gradient's")
    return "\n".join(f"* {line}" for line in said) + "\n"


def same_queues(hyper: Parameters, step: Step) -> str:
    """Compare what both enqueue where nothing bounds the inflow: the same features, in the same order."""
    contrast = PixelContrast(
        replace(hyper, max_enqueue_per_class=None, queue_dtype="float32"), num_classes=CLASSES, channels=CHANNELS
    )
    _, negatives, _, teacher = Naive(hyper).sets(step)
    memory = contrast.memory
    assert memory is not None
    chosen, counts = spread_members(torch.stack(negatives), contrast.num_enqueued)
    memory.enqueue(rows(step.teacher), chosen, counts=counts)
    largest = 0.0
    for index, mask in enumerate(negatives):
        first, num = int(memory.offset[index]), int(memory.filled[index])
        expected = functional.normalize(teacher[mask], dim=1)[:num]
        largest = max(largest, (memory.features[first : first + num] - expected).abs().max().item())
    return f"* queues: {int(memory.filled.sum()):,} features enqueued, largest difference {largest:.1e}\n"


def same_bank(hyper: Parameters, step: Step) -> str:
    """Compare loss and gradient of a bank in half precision with those of the same draws from one in float32."""
    found = []
    for dtype in (hyper.queue_dtype, "float32"):
        torch.manual_seed(1)
        ours = Ours(replace(hyper, queue_dtype=dtype))
        loss = ours.contrast(step.student, step.teacher, describe(step))
        found.append((loss.item(), torch.autograd.grad(loss, step.student)[0]))
    (loss, gradient), (exact, expected) = found
    differs = (
        f"loss differs by {abs(loss / exact - 1):.1e}, gradient by {(gradient - expected).norm() / expected.norm():.1e}"
    )
    return f"* bank in {hyper.queue_dtype} instead of float32: {differs}\n"


if __name__ == "__main__":
    main()
