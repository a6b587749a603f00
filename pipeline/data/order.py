"""Which images each step sees: pure functions of the seed and the step, so that a resumed run needs no state.

An epoch is one pass over the unlabelled list, drop last, with the labelled list oversampled to its length once for
the whole run; or one pass over the labelled list alone, as released for SupOnly. Differs from the released code: no
image is repeated to fill the ranks, so that some epochs have one step less (649 instead of 650 at 183 labels).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

EPOCH_OVER = ("unlabelled", "labelled")
LABELLED, UNLABELLED, POOL, LABELLED_VIEWS, UNLABELLED_VIEWS = range(5)
"""Streams of random numbers; the last two are the augmentations' (loader)."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of `num_labelled` and `num_unlabelled` images, in steps of `labelled` and `unlabelled` of them.

    With 0 unlabelled images a step, an epoch over the unlabelled list counts it in steps of `labelled` images, so
    that a supervised run has as many steps as a semi-supervised one.
    """

    seed: int
    num_labelled: int
    num_unlabelled: int
    labelled: int
    unlabelled: int
    epoch_over: str

    def __post_init__(self) -> None:
        if self.epoch_over not in EPOCH_OVER:
            raise ValueError(f"epoch_over is {self.epoch_over!r}; allowed are {EPOCH_OVER}")
        if self.labelled < 1 or self.unlabelled < 0:
            raise ValueError(
                f"a step takes {self.labelled} labelled and {self.unlabelled} unlabelled images;"
                " allowed are 1 and more labelled, 0 and more unlabelled"
            )
        if self.num_labelled < 1:
            raise ValueError("the labelled list is empty; training needs at least one labelled image")
        if (self.unlabelled or self.epoch_over == "unlabelled") and self.num_unlabelled < self._stride:
            raise ValueError(
                f"the unlabelled list has {self.num_unlabelled} images, fewer than the {self._stride} of one step"
            )

    @property
    def steps_per_epoch(self) -> int:
        """How many steps one epoch has."""
        if self.epoch_over == "unlabelled":
            return self.num_unlabelled // self._stride
        return -(-self.num_labelled // self.labelled)

    def labelled_at(self, step: int) -> np.ndarray:
        """Return the indices of a step's labelled images, (labelled,)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self.epoch_over == "unlabelled":
            num = self.num_unlabelled * self.labelled // self._stride
            shuffled = _oversampled(self.seed, self.num_labelled, wanted=num)[
                _shuffled(self.seed, LABELLED, epoch=epoch, num=num)
            ]
        else:  # the last step is filled up from the beginning of the same epoch's order
            order = _shuffled(self.seed, LABELLED, epoch=epoch, num=self.num_labelled)
            shuffled = np.resize(order, self.steps_per_epoch * self.labelled)
        return shuffled[within * self.labelled : (within + 1) * self.labelled]

    def unlabelled_at(self, step: int) -> np.ndarray:
        """Return the indices of a step's unlabelled images, (unlabelled,)."""
        if not self.unlabelled:
            return np.empty(0, dtype=np.int64)
        epoch, within = divmod(step, self.num_unlabelled // self.unlabelled)
        order = _shuffled(self.seed, UNLABELLED, epoch=epoch, num=self.num_unlabelled)
        return order[within * self.unlabelled : (within + 1) * self.unlabelled]

    @property
    def _stride(self) -> int:
        return self.unlabelled or self.labelled


@lru_cache(maxsize=16)
def _shuffled(seed: int, stream: int, *, epoch: int, num: int) -> np.ndarray:
    return np.random.default_rng([seed, stream, epoch]).permutation(num)


@lru_cache(maxsize=4)
def _oversampled(seed: int, num: int, *, wanted: int) -> np.ndarray:
    """Repeat a list of `num` until it is long enough and draw `wanted` of it without replacement."""
    repeated = np.tile(np.arange(num), -(-wanted // num))
    return np.random.default_rng([seed, POOL]).permutation(repeated)[:wanted]
