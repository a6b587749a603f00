"""Pre-trained weights for the encoder, checked key by key."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.models.pretrained import prepared_file


def load_encoder(encoder: nn.Module, weights: str, *, blocks: tuple[int, ...]) -> None:
    """Load `torchvision` weights, or a state dict saved at a path, into a ResNet encoder.

    A state dict with the paper's deep stem has the keys `conv1.0, conv1.1, conv1.3, conv1.4, conv1.6, bn1`, one with a
    7x7 stem `conv1, bn1`. The ImageNet classifier (`fc.*`) is dropped. Nothing else may be missing, unexpected or of
    another shape: ValueError names such keys.
    """
    state = read_state(prepared_file(weights, {"blocks": blocks}) if weights == "torchvision" else Path(weights))
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = encoder.state_dict()
    # Checkpoints older than PyTorch 0.4.1 do not count batches; nothing reads that number where momentum is set.
    state = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")} | state
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "of another shape": sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape),
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {', '.join(keys)}" for kind, keys in problems.items() if keys)
        raise ValueError(f"model.weights {weights!r} does not fit the encoder (is model.encoder.stem right?): {found}")
    encoder.load_state_dict(state)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a plain state dict from `path`."""
    if not path.is_file():
        allowed = "null, 'torchvision', or the path of a state dict"
        raise ValueError(f"model.weights {str(path)!r} is no file; allowed: {allowed}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of bytes that are no state dict the unpickler makes any error
        raise ValueError(f"model.weights {str(path)!r} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"model.weights {str(path)!r} must hold a plain state dict: tensors by name")
    return state


def require(name: str, value: object, *, holds: bool, allowed: str) -> None:
    """Refuse a value of the `model` block, saying what is allowed."""
    if not holds:
        raise ValueError(f"model.{name} is {value!r}; allowed: {allowed}")
