"""How learning rates and loss weights change as training goes on."""

from __future__ import annotations

import math


def poly(step: int, total_steps: int, *, power: float) -> float:
    """Return the factor on the learning rate of `step`, counted from 0: (1 - step / total)^power (0.9 in the paper)."""
    return (1 - step / total_steps) ** power


def sigmoid_ramp(fraction: float) -> float:
    """Return the weight exp(-5 (1 - x)²), x = min(fraction, 1): from 0.0067 to 1 (Laine & Aila, 2017).

    `fraction` is the share of the ramp that is done; it stays at 1 after its end.
    """
    return math.exp(-5 * (1 - min(max(fraction, 0.0), 1.0)) ** 2)
