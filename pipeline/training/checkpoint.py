"""Checkpoints: written whole, read back only by the cell they belong to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class ForeignCheckpointError(ValueError):
    """The checkpoint belongs to another cell."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never a part of either."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path, key: str | None = None, *, device: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint.

    Raises ValueError where the file is torn, ForeignCheckpointError where it was written by a cell other than `key`.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of bytes that are no checkpoint the unpickler makes any error
        raise ValueError(f"{path}: torn or no checkpoint ({error}); delete it to start the cell over") from error
    if key is not None and state.get("key") != key:
        raise ForeignCheckpointError(
            f"{path}: belongs to cell {state.get('key')}, not to {key}; delete it to start over"
        )
    return state
