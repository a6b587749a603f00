"""The batches of a run, by step. Images stay 8-bit until the device, where they are normalised and padded."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment import Augmentation, draw_views, fill_image, fill_mask, place
from pipeline.data.batch import Batch
from pipeline.data.images import IGNORED
from pipeline.data.normalise import Normalise
from pipeline.data.order import LABELLED_VIEWS, UNLABELLED_VIEWS, Order
from pipeline.data.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How images are put into steps. `labelled` and `unlabelled` count the images of a step over all ranks.

    `reads` says what is read of the unlabelled images: `nothing`, so that a batch has none, the `images`, or their
    `classes` too, which fills `Batch.presence` from their masks. `workers` threads decode ahead of the training; they
    change no result. 0 decodes in the training thread: best on a CPU.
    """

    labelled: int
    unlabelled: int
    epoch_over: str
    seed: int
    rank: int = 0
    ranks: int = 1
    reads: str = "images"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.labelled % self.ranks or self.unlabelled % self.ranks:
            raise ValueError(
                f"a step takes {self.labelled} labelled and {self.unlabelled} unlabelled images;"
                f" both must be multiples of the {self.ranks} ranks"
            )


@dataclass(frozen=True)
class HostViews:
    """Augmented images on the host."""

    image: Tensor  # (B, H, W, 3) uint8
    mask: Tensor | None  # (B, H, W) uint8
    box: Tensor  # (B, 4) the part that is not padding: y0, y1, x0, x1
    padded: bool


class Batches:
    """`batches(step)` is the batch of any step, whatever was asked before: a function of seed, step and rank.

    The ranks' batches of a step, put in a row, are the single-rank batch.
    """

    def __init__(
        self,
        labelled: Samples,
        unlabelled: Samples,
        *,
        augmentation: Augmentation,
        loading: Loading,
        device: torch.device | str = "cpu",
    ) -> None:
        self.samples = (labelled, unlabelled)
        self.augmentation = augmentation
        self.loading = loading
        self._normalise = Normalise(device)
        self.order = Order(
            seed=loading.seed,
            num_labelled=len(labelled),
            num_unlabelled=len(unlabelled),
            labelled=loading.labelled,
            unlabelled=loading.unlabelled,
            epoch_over=loading.epoch_over,
        )
        self._ahead: dict[int, Future[tuple[HostViews, HostViews, Tensor]]] = {}
        # One thread each, since several of PyTorch's per worker would compete for the same cores.
        self._pool = (
            ThreadPoolExecutor(loading.workers, "decode", torch.set_num_threads, (1,)) if loading.workers else None
        )

    @property
    def steps_per_epoch(self) -> int:
        """How many steps one epoch has."""
        return self.order.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """Return this rank's part of step `step`, counted from 0."""
        labelled, unlabelled, presence = self._host(step) if self._pool is None else self._fetch(step, self._pool)
        image, _ = self._normalised(labelled)
        assert labelled.mask is not None
        mask = self._normalise.moved(labelled.mask).long()
        other, valid = self._normalised(unlabelled)
        if self.augmentation.pad_label != IGNORED:  # padding is background, as released: predicted and learnt as such
            valid = torch.ones_like(valid)
        return Batch(image, mask, other, valid, self._normalise.moved(presence))

    def close(self) -> None:
        """Stop the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, step: int, pool: ThreadPoolExecutor) -> tuple[HostViews, HostViews, Tensor]:
        wanted = range(step, step + 2 * self.loading.workers)
        for other in [known for known in self._ahead if known not in wanted]:
            self._ahead.pop(other).cancel()
        for future_step in wanted:
            if future_step not in self._ahead:
                self._ahead[future_step] = pool.submit(self._host, future_step)
        return self._ahead.pop(step).result()

    def _host(self, step: int) -> tuple[HostViews, HostViews, Tensor]:
        labelled = self._views(step, self.order.labelled_at(step), stream=LABELLED_VIEWS)
        indices = self.order.unlabelled_at(step)[: 0 if self.loading.reads == "nothing" else None]
        unlabelled = self._views(step, indices, stream=UNLABELLED_VIEWS)
        presence = np.zeros((len(unlabelled.image), self.samples[1].num_classes), dtype=bool)
        if self.loading.reads == "classes" and len(presence):
            presence = np.stack([self.samples[1].presence(index) for index in indices[self._mine(len(indices))]])
        return labelled, unlabelled, torch.from_numpy(presence)

    def _views(self, step: int, indices: np.ndarray, *, stream: int) -> HostViews:
        """Augment this rank's part of a step. Views are drawn for all ranks, so that they do not depend on it."""
        samples, masks = self.samples[stream == UNLABELLED_VIEWS], stream == LABELLED_VIEWS
        generator = np.random.default_rng([self.loading.seed, stream, step])
        mine = self._mine(len(indices))
        views = draw_views(self.augmentation, len(indices), generator=generator)[mine]
        shape = (len(views), self.augmentation.crop, self.augmentation.crop)
        image = torch.zeros((*shape, 3), dtype=torch.uint8)
        mask = np.full(shape, self.augmentation.pad_label, dtype=np.uint8) if masks else None
        boxes = []
        for row, (index, view) in enumerate(zip(indices[mine], views, strict=True)):
            pixels, ids = samples[index]
            placed = place(view, pixels.shape[:2], crop=self.augmentation.crop)
            fill_image(torch.from_numpy(pixels), placed, out=image[row])
            boxes.append(placed.box)
            if mask is not None:
                if ids is None:
                    raise ValueError(f"labelled image {samples.pairs[index].image} has no mask")
                fill_mask(ids, placed, out=mask[row])
        padded = any(box != (0, shape[1], 0, shape[2]) for box in boxes)
        box = torch.tensor(boxes).view(-1, 4)
        return HostViews(image, None if mask is None else torch.from_numpy(mask), box, padded)

    def _mine(self, num: int) -> slice:
        share = num // self.loading.ranks
        return slice(self.loading.rank * share, (self.loading.rank + 1) * share)

    def _normalised(self, views: HostViews) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W), exactly 0 (the mean colour) on padding, and where they are not padding."""
        image = self._normalise(views.image)
        if not views.padded:
            return image, image.new_ones((len(image), *image.shape[-2:]), dtype=torch.bool)
        top, bottom, left, right = self._normalise.moved(views.box).T[..., None, None]  # each (B, 1, 1)
        line = torch.arange(image.shape[-1], device=image.device)
        inside = ((line >= left) & (line < right)) & ((line[:, None] >= top) & (line[:, None] < bottom))  # (B, H, W)
        return image * inside[:, None], inside
