"""Decoded images by index, kept in memory up to a bound."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from pipeline.data.images import read_image, read_pair
from pipeline.data.layout import Pair

CACHE_BYTES = 2 * 1024**3
"""How much decoded data one list keeps in memory: 10,000 images of 256x192; larger lists keep their first part."""


class Samples:
    """A list of images, with masks where `masks`; `samples[i]` is (image (H, W, 3), mask (H, W) or None), uint8.

    Each file is decoded once as long as all decoded data fits in `cache_bytes`. Safe to use from several threads.
    """

    def __init__(
        self, pairs: Sequence[Pair], *, num_classes: int, masks: bool = True, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.pairs = list(pairs)
        self.num_classes = num_classes
        self.masks = masks
        self._free_bytes = cache_bytes
        self._kept: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        kept = self._kept.get(index)
        return self._keep(index, self._decode(self.pairs[index])) if kept is None else kept

    def presence(self, index: int) -> np.ndarray:
        """Return which classes the whole image shows, (C,) bool; all false where it has no mask, in a plain folder."""
        _, mask = self[index]
        if mask is None:
            return np.zeros(self.num_classes, dtype=bool)
        return np.bincount(mask.ravel(), minlength=256)[: self.num_classes] > 0

    def _decode(self, pair: Pair) -> tuple[np.ndarray, np.ndarray | None]:
        if self.masks and pair.mask is not None:
            return read_pair(pair, self.num_classes)
        return read_image(pair.image), None

    def _keep(self, index: int, decoded: tuple[np.ndarray, np.ndarray | None]) -> tuple[np.ndarray, np.ndarray | None]:
        size = sum(array.nbytes for array in decoded if array is not None)
        with self._lock:
            if index not in self._kept and size <= self._free_bytes:
                self._kept[index] = decoded
                self._free_bytes -= size
        return decoded
